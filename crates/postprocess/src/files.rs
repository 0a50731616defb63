//! Which file belongs to which case, and label maps read from them.

use artifact::nifti::{self, Volume};
use artifact::prediction::{Found, Prediction};
use artifact::{Error, Label, Record, Result, hash_bytes, hash_file};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Endings of images; a pair counts by its header.
const ENDINGS: [&str; 4] = [".nii.gz", ".nii", ".hdr", ".hdr.gz"];

/// The images of a folder by case id (the name without ending). Hidden files, such as the `._CASE.nii.gz` that some
/// systems leave, don't count.
///
/// # Errors
/// If the folder can't be read, or holds a case twice.
pub fn list(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let fail = |e| Error::io(folder, "read this folder", &e);
    let mut cases = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
        let Some(case) = case.filter(|case| !case.starts_with('.')) else { continue };
        if let Some(other) = cases.insert(case.to_string(), path.clone()) {
            let other = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(Error::input(
                folder,
                format!("holds case {case} as {other} and as {name}"),
            ));
        }
    }
    Ok(cases)
}

/// The file of a case's first channel: `CASE_0000` or, with the channels in one 4D file, `CASE`.
pub fn first_channel<'a>(images: &'a BTreeMap<String, PathBuf>, case: &str) -> Option<&'a PathBuf> {
    images.get(&format!("{case}_0000")).or_else(|| images.get(case))
}

/// Reads a label map: a volume of one channel.
///
/// # Errors
/// If it can't be read or has several channels.
pub fn read_map(path: &Path) -> Result<Volume> {
    let volume = nifti::read(path)?;
    match volume.channels.dim().0 {
        1 => Ok(volume),
        n => Err(Error::input(path, format!("has {n} channels, expected a label map with one"))),
    }
}

/// The labels that the predictions' records name; none if all are plain NIfTI files.
///
/// # Errors
/// If two records disagree.
pub fn recorded_labels(predictions: &[Found]) -> Result<Option<Vec<Label>>> {
    let mut labels: Option<(&Path, Vec<Label>)> = None;
    for record in predictions.iter().filter_map(|p| p.record.as_deref()) {
        let here = Record::<Prediction>::load(record)?.body.labels;
        match &labels {
            None => labels = Some((record, here)),
            Some((first, expected)) if *expected != here => {
                return Err(disagree(record, &here, expected, first));
            }
            Some(_) => {}
        }
    }
    Ok(labels.map(|(_, labels)| labels))
}

/// The error of a file whose labels aren't those of another one.
pub fn disagree(path: &Path, found: &[Label], expected: &[Label], source: &Path) -> Error {
    let show = |labels: &[Label]| {
        let entries: Vec<String> =
            labels.iter().map(|l| format!("{} = {}", l.name, l.value)).collect();
        entries.join(", ")
    };
    Error::input(
        path,
        format!("labels are {}, but {} says {}", show(found), source.display(), show(expected)),
    )
}

/// One hash over the files of many cases, which the order of `files` doesn't change.
///
/// # Errors
/// If a file can't be read.
pub fn hash<'a>(files: impl IntoIterator<Item = (&'a str, &'a Path)>) -> Result<String> {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort();
    let lines: Result<Vec<String>> = files
        .into_par_iter()
        .map(|(case, path)| {
            let mut line = case.to_string();
            for file in nifti::files_of(path)? {
                line = format!("{line} {}", hash_file(&file)?);
            }
            Ok(line)
        })
        .collect();
    Ok(hash_bytes(lines?.join("\n").as_bytes()))
}

/// [`hash`] of segmentations, with the records that say what their values mean.
///
/// # Errors
/// As [`hash`].
pub fn hash_predictions(predictions: &[Found]) -> Result<String> {
    let maps = predictions.iter().map(|p| (p.case.as_str(), p.segmentation.as_path()));
    let records = predictions.iter().filter_map(|p| Some((p.case.as_str(), p.record.as_deref()?)));
    hash(maps.chain(records))
}
