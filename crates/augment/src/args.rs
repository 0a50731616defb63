//! The command line of `nnu-augment`.

use clap::Parser;
use stage::{Command, Common, Files, Io, Seed};
use std::path::PathBuf;

/// Draws training patches from preprocessed cases and augments them: a spool of batches, or a sheet to look at.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-augment",
    after_help = "Example:\n  nnu-augment --cases cases/3d_fullres --plan plan.toml --configuration 3d_fullres \
                  --fold 0 --preview sheet.png"
)]
pub struct Args {
    /// Folder of preprocessed cases, CASE/case.toml
    #[arg(long, value_name = "DIR")]
    pub cases: PathBuf,
    /// Folder of the first stage's predictions, CASE/previous.toml; may be given several times, each case is taken from
    /// the first folder that has it
    #[arg(long, value_name = "DIR")]
    pub previous: Vec<PathBuf>,
    /// Plan
    #[arg(long, value_name = "FILE")]
    pub plan: PathBuf,
    /// Splits [default: splits.toml beside the plan]
    #[arg(long, value_name = "FILE")]
    pub splits: Option<PathBuf>,
    /// Configuration of the plan, such as 3d_fullres
    #[arg(long, value_name = "NAME")]
    pub configuration: String,
    /// Fold whose training cases are drawn from
    #[arg(long, value_name = "K")]
    pub fold: usize,
    /// Batches of the spool
    #[arg(long, value_name = "N", requires = "out")]
    pub batches: Option<usize>,
    /// Folder of the spool, NNNNNN/batch.toml
    #[arg(long, value_name = "DIR", requires = "batches", required_unless_present = "preview")]
    pub out: Option<PathBuf>,
    /// Picture of patches before and after augmentation
    #[arg(long, value_name = "PNG")]
    pub preview: Option<PathBuf>,
    /// Seed.
    #[command(flatten)]
    pub seed: Seed,
    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

impl Args {
    /// The splits file: as given, or beside the plan.
    pub fn splits_path(&self) -> PathBuf {
        self.splits.clone().unwrap_or_else(|| self.plan.with_file_name("splits.toml"))
    }
}

impl Command for Args {
    const STAGE: &'static str = "augment";
    const REVISIONS: &'static [(&'static str, u32)] = &[("augment", augment::REVISION)];
    const COMMIT: &'static str = stage::commit!();
    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        Files::default()
            .reads("--cases", [&self.cases])
            .reads("--previous", &self.previous)
            .reads("--plan", [&self.plan])
            .reads("--splits", [self.splits_path()])
            .folder("--out", &self.out)
            .file("--preview", &self.preview)
    }
}

/// What this stage reads and writes.
pub const IO: &[Io] = &[
    Io::reads::<artifact::plan::Plan>("--plan"),
    Io::reads::<artifact::splits::Splits>("--splits"),
    Io::reads::<artifact::case::Case>("--cases"),
    Io::reads::<artifact::previous::Previous>("--previous"),
    Io::writes::<artifact::batch::Batch>("--out"),
    Io::foreign("writes", "--preview", "png"),
];
