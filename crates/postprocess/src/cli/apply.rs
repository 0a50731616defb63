//! `nnu-postprocess apply`.

use super::{each_case, ending_of, keep_inputs, write_prediction};
use artifact::image::Reader;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::{self, Found, Prediction};
use artifact::{Record, hash_file};
use postprocess::scheme::Scheme;
use postprocess::{files, largest};
use stage::{Common, Files, Result, Run};
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

impl Args {
    /// What is read and what is written.
    pub fn files(&self) -> Files {
        Files::default()
            .reads("--predictions", [&self.predictions])
            .reads("--postprocessing", [&self.postprocessing])
            .folder("--out", [&self.out])
    }
}

pub fn run(args: &Args, run: &Run) -> Result<()> {
    let rules = Record::<Postprocessing>::load(&args.postprocessing)?.body;
    let scheme = Scheme::of_rules(&rules);
    let hash = hash_file(&args.postprocessing)?;
    let (predictions, unnamed) = files::find(&args.predictions)?;
    let recorded = files::recorded(&predictions)?;
    if let Some(found) = recorded.as_ref().map(|r| &r.scheme).filter(|s| !s.fits(&scheme)) {
        let source = &args.postprocessing;
        return Err(files::disagree(&args.predictions, found, &scheme, source).into());
    }
    // Maps of other programs beside them are of the same data set.
    let reader = recorded.map_or_else(Reader::default, |r| r.reader);
    keep_inputs(&args.out, predictions.iter().map(|found| (found.case.as_str(), found)))?;
    let removed = each_case(run, "cases", (&predictions, &unnamed), |found| {
        apply(args, run, (&rules, &scheme, reader), &hash, found)
            .map_err(|e| e.context(format!("case {}", found.case)))
    })?;
    report(&rules, &removed.into_iter().flatten().collect::<Vec<_>>(), run);
    run.info(format!("{} cases in {}", predictions.len(), args.out.display()));
    Ok(())
}

/// What was removed, by rule, from each case that wasn't up to date.
fn report(rules: &Postprocessing, removed: &[Vec<u64>], run: &Run) {
    let foreground = rules.foreground.as_ref().map(|rule| rule.keep_largest_component);
    let all = [("all foreground", foreground.unwrap_or(false))].into_iter();
    let each = rules.classes.iter().map(|rule| (rule.label.as_str(), rule.keep_largest_component));
    for (i, (name, _)) in all.chain(each).enumerate().filter(|(_, (_, kept))| *kept) {
        let counts: Vec<u64> = removed.iter().map(|r| r[i]).collect();
        run.info(format!(
            "{name}: {} voxels removed from {} of {} cases",
            counts.iter().sum::<u64>(),
            counts.iter().filter(|&&n| n > 0).count(),
            counts.len()
        ));
    }
}

/// Voxels removed per rule; none if the case is up to date.
fn apply(
    args: &Args,
    run: &Run,
    (rules, scheme, reader): (&Postprocessing, &Scheme, Reader),
    hash: &str,
    found: &Found,
) -> Result<Option<Vec<u64>>> {
    let record = args.out.join(&found.case).join("prediction.toml");
    let provenance = run
        .provenance()
        .input("--postprocessing", hash)
        .input("--predictions", files::hash_predictions(std::slice::from_ref(found))?);
    if run.up_to_date::<Prediction>(&record, &provenance)? {
        return Ok(None);
    }
    // Before the output's folder is made: a map that can't be read leaves none behind.
    let volume = files::read_map(reader, &found.segmentation)?;
    let mut classes =
        prediction::class_indices(&found.segmentation, &volume, &scheme.labels, None)?;
    let Some(commit) = run.begin::<Prediction>(&record, &provenance)? else { return Ok(None) };
    let removed = largest::apply(rules, &mut classes);
    let ending = ending_of(&found.segmentation);
    let of = (found.case.as_str(), scheme, reader);
    write_prediction(commit, &provenance, of, &classes, &volume.geometry, ending)?;
    Ok(Some(removed))
}
