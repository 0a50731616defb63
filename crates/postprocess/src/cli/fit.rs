//! `nnu-postprocess fit`.

use super::{Reading, all_named, each_case, read_predicted, read_reference};
use artifact::image::Reader;
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Found;
use artifact::recipe::PostprocessingRule;
use artifact::{Record, hash_file};
use postprocess::files;
use postprocess::fit::{Evidence, Trial, examine, fit};
use postprocess::scheme::Scheme;
use stage::{Common, Error, Files, Result, Run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags of `fit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with the training label maps CASE.nii.gz, such as labelsTr
    #[arg(long, value_name = "DIR")]
    labels: PathBuf,
    /// Cross-validated predictions of these cases; repeat it for every fold
    #[arg(long, value_name = "DIR")]
    predictions: Vec<PathBuf>,
    /// Plan: label names and the recipe's rules
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Decision to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

impl Args {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        Files::default()
            .reads("--labels", [&self.labels])
            .reads("--predictions", &self.predictions)
            .reads("--plan", [&self.plan])
            .record::<Postprocessing, _>("--out", [&self.out])
    }
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let plan = Record::<Plan>::load(&args.plan)?.body;
    let scheme = Scheme::of(&plan);
    let (references, unnamed) = references(&args.labels)?;
    all_named(run, &unnamed)?;
    let predictions = predictions(args, (&scheme, plan.dataset.reader), &references, run)?;
    let all: Vec<Found> = predictions.values().cloned().collect();
    let maps = references.iter().map(|(case, path)| (case.as_str(), path.as_path()));
    let provenance = run
        .provenance()
        .input("--plan", hash_file(&args.plan)?)
        .input("--labels", files::hash(maps)?)
        .input("--predictions", files::hash_predictions(&all)?);
    if run.up_to_date::<Postprocessing>(&args.out, &provenance)? {
        return Ok(());
    }
    let rules = &plan.recipe.postprocessing;
    if predictions.is_empty() && rules.rule == PostprocessingRule::CrossValidatedDice {
        return Err(Error::input(format!(
            "{}: recipe.postprocessing.rule = \"cross_validated_dice\", which needs --predictions",
            args.plan.display()
        ))
        .hint("give the folders that nnu-infer --validation wrote, one --predictions per fold"));
    }
    if predictions.is_empty() && rules.only_if_dice_does_not_fall {
        run.warn(
            "no --predictions: whether the Dice falls is not known; deciding by the labels alone",
        );
    }
    let Some(commit) = run.begin::<Postprocessing>(&args.out, &provenance)? else {
        return Ok(());
    };
    let how = Reading { run, scheme: &scheme, reader: plan.dataset.reader };
    let decision = fit(&scheme, rules, &mut |trials| {
        each_case(run, "cases", (&references, &[]), |(case, path)| {
            look(how, path, predictions.get(case).map(|p| p.segmentation.as_path()), trials)
        })
    })?;
    report(&decision, run);
    commit.finish(&provenance, &decision)?;
    run.info(format!("{} written", args.out.display()));
    Ok(())
}

/// Label maps by case, sorted.
type References = Vec<(String, PathBuf)>;

/// The label maps of a folder, and those that have no case's name.
pub(super) fn references(folder: &Path) -> Result<(References, Vec<artifact::Error>)> {
    let (references, unnamed) = files::list(folder)?;
    if references.is_empty() && unnamed.is_empty() {
        return Err(Error::input(format!("{}: holds no label maps", folder.display())));
    }
    Ok((references.into_iter().collect(), unnamed))
}

/// Predictions by case; every one needs a label, and none may be there twice.
fn predictions(
    args: &Args,
    (scheme, reader): (&Scheme, Reader),
    references: &[(String, PathBuf)],
    run: &Run,
) -> Result<BTreeMap<String, Found>> {
    let (merged, unnamed) = files::merge(&args.predictions)?;
    all_named(run, &unnamed)?;
    if let Some(recorded) = files::recorded(&merged)? {
        recorded.check_plan(&args.predictions[0], scheme, reader, &args.plan)?;
    }
    let labelled = |case: &String| references.binary_search_by(|(id, _)| id.cmp(case)).is_ok();
    if let Some(found) = merged.iter().find(|found| !labelled(&found.case)) {
        return Err(Error::input(format!(
            "{}: no label for the prediction of case {}",
            args.labels.display(),
            found.case
        )));
    }
    Ok(merged.into_iter().map(|found| (found.case.clone(), found)).collect())
}

fn look(
    how: Reading<'_>,
    reference: &Path,
    predicted: Option<&Path>,
    trials: &[Trial],
) -> Result<Evidence> {
    let (classes, geometry) = read_reference(how, reference)?;
    let predicted = predicted.map(|path| read_predicted(how, path, (&geometry, reference)));
    Ok(examine(how.scheme, classes.view(), predicted.transpose()?.as_ref(), trials))
}

/// What was decided, and why.
pub(super) fn report(decision: &Postprocessing, run: &Run) {
    let verdict = |keep| if keep { "largest component only" } else { "as it is" };
    let dice = |before: f64, after: f64| {
        if before.is_nan() || after.is_nan() {
            String::new()
        } else {
            format!(", Dice {before:.4} becomes {after:.4}")
        }
    };
    if let Some(rule) = &decision.foreground {
        let keep = verdict(rule.keep_largest_component);
        run.info(format!("all foreground: {keep}{}", dice(rule.dice_before, rule.dice_after)));
    }
    for rule in &decision.classes {
        run.info(format!(
            "{}: {} (up to {} components in a training label{})",
            rule.label,
            verdict(rule.keep_largest_component),
            rule.most_components_in_training,
            dice(rule.dice_before, rule.dice_after)
        ));
    }
}
