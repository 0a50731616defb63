//! `nnu-plan`: fingerprint and recipe to plan.toml and splits.toml; nnU-Net's plans in and out.

mod args;
mod tasks;

use args::{Args, Task};
use artifact::fingerprint::Fingerprint;
use artifact::plan::Plan;
use artifact::splits::Splits;
use stage::Io;
use std::process::ExitCode;

const IO: [Io; 10] = [
    Io::reads::<Fingerprint>("--fingerprint"),
    Io::foreign("reads", "--fingerprint", "nnU-Net dataset_fingerprint.json"),
    Io::foreign("reads", "--dataset-json", "nnU-Net dataset.json"),
    Io::foreign("reads", "--recipe", "recipe"),
    Io::writes::<Plan>("--out"),
    Io::writes::<Splits>("--out/../splits.toml"),
    Io::reads::<Plan>("export --plan"),
    Io::foreign("writes", "export --out", "nnU-Net plans.json"),
    Io::foreign("reads", "import --plans", "nnU-Net plans.json"),
    Io::writes::<Plan>("import --out"),
];

fn main() -> ExitCode {
    stage::main(&IO, |args: &Args, run| match &args.task {
        None => tasks::plan(args, run),
        Some(Task::Export(args)) => tasks::export(args, run),
        Some(Task::Import(args)) => tasks::import(args, run),
    })
}
