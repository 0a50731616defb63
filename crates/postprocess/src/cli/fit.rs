//! `nnu-postprocess fit`.

use super::each_case;
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::{self, Found};
use artifact::{Commit, Label, Record, hash_file};
use postprocess::files;
use postprocess::largest::{self, Evidence};
use stage::{Common, Error, Result, Run};
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

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let plan = Record::<Plan>::load(&args.plan)?.body;
    let references: Vec<(String, PathBuf)> = files::list(&args.labels)?.into_iter().collect();
    if references.is_empty() {
        return Err(Error::input(format!("{}: holds no label maps", args.labels.display())));
    }
    let predictions = predictions(args, &plan, &references)?;
    let all: Vec<Found> = predictions.values().cloned().collect();
    let maps = references.iter().map(|(case, path)| (case.as_str(), path.as_path()));
    let provenance = run
        .provenance()
        .input("--plan", hash_file(&args.plan)?)
        .input("--labels", files::hash(maps)?)
        .input("--predictions", files::hash_predictions(&all)?);
    if run.up_to_date::<Postprocessing>(&args.out, &provenance) {
        return Ok(());
    }
    let rules = &plan.recipe.postprocessing;
    if predictions.is_empty() && rules.only_if_dice_does_not_fall {
        run.warn(
            "no --predictions: whether the Dice falls is not known; deciding by the labels alone",
        );
    }
    let commit = Commit::begin(&args.out)?;
    let evidence = each_case(run, "cases", &references, |(case, path)| {
        look(&plan.labels, path, predictions.get(case).map(|p| p.segmentation.as_path()))
    })?;
    let decision = largest::decide(&plan.labels, &evidence, rules);
    report(&decision, run);
    commit.finish(&provenance, &decision)?;
    run.info(format!("{} written", args.out.display()));
    Ok(())
}

/// Predictions by case; every one needs a label, and none may be there twice.
fn predictions(
    args: &Args,
    plan: &Plan,
    references: &[(String, PathBuf)],
) -> Result<BTreeMap<String, Found>> {
    let mut predictions = BTreeMap::new();
    for folder in &args.predictions {
        let found = prediction::find(folder)?;
        if found.is_empty() {
            return Err(Error::input(format!(
                "{}: holds no predictions, expected CASE/prediction.toml or CASE.nii.gz",
                folder.display()
            )));
        }
        if let Some(labels) = files::recorded_labels(&found)?.filter(|l| *l != plan.labels) {
            return Err(files::disagree(folder, &labels, &plan.labels, &args.plan).into());
        }
        for found in found {
            let case = found.case.clone();
            if references.iter().all(|(id, _)| *id != case) {
                return Err(Error::input(format!(
                    "{}: no label for the prediction of case {case}",
                    args.labels.display()
                )));
            }
            if predictions.insert(case.clone(), found).is_some() {
                return Err(Error::input(format!(
                    "{}: case {case} is in an earlier --predictions folder too",
                    folder.display()
                ))
                .hint("each case is predicted once, by the fold that did not train on it"));
            }
        }
    }
    Ok(predictions)
}

fn look(labels: &[Label], reference: &Path, predicted: Option<&Path>) -> Result<Evidence> {
    let volume = files::read_map(reference)?;
    let classes = prediction::class_indices(reference, &volume, labels, None)?;
    let Some(path) = predicted else {
        return Ok(largest::evidence(labels.len(), classes.view(), None));
    };
    let prediction = files::read_map(path)?;
    prediction.geometry.same_grid(&volume.geometry).map_err(|e| {
        Error::input(format!("{}: {e} as in {}", path.display(), reference.display()))
    })?;
    let predicted = prediction::class_indices(path, &prediction, labels, None)?;
    Ok(largest::evidence(labels.len(), classes.view(), Some(predicted.view())))
}

fn report(decision: &Postprocessing, run: &Run) {
    for rule in &decision.classes {
        let verdict =
            if rule.keep_largest_component { "largest component only" } else { "as it is" };
        let dice = if rule.dice_before.is_nan() {
            String::new()
        } else {
            format!(", Dice {:.4} becomes {:.4}", rule.dice_before, rule.dice_after)
        };
        run.info(format!(
            "{}: {verdict} (up to {} components in a training label{dice})",
            rule.label, rule.most_components_in_training
        ));
    }
}
