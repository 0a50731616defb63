//! Evaluates predictions, averages them, selects among configurations, finds and applies postprocessing.

mod cli;

use artifact::model::Model;
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Prediction;
use artifact::selection::Selection;
use artifact::splits::Splits;
use artifact::summary::Summary;
use stage::Io;
use std::process::ExitCode;

const IO: &[Io] = &[
    Io::reads::<Prediction>("--predictions"),
    Io::foreign("reads", "--predictions", "NIfTI label maps"),
    Io::foreign("reads", "--labels", "NIfTI label maps"),
    Io::foreign("reads", "--images", "NIfTI images"),
    Io::reads::<Plan>("--plan"),
    Io::reads::<Splits>("--splits"),
    Io::reads::<Prediction>("select --candidate"),
    Io::reads::<Model>("select --models"),
    Io::reads::<Postprocessing>("--postprocessing"),
    Io::writes::<Summary>("evaluate --out"),
    Io::writes::<Postprocessing>("fit --out"),
    Io::writes::<Prediction>("apply --out"),
    Io::writes::<Prediction>("ensemble --out"),
    Io::writes::<Selection>("select --out"),
    Io::foreign("writes", "evaluate --overlays", "PNG"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &cli::Args, run| match &args.command {
        cli::Task::Evaluate(args) => cli::evaluate::run(args, run),
        cli::Task::Ensemble(args) => cli::ensemble::run(args, run),
        cli::Task::Select(args) => cli::select::run(args, run),
        cli::Task::Fit(args) => cli::fit::run(args, run),
        cli::Task::Apply(args) => cli::apply::run(args, run),
    })
}
