//! The U-Net of a plan: describe, init, forward, bench; and nnU-Net's checkpoints: import, export.

mod cli;

use artifact::model::Model;
use artifact::plan::Plan;
use cli::Task;
use stage::Io;
use std::process::ExitCode;

const IO: &[Io] = &[
    Io::reads::<Plan>("--plan"),
    Io::foreign("reads", "--weights", "npz"),
    Io::foreign("reads", "--image", "npy"),
    Io::foreign("reads", "--checkpoint", "pth"),
    Io::reads::<Model>("export --model"),
    Io::foreign("reads", "--plans", "json"),
    Io::foreign("reads", "--dataset-json", "json"),
    Io::foreign("writes", "init --out", "npz"),
    Io::foreign("writes", "forward --out", "npy"),
    Io::foreign("writes", "import --out", "npz"),
    Io::writes::<Model>("import --model"),
    Io::foreign("writes", "import --extract", "json"),
    Io::foreign("writes", "export --out", "pth"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &cli::Args, run| match &args.command {
        Task::Describe(args) => cli::describe(args, run),
        Task::Init(args) => cli::init(args, run),
        Task::Forward(args) => cli::forward(args, run),
        Task::Bench(args) => cli::bench(args, run),
        Task::Import(args) => cli::import(args, run),
        Task::Export(args) => cli::export(args, run),
    })
}
