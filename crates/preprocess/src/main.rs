//! `nnu-preprocess`: a data set's cases to arrays for one configuration of the plan.

mod budget;
mod cases;

use artifact::case::Case;
use artifact::plan::Plan;
use clap::Parser;
use stage::{Command, Common, Files, Io};
use std::path::PathBuf;
use std::process::ExitCode;

/// Crops, resamples and normalises the cases of a data set for one configuration of the plan
#[derive(Debug, Parser)]
#[command(name = "nnu-preprocess", after_help = EXAMPLE)]
struct Args {
    /// Folder with dataset.json and the images
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// What nnu-plan decided
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Name of a configuration in the plan, such as 3d_fullres
    #[arg(long, value_name = "NAME")]
    configuration: String,
    /// Only this case, test cases included; may be repeated [default: all training cases]
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
    /// Folder for the cases: writes DIR/CASE/case.toml and its arrays
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Memory that cases in work together may take; a single larger case is still done, alone
    #[arg(long, value_name = "GIB", default_value_t = 4.0)]
    memory: f64,
    #[command(flatten)]
    common: Common,
}

const EXAMPLE: &str = "Example:\n  nnu-preprocess --dataset data/Task04_Hippocampus --plan work/plan.toml \\\n    --configuration 3d_fullres --out work/cases/3d_fullres";

const IO: [Io; 3] = [
    Io::foreign("reads", "--dataset", "dataset"),
    Io::reads::<Plan>("--plan"),
    Io::writes::<Case>("--out/CASE/case.toml"),
];

impl Command for Args {
    const STAGE: &'static str = "preprocess";
    const REVISIONS: &'static [(&'static str, u32)] = &[("preprocess", preprocess::REVISION)];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        Files::default()
            .reads("--dataset", [&self.dataset])
            .reads("--plan", [&self.plan])
            .folder("--out", [&self.out])
    }
}

fn main() -> ExitCode {
    stage::main(&IO, cases::run)
}
