//! The U-Net of a plan: describe, init, forward, bench.

mod cli;

use artifact::plan::Plan;
use cli::Task;
use stage::Io;
use std::process::ExitCode;

const IO: &[Io] = &[
    Io::reads::<Plan>("--plan"),
    Io::foreign("reads", "--weights", "npz"),
    Io::foreign("reads", "--image", "npy"),
    Io::foreign("writes", "init --out", "npz"),
    Io::foreign("writes", "forward --out", "npy"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &cli::Args, run| match &args.command {
        Task::Describe(args) => cli::describe(args, run),
        Task::Init(args) => cli::init(args, run),
        Task::Forward(args) => cli::forward(args, run),
        Task::Bench(args) => cli::bench(args, run),
    })
}
