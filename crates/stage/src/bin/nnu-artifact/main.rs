//! Looks at the files between stages: show, verify, diff.

mod array;
mod diff;
mod show;
mod tree;
mod verify;

use clap::{Parser, Subcommand};
use stage::{Common, Files, Io};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show, verify and compare the files that stages hand to each other, whoever wrote them.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-artifact",
    after_help = "\
Example:
  nnu-artifact verify cases/3d_fullres && nnu-artifact diff --abs 1e-5 run_a/ run_b/"
)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Task {
    /// What a record, an array (.npy, .npz) or an image (.nii, …) holds
    Show {
        /// File to look at
        path: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Hold records and their arrays against the specification; one line per fault, exit code 3 if there is any
    Verify {
        /// Records, arrays, images, or folders with such at any depth
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Compare two files or folders; one line per difference, exit code 1 if there is any
    Diff(diff::Args),
}

impl stage::Command for Args {
    const STAGE: &'static str = "artifact";
    const REVISIONS: &'static [(&'static str, u32)] = &[];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        match &self.command {
            Task::Show { common, .. } | Task::Verify { common, .. } => common,
            Task::Diff(args) => &args.common,
        }
    }

    /// Nothing is written.
    fn files(&self) -> Files {
        Files::default()
    }
}

const IO: &[Io] = &[Io::foreign("reads", "PATH", "records of every kind, .npy, .npz, NIfTI")];

fn main() -> ExitCode {
    stage::main(IO, |args: &Args, run| match &args.command {
        Task::Show { path, .. } => stage::print(show::show(path)?),
        Task::Verify { paths, .. } => verify::verify(paths, run),
        Task::Diff(args) => diff::diff(args),
    })
}
