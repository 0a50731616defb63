//! The command line, and what its tasks share.

pub mod apply;
mod candidates;
pub mod ensemble;
pub mod evaluate;
pub mod fit;
pub mod select;

use artifact::image::{self, Geometry, Reader};
use artifact::prediction::{self, Found, Prediction, PredictionInfo};
use artifact::{Commit, Provenance};
use clap::{Parser, Subcommand};
use ndarray::Array3;
use postprocess::files;
use postprocess::scheme::Scheme;
use stage::{CaseFiles, Common, Error, Files, Result, Run};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Score predictions, average them, select the best configuration, decide on postprocessing, and apply it.
#[derive(Debug, Parser)]
#[command(
    name = "nnu-postprocess",
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
    /// Average the probabilities of several models' predictions
    Ensemble(ensemble::Args),
    /// Find the configuration, or pair, that predicts best in the cross-validation, and its postprocessing
    Select(select::Args),
    /// Decide from training labels and cross-validated predictions which classes keep their largest component only
    Fit(fit::Args),
    /// Apply what `fit` decided to predictions
    Apply(apply::Args),
}

impl stage::Command for Args {
    const STAGE: &'static str = "postprocess";
    const REVISIONS: &'static [(&'static str, u32)] = &[("postprocess", postprocess::REVISION)];
    const COMMIT: &'static str = stage::commit!();

    fn common(&self) -> &Common {
        match &self.command {
            Task::Evaluate(args) => &args.common,
            Task::Ensemble(args) => &args.common,
            Task::Select(args) => &args.common,
            Task::Fit(args) => &args.common,
            Task::Apply(args) => &args.common,
        }
    }

    fn files(&self) -> Files {
        match &self.command {
            Task::Evaluate(args) => args.files(),
            Task::Ensemble(args) => args.files(),
            Task::Select(args) => args.files(),
            Task::Fit(args) => args.files(),
            Task::Apply(args) => args.files(),
        }
    }
}

/// How label maps are read and compared.
#[derive(Clone, Copy)]
struct Reading<'a> {
    run: &'a Run,
    scheme: &'a Scheme,
    reader: Reader,
}

/// Reads a reference as class indices, voxels to ignore as `scheme.classes()`, and its geometry.
fn read_reference(how: Reading<'_>, path: &Path) -> Result<(Array3<i16>, Geometry)> {
    let (volume, scheme) = (files::read_map(how.reader, path)?, how.scheme);
    let classes = prediction::class_indices(path, &volume, &scheme.labels, scheme.ignore.as_ref())?;
    Ok((classes, volume.geometry))
}

/// Reads a predicted label map on the grid of a reference as class indices; warns if it lies elsewhere in space.
fn read_predicted(
    how: Reading<'_>,
    path: &Path,
    (geometry, reference): (&Geometry, &Path),
) -> Result<Array3<i16>> {
    let volume = files::read_map(how.reader, path)?;
    let (volume, apart) = how.reader.lay(path, volume, (reference, geometry))?;
    apart.iter().for_each(|apart| how.run.warn(apart));
    Ok(prediction::class_indices(path, &volume, &how.scheme.labels, None)?)
}

/// Writes a label map of class indices and its record.
fn write_prediction(
    mut commit: Commit,
    provenance: &Provenance,
    (case, scheme, reader): (&str, &Scheme, Reader),
    classes: &Array3<i16>,
    geometry: &Geometry,
    ending: &str,
) -> Result<()> {
    let mut class_voxels = vec![0; scheme.classes()];
    let values = classes.mapv(|class| {
        // Class indices are positions in `labels`.
        class_voxels[class as usize] += 1;
        scheme.labels[class as usize].value
    });
    let segmentation = format!("segmentation{ending}");
    commit.bytes(&segmentation, &image::encode_labels(values.view(), geometry, ending)?)?;
    let info = PredictionInfo {
        case: case.into(),
        segmentation,
        shape: geometry.shape,
        spacing_mm: geometry.spacing_mm,
        class_voxels,
        reader,
    };
    let Scheme { labels, regions, .. } = scheme.clone();
    Ok(commit.finish(provenance, &Prediction { prediction: info, labels, regions })?)
}

/// Whether no case's prediction in `out` would replace one that is read.
fn keep_inputs<'a>(out: &Path, cases: impl Iterator<Item = (&'a str, &'a Found)>) -> Result<()> {
    let mut files = CaseFiles::default();
    for (case, found) in cases {
        files.reads("--predictions", found.files());
        files.writes("--out", prediction::outputs(out, case));
    }
    files.check()
}

/// The ending that a label map made from this one gets.
fn ending_of(path: &Path) -> &'static str {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    image::split_ending(&name).map_or(".nii.gz", |(_, ending)| ending)
}

/// Refuses cases without a name where all that there are decide together.
///
/// # Errors
/// If there are any: each is reported; the last line counts them.
fn all_named(run: &Run, unnamed: &[artifact::Error]) -> Result<()> {
    each_case(run, "cases", (&[], unnamed), |(): &()| Ok(())).map(drop)
}

/// Runs `work` on every case, in parallel; a failed case doesn't stop the others, nor do those that failed already for their
/// names, `unnamed`. Results in the order of `cases`.
///
/// Its threads are none of rayon's: one of those, while it waits for a part of its case, could begin another case, and
/// with one output locked wait for the next, as perhaps another program does in the other order.
///
/// # Errors
/// If any failed: each is reported; the last line counts them.
fn each_case<C: Sync, R: Send>(
    run: &Run,
    doing: &str,
    (cases, unnamed): (&[C], &[artifact::Error]),
    work: impl Fn(&C) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let progress = run.progress(doing, cases.len());
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<R>>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    let one = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else { return };
            let result = run.check_stop().and_then(|()| stage::contain(|| work(case)));
            *results[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            progress.add(1);
        }
    };
    std::thread::scope(|scope| {
        let workers = (0..cases.len().min(run.threads()))
            .map_while(|_| stage::threads::beside_in(scope, one));
        if workers.count() == 0 {
            one();
        }
    });
    let all = results.into_iter();
    let all = all.filter_map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner));
    let mut results: Vec<Result<R>> = all.collect();
    results.extend(unnamed.iter().map(|e| Err(e.clone().into())));
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
    let all = cases.len() + unnamed.len();
    let mut last = Error::failed(format!("{failed} of {all} cases failed"));
    last.exit = errors[0].exit;
    Err(last)
}
