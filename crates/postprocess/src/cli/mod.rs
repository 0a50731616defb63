//! The command line, and what its three tasks share.

pub mod apply;
pub mod evaluate;
pub mod fit;

use clap::{Parser, Subcommand};
use rayon::prelude::*;
use stage::{Common, Error, Result, Run};

/// Score predictions, decide on postprocessing, and apply it.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-postprocess",
    version,
    after_help = "\
Example:
  nnu-postprocess evaluate --predictions predictions/ --labels Task04/labelsTr --out summary.toml"
)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Score predictions against labels: Dice, IoU, voxel counts, volumes; a table on stdout
    Evaluate(evaluate::Args),
    /// Decide from the training labels (and cross-validated predictions) which classes keep their largest component only
    Fit(fit::Args),
    /// Apply what `fit` decided to predictions
    Apply(apply::Args),
}

impl stage::Command for Args {
    const STAGE: &'static str = "postprocess";

    fn common(&self) -> &Common {
        match &self.command {
            Task::Evaluate(args) => &args.common,
            Task::Fit(args) => &args.common,
            Task::Apply(args) => &args.common,
        }
    }
}

/// Runs `work` on every case, in parallel; a failed case doesn't stop the others. Results in the order of `cases`.
///
/// # Errors
/// If any failed: each is reported; the last line counts them.
fn each_case<C: Sync, R: Send>(
    run: &Run,
    doing: &str,
    cases: &[C],
    work: impl Fn(&C) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let progress = run.progress(doing, cases.len());
    let results: Vec<Result<R>> = cases
        .par_iter()
        .map(|case| {
            run.check_stop()?;
            let result = work(case);
            progress.add(1);
            result
        })
        .collect();
    drop(progress);
    run.check_stop()?;
    let failed = results.iter().filter(|r| r.is_err()).count();
    if failed < 2 {
        return results.into_iter().collect();
    }
    let errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    for error in &errors {
        run.report(error);
    }
    let mut last = Error::failed(format!("{failed} of {} cases failed", cases.len()));
    last.exit = errors[0].exit;
    Err(last)
}
