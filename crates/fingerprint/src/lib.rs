//! Measures a data set: integrity, shapes, spacings, intensities.
//!
//! The integrity check comes first and finds all problems of all cases. The measures are nnU-Net's: shape and spacing,
//! the box of nonzero voxels, and the intensities of foreground voxels (label > 0, inside the box) over the training
//! set: once with every voxel counting the same, as in the paper, and once with every case. nnU-Net v2 draws equally many
//! voxels (10⁸ / cases, with replacement) from every case that has foreground; the second is what that tends to.
//!
//! Cases are read in parallel, one per thread, and forgotten: memory doesn't grow with their number. Counts and shares are
//! whole numbers and moments are merged in the order of the cases, so the result doesn't depend on threads.

pub mod distribution;
mod inspect;
mod outliers;
mod problem;

pub use outliers::outliers;
pub use problem::{Class, Problem, error_count, table};

use artifact::dataset::{DESCRIPTION, Dataset, DatasetCase, check_id};
use artifact::fingerprint::{Fingerprint, MeasuredChannel, MeasuredDataset};
use artifact::image::folder::Folder;
use artifact::{Result, hash_bytes, hash_file};
use distribution::{Moments, Pool};
use inspect::{Inspected, inspect, inspect_test};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Revision of the fingerprint.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;

/// What reading a whole data set gave.
#[derive(Debug)]
pub struct Report {
    /// All problems, sorted by class and subject.
    pub problems: Vec<Problem>,
    /// The measures; none if a problem is an error.
    pub fingerprint: Option<Fingerprint>,
    /// Hash of all files that were read, as [`content_hash`] gives.
    pub hash: String,
}

/// Reads every training case of the data set in `folder` once: checks and measures it. Of test cases only the headers and
/// the files' ends are looked at.
///
/// `case_done` is called after each case; as soon as it gives false, the rest is left out and the result is `None`.
///
/// # Errors
/// If `dataset.json` can't be read. Problems of cases are in the report.
pub fn measure(
    folder: &Path,
    dataset: &Dataset,
    case_done: impl Fn() -> bool + Sync,
) -> Result<Option<Report>> {
    let pools = Mutex::new(vec![Pool::default(); dataset.channels.len()]);
    let inspect_one = |case: &DatasetCase| {
        let contained = stage::contain(|| Ok(inspect(folder, dataset, case)));
        let mut found = contained.unwrap_or_else(|e| Inspected {
            problems: vec![Problem::new(Class::Failed, &case.id, e.message)],
            ..Inspected::default()
        });
        if let Some(measured) = &mut found.measured {
            let histograms = std::mem::take(&mut measured.histograms);
            let mut pools = pools.lock().expect("no thread panics while merging");
            pools.iter_mut().zip(histograms).for_each(|(all, one)| all.add(one));
        }
        case_done().then_some(found)
    };
    let cases: Option<Vec<_>> = dataset.training.par_iter().map(inspect_one).collect();
    let Some(mut cases) = cases else { return Ok(None) };
    let Some(mut problems) = test_problems(folder, dataset, &case_done) else { return Ok(None) };
    let mut hashes = BTreeMap::new();
    problems.extend(dataset_problems(folder, dataset));
    for case in &mut cases {
        hashes.append(&mut case.hashes);
        problems.append(&mut case.problems);
    }
    let pools = pools.into_inner().expect("no thread panics while merging");
    if error_count(&problems) == 0 {
        problems.extend(class_problems(dataset, &cases));
        let measured = cases.iter().filter_map(|c| Some(c.measured.as_ref()?.case.clone()));
        problems.extend(outliers(&measured.collect::<Vec<_>>()));
        let blank = problems.iter().filter(|p| p.class == Class::BlankImage).count();
        if blank == cases.len() {
            problems.push(Problem::new(Class::NothingToLearn, "images", "every image is blank"));
        }
    }
    if error_count(&problems) == 0 && pools.iter().any(|pool| pool.count() == 0) {
        let outside = "every labelled voxel lies outside the box of voxels that are not 0";
        problems.push(Problem::new(Class::NothingToLearn, "images", outside));
    }
    problems.sort();
    let sound = error_count(&problems) == 0;
    let fingerprint = sound.then(|| combine(dataset, cases, &pools));
    Ok(Some(Report { problems, fingerprint, hash: combined_hash(folder, hashes)? }))
}

/// Hash of `dataset.json` and every training file's name and content; without decoding them, in parallel.
///
/// # Errors
/// If a file can't be read, also if it's missing.
pub fn content_hash(folder: &Path, dataset: &Dataset) -> Result<String> {
    let listed: Vec<&PathBuf> =
        dataset.training.iter().flat_map(|c| c.images.iter().chain(&c.label)).collect();
    let hash = |path: &&PathBuf| -> Result<Vec<(PathBuf, String)>> {
        let files = artifact::image::files_of(path)?;
        files.into_iter().map(|f| hash_file(&f).map(|hash| (f, hash))).collect()
    };
    let hashes: Vec<_> = listed.par_iter().map(hash).collect::<Result<_>>()?;
    combined_hash(folder, hashes.into_iter().flatten().collect())
}

/// Names are relative to the folder, which may move.
fn combined_hash(folder: &Path, mut hashes: BTreeMap<PathBuf, String>) -> Result<String> {
    let description = folder.join(DESCRIPTION);
    let hash = hash_file(&description)?;
    hashes.insert(description, hash);
    let lines: String =
        hashes.iter().map(|(path, hash)| format!("{}\t{hash}\n", relative(folder, path))).collect();
    Ok(hash_bytes(lines.as_bytes()))
}

/// A file's name as people know it in this data set.
fn relative(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// What keeps other stages from test cases and their label maps in `labelsTs`; none if `case_done` says to stop.
fn test_problems(
    folder: &Path,
    dataset: &Dataset,
    case_done: impl Fn() -> bool + Sync,
) -> Option<Vec<Problem>> {
    let problem = |class: Class, e: artifact::Error| {
        Problem::new(class, relative(folder, &e.path), e.message)
    };
    let mut problems: Vec<_> =
        dataset.test_faults.iter().map(|e| problem(Class::TestImage, e.clone())).collect();
    let labels = folder.join("labelsTs");
    let labels =
        Folder::read_if_there(&labels).map_err(|e| problems.push(problem(Class::TestLabel, e)));
    if let Ok(labels) = &labels {
        let twins = labels.names().filter_map(|name| labels.image(name).err());
        let unusable = twins.chain(labels.unnamed());
        problems.extend(unusable.map(|e| problem(Class::TestLabel, e)));
    }
    let label = |case: &DatasetCase| labels.as_ref().ok()?.image(&case.id).ok()?;
    let mut named = BTreeMap::new();
    for (case, error) in dataset.check_names(&dataset.test) {
        named.insert(case.id.as_str(), error);
    }
    let look = |case: &DatasetCase| {
        let unusable =
            check_id(&case.id).err().map(|e| Problem::new(Class::TestImage, &case.id, e));
        let twins = named.get(case.id.as_str()).map(|e| problem(Class::TestImage, e.clone()));
        let found = match unusable.or(twins) {
            Some(problem) => vec![problem],
            None => {
                let label = label(case);
                let look = || Ok(inspect_test(folder, dataset, case, label.as_deref()));
                stage::contain(look)
                    .unwrap_or_else(|e| vec![Problem::new(Class::TestImage, &case.id, e.message)])
            }
        };
        case_done().then_some(found)
    };
    let found: Option<Vec<_>> = dataset.test.par_iter().map(look).collect();
    problems.extend(found?.into_iter().flatten());
    Some(problems)
}

/// Problems that `dataset.json` has with itself and the folder.
fn dataset_problems(folder: &Path, dataset: &Dataset) -> Vec<Problem> {
    let duplicate = |id: &String| Problem::new(Class::DuplicateId, id, "listed more than once");
    let mut problems: Vec<_> = dataset.duplicate_ids.iter().map(duplicate).collect();
    let bad = dataset.training.iter().filter_map(|case| Some((case, check_id(&case.id).err()?)));
    problems.extend(bad.map(|(case, detail)| Problem::new(Class::BadId, &case.id, detail)));
    let unnamed = |e: &artifact::Error| {
        Problem::new(Class::BadId, relative(folder, &e.path), e.message.clone())
    };
    problems.extend(dataset.faults.iter().map(unnamed));
    let found = dataset.training.len() + dataset.faults.len();
    match dataset.declared_training {
        _ if found == 0 => {
            problems.push(Problem::new(Class::CaseCount, DESCRIPTION, "no training cases found"));
        }
        Some(declared) if declared != found => {
            let detail = format!("numTraining = {declared}, found {found}");
            problems.push(Problem::new(Class::CaseCount, DESCRIPTION, detail));
        }
        _ => {}
    }
    problems
}

/// Classes that no case has. Only asked when all cases could be read.
fn class_problems(dataset: &Dataset, cases: &[Inspected]) -> Vec<Problem> {
    let measured = || cases.iter().filter_map(|c| c.measured.as_ref());
    let occurs = |class: usize| measured().any(|m| m.case.class_voxels[class] > 0);
    let unused: Vec<usize> = (1..dataset.labels.len()).filter(|&class| !occurs(class)).collect();
    if unused.len() + 1 == dataset.labels.len() {
        return vec![Problem::new(
            Class::NothingToLearn,
            "labels",
            "every label map is background only",
        )];
    }
    let name = |class: usize| {
        let label = &dataset.labels[class];
        Problem::new(
            Class::UnusedClass,
            &label.name,
            format!("value {} is in no label map", label.value),
        )
    };
    unused.into_iter().map(name).collect()
}

fn combine(dataset: &Dataset, cases: Vec<Inspected>, pools: &[Pool]) -> Fingerprint {
    let measured: Vec<_> = cases.into_iter().filter_map(|c| c.measured).collect();
    let channel = |(index, (name, pool)): (usize, (&String, &Pool))| {
        let moments = || measured.iter().map(|m| m.moments[index]);
        MeasuredChannel {
            name: name.clone(),
            voxels: pool.count(),
            cases: pool.cases(),
            per_voxel: pool.per_voxel(moments().fold(Moments::default(), Moments::merge)),
            per_case: pool
                .per_case(moments().map(Moments::as_one).fold(Moments::default(), Moments::merge)),
        }
    };
    Fingerprint {
        dataset: MeasuredDataset {
            name: dataset.name.clone(),
            file_ending: dataset.file_ending.clone(),
            reader: dataset.reader,
        },
        channels: dataset.channels.iter().zip(pools).enumerate().map(channel).collect(),
        labels: dataset.labels.clone(),
        regions: dataset.regions.clone(),
        ignore: dataset.ignore.clone(),
        cases: measured.into_iter().map(|m| m.case).collect(),
    }
}
