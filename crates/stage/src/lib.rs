//! How a stage behaves as a process: flags, exit codes, log, progress, signals, seeds.
//!
//! A stage's `main` is `stage::main(IO, |args: &Args, run| …)`; everything that the binaries have in common is here,
//! once. This crate knows nothing of images, plans or networks.

mod args;
mod arguments;
mod contain;
mod digits;
mod error;
mod files;
pub mod memory;
mod outputs;
pub mod picture;
mod progress;
mod rng;
mod run;
mod say;
mod shown;
mod signal;
pub mod threads;

pub use args::{Common, Io, Seed};
pub use contain::contain;
pub use digits::digits;
pub use error::{Error, Exit, Result};
pub use files::{CaseFiles, Files};
pub use outputs::{Form, Outputs, Standing};
pub use progress::Progress;
pub use rng::{rng, word};
pub use run::{Command, Run, main};
pub use say::{print, print_file};
pub use shown::Shown;
pub use version::commit;
