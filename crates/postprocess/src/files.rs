//! Which file belongs to which case, which predictions belong together, and label maps read from them.

use crate::scheme::Scheme;
use artifact::image::folder::{CaseFiles, Folder};
use artifact::image::{self, Reader, Volume};
use artifact::nifti::ByteVolume;
use artifact::prediction::{self, Found, PROBABILITIES, Prediction};
use artifact::splits::Fold;
use artifact::{Error, Record, Result, hash_bytes, hash_file};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The images of a folder by case id (the name without ending), and those that nothing can be made of, because their names
/// aren't UTF-8: one error each.
///
/// # Errors
/// If the folder can't be read, or two files are the same image.
pub fn list(path: &Path) -> Result<(BTreeMap<String, PathBuf>, Vec<Error>)> {
    let folder = Folder::read(path)?;
    let image = |name: &str| Ok(folder.image(name)?.map(|file| (name.to_string(), file)));
    let images: Result<_> = folder.names().filter_map(|name| image(name).transpose()).collect();
    Ok((images?, folder.unnamed()))
}

/// The file of a case's first channel: `CASE_0000` or, with the channels in one 4D file, `CASE`.
///
/// # Errors
/// If two files lead to the same channel.
pub fn first_channel(images: &Folder, case: &str) -> Result<Option<PathBuf>> {
    Ok(images.case(case)?.and_then(|files| match files {
        CaseFiles::Whole(file) => Some(file),
        CaseFiles::Channels(mut channels) => channels.remove(&0),
    }))
}

/// Refuses an image that the machine hasn't the memory to work on.
///
/// # Errors
/// With what is needed and what is there.
pub fn admit(path: &Path) -> Result<()> {
    // Once while it is read; and as much again for what it is compared with, its components, and the result.
    let bytes = 2.0 * image::reading_bytes(&[path.into()]);
    stage::memory::require(bytes)
        .map_err(|e| Error { hint: e.hint, ..Error::input(path, e.message) })
}

/// Reads a label map: a volume of one channel, its axes as stored.
///
/// # Errors
/// If it can't be read, no memory holds it, or it has several channels.
pub fn read_map(reader: Reader, path: &Path) -> Result<Volume> {
    admit(path)?;
    let volume = reader.read(path)?;
    image::check_label(path, &volume)?;
    Ok(volume)
}

/// Reads a label map as it is stored, if that is as bytes; [`read_map`] reads the others.
///
/// # Errors
/// If its voxels can't be read, or no memory holds them.
pub fn read_bytes(reader: Reader, path: &Path) -> Result<Option<ByteVolume>> {
    if path.extension().is_some_and(|ending| ending == "png") {
        return Ok(None);
    }
    admit(path)?;
    ByteVolume::read_by(reader, path)
}

/// The predictions of several folders together, sorted by case, and those that have no case, as [`find`] gives them.
///
/// # Errors
/// If a folder can't be read or holds none, or a case is in two of them.
pub fn merge(folders: &[PathBuf]) -> Result<(Vec<Found>, Vec<Error>)> {
    let (mut merged, mut unnamed) = (BTreeMap::new(), Vec::new());
    for folder in folders {
        let (predictions, without) = find(folder)?;
        unnamed.extend(without);
        for found in predictions {
            let case = found.case.clone();
            if merged.insert(case.clone(), found).is_some() {
                return Err(Error::input(
                    folder,
                    format!("case {case} is in an earlier --predictions folder too"),
                )
                .hint("each case is predicted once, by the fold that did not train on it; remove what an earlier split left in these folders"));
            }
        }
    }
    Ok((merged.into_values().collect(), unnamed))
}

/// The predictions of a folder, sorted by case, and those that nothing can be made of: see [`prediction::find`].
///
/// # Errors
/// If it can't be read or holds none.
pub fn find(folder: &Path) -> Result<(Vec<Found>, Vec<Error>)> {
    let found = prediction::find(folder)?;
    if found.0.is_empty() && found.1.is_empty() {
        return Err(Error::input(
            folder,
            "holds no predictions, expected CASE/prediction.toml or CASE.nii.gz",
        ));
    }
    Ok(found)
}

/// What the records of predictions say about their label maps.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Labels and regions.
    pub scheme: Scheme,
    /// How the maps are read.
    pub reader: Reader,
    /// The record that says so, for messages.
    pub record: PathBuf,
}

impl Recorded {
    /// A record's.
    pub fn of(record: &Path, prediction: &Prediction) -> Self {
        Self {
            scheme: Scheme::of_prediction(prediction),
            reader: prediction.prediction.reader,
            record: record.into(),
        }
    }

    /// Whether another record says the same.
    ///
    /// # Errors
    /// Names both, and what they say.
    pub fn check_same(&self, other: &Self) -> Result<()> {
        if !self.scheme.fits(&other.scheme) {
            return Err(disagree(&other.record, &other.scheme, &self.scheme, &self.record));
        }
        if self.reader != other.reader {
            return Err(other_reader(other, self.reader, &self.record));
        }
        Ok(())
    }

    /// Whether predictions of a folder are those that a plan speaks of.
    ///
    /// # Errors
    /// Names both, and what they say. Records that name no reader agree with every plan.
    pub fn check_plan(
        &self,
        place: &Path,
        scheme: &Scheme,
        reader: Reader,
        plan: &Path,
    ) -> Result<()> {
        if !self.scheme.fits(scheme) {
            return Err(disagree(place, &self.scheme, scheme, plan));
        }
        if !self.reader.is_default() && self.reader != reader {
            return Err(other_reader(self, reader, plan));
        }
        Ok(())
    }
}

fn other_reader(found: &Recorded, expected: Reader, source: &Path) -> Error {
    let (found, record) = (found.reader.name(), &found.record);
    let (expected, source) = (expected.name(), source.display());
    Error::input(record, format!("is read by {found}, but {source} says {expected}"))
        .hint("predictions of one data set have one reader (prediction.reader, dataset.reader)")
}

/// What the predictions' records say; none if all are plain NIfTI files.
///
/// # Errors
/// If two records disagree.
pub fn recorded(predictions: &[Found]) -> Result<Option<Recorded>> {
    let mut first: Option<Recorded> = None;
    for record in predictions.iter().filter_map(|p| p.record.as_deref()) {
        let here = Recorded::of(record, &Record::<Prediction>::load(record)?.body);
        match &first {
            None => first = Some(here),
            Some(first) => first.check_same(&here)?,
        }
    }
    Ok(first)
}

/// The error of a file whose labels or regions aren't those of another one.
pub fn disagree(path: &Path, found: &Scheme, expected: &Scheme, source: &Path) -> Error {
    let labels = |scheme: &Scheme| {
        let entries = scheme.labels.iter().map(|l| format!("{} = {}", l.name, l.value));
        entries.collect::<Vec<_>>().join(", ")
    };
    let regions = |scheme: &Scheme| {
        let entries =
            scheme.regions.iter().map(|r| format!("{} = {:?} → {}", r.name, r.values, r.value));
        let text = entries.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "none".into() } else { text }
    };
    let (what, found, expected) = if found.labels == expected.labels {
        ("regions", regions(found), regions(expected))
    } else {
        ("labels", labels(found), labels(expected))
    };
    Error::input(path, format!("{what} are {found}, but {} says {expected}", source.display()))
}

/// The folds that predictions are the validation cases of. Each of these folds must be there as a whole, and no weights may
/// have predicted cases of two folds: they were trained on one of them.
///
/// # Errors
/// Names the first case that breaks this; `place` says where the predictions are.
pub fn out_of_fold(
    place: &Path,
    predictions: &[Found],
    splits: &Path,
    folds: &[Fold],
) -> Result<Vec<usize>> {
    let fold_of = |case: &String| folds.iter().position(|f| f.validation.contains(case));
    let mut present = BTreeSet::new();
    let mut predicted_by: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for found in predictions {
        let Some(fold) = fold_of(&found.case) else {
            return Err(Error::input(
                place,
                format!(
                    "case {} is a validation case of no fold of {}",
                    found.case,
                    splits.display()
                ),
            )
            .hint("how good a model is shows in cases that it was not trained on"));
        };
        present.insert(fold);
        for weights in weights_of(found)? {
            let (other, case) = predicted_by.entry(weights).or_insert((fold, &found.case));
            if *other != fold {
                return Err(Error::input(
                    place,
                    format!(
                        "case {} of fold {fold} and case {case} of fold {other} were predicted with the same weights",
                        found.case
                    ),
                )
                .hint("each fold's validation cases are predicted by that fold's model: nnu-infer --validation; trainings of few iterations that drew the same cases have the same weights: train for longer"));
            }
        }
    }
    let missing = present.iter().find_map(|&fold| {
        let wanted = folds[fold].validation.iter();
        let mut absent = wanted.filter(|id| predictions.iter().all(|p| p.case != **id));
        absent.next().map(|case| no_prediction(place, case, fold))
    });
    missing.map_or(Ok(present.into_iter().collect()), Err)
}

/// The error of a fold that isn't there as a whole.
pub fn no_prediction(place: &Path, case: &str, fold: usize) -> Error {
    Error::input(place, format!("no prediction of {case}, a validation case of fold {fold}"))
        .hint("predict it first: nnu-infer --cases DIR --validation")
}

/// Hashes of the weights that made a prediction, if its record says so.
///
/// # Errors
/// If the record is broken.
pub fn weights_of(found: &Found) -> Result<Vec<String>> {
    let Some(record) = &found.record else { return Ok(Vec::new()) };
    let inputs = Record::<Prediction>::load(record)?.provenance.inputs;
    Ok(inputs.into_iter().filter(|i| i.name == "weights").map(|i| i.hash).collect())
}

/// The record of a prediction that has probabilities, and where they are.
///
/// # Errors
/// If it has none.
pub fn with_probabilities(found: &Found) -> Result<(Record<Prediction>, PathBuf)> {
    let hint = "predict with probabilities: nnu-infer --probabilities";
    let Some(path) = &found.record else {
        let without = Error::input(
            &found.segmentation,
            format!(
                "no probabilities, expected {}/prediction.toml with {PROBABILITIES}",
                found.case
            ),
        );
        return Err(without.hint(hint));
    };
    let record = Record::<Prediction>::load(path)?;
    let probabilities = path.with_file_name(PROBABILITIES);
    // Without a list of files it's the file's presence that counts.
    let listed = record.header.files.is_empty() || record.header.files.contains_key(PROBABILITIES);
    if listed && probabilities.is_file() {
        return Ok((record, probabilities));
    }
    Err(Error::input(path, format!("no probabilities, expected {PROBABILITIES} beside it"))
        .hint(hint))
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
            for file in image::files_of(path)? {
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

/// As [`hash_predictions`], with the probabilities of those that have a record.
///
/// # Errors
/// As [`hash`].
pub fn hash_probabilities(predictions: &[Found]) -> Result<String> {
    let found = predictions.par_iter().map(|found| {
        let Some(path) = &found.record else { return Ok(String::new()) };
        let (record, probabilities) = with_probabilities(found)?;
        // Records of foreign stages may leave hashes out.
        let known = record.header.files.get(PROBABILITIES).filter(|hash| !hash.is_empty());
        let hash = known.map_or_else(|| hash_file(&probabilities), |hash| Ok(hash.clone()))?;
        Ok(format!("{} {hash} {}", found.case, hash_file(path)?))
    });
    let lines: Result<Vec<String>> = found.collect();
    let maps = hash_predictions(predictions)?;
    Ok(hash_bytes(format!("{maps}\n{}", lines?.join("\n")).as_bytes()))
}
