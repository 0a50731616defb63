//! Flags that every binary has.

use clap::Args;
use std::fmt;

/// Flags of every stage; put it into the stage's own arguments with `#[command(flatten)]`.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Threads to compute with, at most 1024 [default: all cores]; never changes the results
    #[arg(long, value_name = "N", help_heading = "Common options")]
    pub threads: Option<usize>,
    /// Do it again even if the output is up to date
    #[arg(long, help_heading = "Common options")]
    pub force: bool,
    /// Say nothing but warnings and errors
    #[arg(short, long, help_heading = "Common options", conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, help_heading = "Common options")]
    pub verbose: bool,
    /// Print which kinds of file this stage reads and writes, by flag, and exit
    #[arg(long, help_heading = "Common options")]
    pub io: bool,
}

/// `--seed`, for stages that draw random numbers.
#[derive(Debug, Clone, Copy, Args)]
pub struct Seed {
    /// Seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Common options")]
    pub seed: u64,
}

/// One line of `--io`.
#[derive(Debug, Clone, Copy)]
pub struct Io {
    /// `reads` or `writes`.
    pub direction: &'static str,
    /// The flag that names the file.
    pub flag: &'static str,
    /// Kind of record, or a description of foreign files.
    pub kind: &'static str,
    /// Version of the kind; 0 for foreign files.
    pub version: u32,
}

impl Io {
    /// A record that is read.
    pub const fn reads<T: artifact::Kind>(flag: &'static str) -> Self {
        Self { direction: "reads", flag, kind: T::KIND, version: T::VERSION }
    }

    /// A record that is written.
    pub const fn writes<T: artifact::Kind>(flag: &'static str) -> Self {
        Self { direction: "writes", flag, kind: T::KIND, version: T::VERSION }
    }

    /// A file of no kind of ours, such as NIfTI.
    pub const fn foreign(direction: &'static str, flag: &'static str, what: &'static str) -> Self {
        Self { direction, flag, kind: what, version: 0 }
    }
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.direction, self.flag, self.kind)?;
        if self.version == 0 { Ok(()) } else { write!(f, " {}", self.version) }
    }
}
