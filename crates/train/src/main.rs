//! `nnu-train`: see [`train`].

use artifact::Commit;
use artifact::batch::Batch;
use artifact::case::Case;
use artifact::model::{self, Model, ModelInfo};
use artifact::plan::Plan;
use artifact::previous::Previous;
use artifact::splits::Splits;
use clap::Parser;
use net::DeviceArgs;
use stage::{Command, Common, Error, Files, Io, Run, Seed, Standing};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use train::{Inputs, Request, Trainer, checkpoint};

/// Train one fold of one configuration; killed or stopped, the same command continues.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-train",
    after_help = "Example:\n  nnu-train --cases cases/3d_fullres --plan plan.toml --configuration 3d_fullres --fold 0 \\\n      --out models/3d_fullres/fold_0"
)]
struct Args {
    /// Folder of preprocessed cases: CASE/case.toml
    #[arg(long, value_name = "DIR")]
    cases: PathBuf,
    /// The plan
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The folds [default: splits.toml beside the plan]
    #[arg(long, value_name = "FILE")]
    splits: Option<PathBuf>,
    /// Configuration of the plan, such as 3d_fullres
    #[arg(long, value_name = "NAME")]
    configuration: String,
    /// Fold to leave out for validation
    #[arg(long, value_name = "K")]
    fold: usize,
    /// Epochs at most [default: the plan's schedule.epochs]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Iterations per epoch [default: the plan's schedule.iterations_per_epoch]
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
    /// Cascade: folder of the first stage's predictions, CASE/previous.toml; once per fold
    #[arg(long, value_name = "DIR")]
    previous: Vec<PathBuf>,
    /// Train from this spool of batches instead of augmenting here
    #[arg(long, value_name = "DIR")]
    batches: Option<PathBuf>,
    /// Don't predict the validation cases in full at the end
    #[arg(long)]
    no_validation: bool,
    #[command(flatten)]
    on: DeviceArgs,
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    common: Common,
}

impl Command for Args {
    const STAGE: &'static str = "train";
    const REVISIONS: &'static [(&'static str, u32)] =
        &[("train", train::REVISION), ("augment", augment::REVISION), ("net", net::REVISION)];
    const COMMIT: &'static str = stage::commit!();
    fn common(&self) -> &Common {
        &self.common
    }

    fn files(&self) -> Files {
        let splits = self.splits.clone();
        let splits = splits.unwrap_or_else(|| self.plan.with_file_name("splits.toml"));
        Files::default()
            .reads("--cases", [&self.cases])
            .reads("--plan", [&self.plan])
            .reads("--splits", [splits])
            .reads("--previous", &self.previous)
            .reads("--batches", &self.batches)
            .folder("--out", [&self.out])
            .record::<Model, _>("--out", [self.out.join("model.toml")])
            .sibling("plan.toml in --out", [self.out.join(model::PLAN)])
    }
}

const IO: &[Io] = &[
    Io::reads::<Plan>("--plan"),
    Io::reads::<Splits>("--splits"),
    Io::reads::<Case>("--cases"),
    Io::reads::<Previous>("--previous"),
    Io::reads::<Batch>("--batches"),
    Io::writes::<Model>("--out"),
];

fn main() -> ExitCode {
    stage::main(IO, |args: &Args, run| {
        let request = Request {
            cases: args.cases.clone(),
            plan: args.plan.clone(),
            splits: args.splits.clone(),
            configuration: args.configuration.clone(),
            fold: args.fold,
            epochs: args.epochs,
            iterations: args.iterations,
            previous: args.previous.clone(),
            batches: args.batches.clone(),
            validate: !args.no_validation,
            seed: args.seed.seed,
        };
        train(run, args, &request)
    })
}

/// Whether the model is there already. One that this training didn't make, and can't take further, isn't replaced.
fn is_finished(run: &Run, args: &Args, inputs: &Inputs, record: &Path) -> Result<bool, Error> {
    if run.force() {
        return Ok(false);
    }
    match run.outputs().standing::<Model>(record, &inputs.provenance) {
        Standing::UpToDate => {
            run.info(format!("{} is up to date", record.display()));
            Ok(true)
        }
        Standing::Absent | Standing::Damaged => Ok(false),
        // Whatever checkpoint lies beside it: this model isn't what that training made.
        Standing::Foreign(what) => Err(run.outputs().refusal(record, &what)),
        // Of this training, which goes on, such as for more epochs; one of another is refused when it is read.
        Standing::Own if checkpoint::path(&args.out).is_file() => Ok(false),
        Standing::Own => {
            let what = "is of another training (settings, inputs or revisions) or broken, and no checkpoint of this one is here";
            Err(run.outputs().refusal(record, what))
        }
    }
}

/// The plan's copy beside the model replaces no other plan, unless this folder is a training's.
fn may_write_plan(run: &Run, args: &Args, inputs: &Inputs) -> Result<(), Error> {
    let (copy, model) = (args.out.join(model::PLAN), args.out.join("model.toml"));
    let is_ours = run.force()
        || model.exists()
        || checkpoint::path(&args.out).exists()
        || !copy.exists()
        || artifact::file::read(&copy, "read this plan")? == inputs.plan_bytes;
    match is_ours {
        true => Ok(()),
        false => Err(run.outputs().refusal(&copy, "is another plan, and no training's copy")),
    }
}

fn train(run: &Run, args: &Args, request: &Request) -> Result<(), Error> {
    let device = args.on.open(run)?;
    let inputs = Inputs::load(request, run.provenance(), device.kind())?;
    let record = args.out.join("model.toml");
    if is_finished(run, args, &inputs, &record)? {
        return Ok(());
    }
    may_write_plan(run, args, &inputs)?;
    // Held to the end: the folder is this training's.
    let model = Commit::begin_unless_held(&record)?;
    if is_finished(run, args, &inputs, &record)? {
        return Ok(());
    }
    inputs.warnings.iter().for_each(|warning| run.warn(warning));
    let (train, validation) = (inputs.fold.train.len(), inputs.fold.validation.len());
    run.info(format!(
        "{} fold {}: {train} cases to train on, {validation} to validate on",
        args.configuration, args.fold
    ));
    let mut trainer = Trainer::new(run, &inputs, &device, request.seed, (&args.out, model))?;
    run.saves_at_signal();
    let outcome = trainer.train()?;
    let mut validation_dice = Vec::new();
    if request.validate && validation > 0 {
        validation_dice = trainer.validate()?;
        let names = inputs.plan.targets().into_iter().zip(&validation_dice);
        let line: Vec<String> = names.map(|(name, d)| format!("{name} {d:.4}")).collect();
        run.info(format!("Dice over {validation} validation cases: {}", line.join(", ")));
    }
    trainer.finish(ModelInfo {
        configuration: args.configuration.clone(),
        fold: args.fold,
        epochs: outcome.epochs.len(),
        ended_by: outcome.ended_by,
        precision: device.precision().to_string(),
        validation: inputs.fold.validation.clone(),
        validation_dice,
    })?;
    run.info(format!("wrote {}", record.display()));
    Ok(())
}
