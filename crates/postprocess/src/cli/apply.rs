//! `nnu-postprocess apply`.

use super::each_case;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::{self, Found, Prediction, PredictionInfo};
use artifact::{Commit, Record, hash_file, nifti};
use postprocess::{files, largest};
use stage::{Common, Error, Result, Run};
use std::path::PathBuf;

/// Flags of `apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with CASE/prediction.toml, or with CASE.nii.gz of another program
    #[arg(long, value_name = "DIR")]
    predictions: PathBuf,
    /// What `fit` decided
    #[arg(long, value_name = "FILE")]
    postprocessing: PathBuf,
    /// Folder for CASE/prediction.toml
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let rules = Record::<Postprocessing>::load(&args.postprocessing)?.body;
    let hash = hash_file(&args.postprocessing)?;
    let predictions = prediction::find(&args.predictions)?;
    if predictions.is_empty() {
        return Err(Error::input(format!(
            "{}: holds no predictions, expected CASE/prediction.toml or CASE.nii.gz",
            args.predictions.display()
        )));
    }
    let same = |a: &PathBuf, b: &PathBuf| {
        a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
    };
    if same(&args.predictions, &args.out) {
        return Err(Error::usage("--out is the folder of --predictions, expected another one"));
    }
    if let Some(labels) = files::recorded_labels(&predictions)?.filter(|l| *l != rules.labels) {
        return Err(files::disagree(
            &args.predictions,
            &labels,
            &rules.labels,
            &args.postprocessing,
        )
        .into());
    }
    let removed = each_case(run, "cases", &predictions, |found| {
        apply(args, run, &rules, &hash, found)
            .map_err(|e| e.context(format!("case {}", found.case)))
    })?;
    for (i, rule) in rules.classes.iter().enumerate().filter(|(_, r)| r.keep_largest_component) {
        let counts: Vec<u64> = removed.iter().flatten().map(|r| r[i]).collect();
        run.info(format!(
            "{}: {} voxels removed from {} of {} cases",
            rule.label,
            counts.iter().sum::<u64>(),
            counts.iter().filter(|&&n| n > 0).count(),
            counts.len()
        ));
    }
    run.info(format!("{} cases in {}", predictions.len(), args.out.display()));
    Ok(())
}

/// Voxels removed per rule; none if the case is up to date.
fn apply(
    args: &Args,
    run: &Run,
    rules: &Postprocessing,
    hash: &str,
    found: &Found,
) -> Result<Option<Vec<u64>>> {
    let record = args.out.join(&found.case).join("prediction.toml");
    let provenance = run
        .provenance()
        .input("--postprocessing", hash)
        .input("--predictions", files::hash_predictions(std::slice::from_ref(found))?);
    if run.up_to_date::<Prediction>(&record, &provenance) {
        return Ok(None);
    }
    let mut commit = Commit::begin(&record)?;
    let volume = files::read_map(&found.segmentation)?;
    let mut classes = prediction::class_indices(&found.segmentation, &volume, &rules.labels, None)?;
    let removed = largest::apply(rules, &mut classes);
    let mut class_voxels = vec![0; rules.labels.len()];
    let values = classes.mapv(|class| {
        // Class indices are positions in `labels`.
        class_voxels[class as usize] += 1;
        rules.labels[class as usize].value
    });
    let gzip = found.segmentation.extension().is_some_and(|e| e == "gz");
    let segmentation = if gzip { "segmentation.nii.gz" } else { "segmentation.nii" };
    commit.bytes(segmentation, &nifti::encode_labels(values.view(), &volume.geometry, gzip)?)?;
    let info = PredictionInfo {
        case: found.case.clone(),
        segmentation: segmentation.into(),
        shape: volume.geometry.shape,
        spacing_mm: volume.geometry.spacing_mm,
        class_voxels,
    };
    commit.finish(
        &provenance,
        &Prediction { prediction: info, labels: rules.labels.clone(), regions: Vec::new() },
    )?;
    Ok(Some(removed))
}
