//! Evaluates predictions, finds and applies postprocessing.

mod cli;

use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Prediction;
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
    Io::reads::<Splits>("evaluate --splits"),
    Io::reads::<Postprocessing>("--postprocessing"),
    Io::writes::<Summary>("evaluate --out"),
    Io::writes::<Postprocessing>("fit --out"),
    Io::writes::<Prediction>("apply --out"),
    Io::foreign("writes", "evaluate --overlays", "PNG"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &cli::Args, run| match &args.command {
        cli::Task::Evaluate(args) => cli::evaluate::run(args, run),
        cli::Task::Fit(args) => cli::fit::run(args, run),
        cli::Task::Apply(args) => cli::apply::run(args, run),
    })
}
