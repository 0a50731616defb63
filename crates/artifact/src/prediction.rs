//! `CASE/prediction.toml` with `segmentation.nii.gz` and, when asked for, `probabilities.npy`: one predicted case.
//!
//! - `segmentation.nii.gz` (or `.nii`, `.png`, as the data set's file ending): the data set's label values on the original
//!   grid, with the source image's geometry.
//! - `probabilities.npy` f16 `[class, z, y, x]` on the original grid, image axes; with regions `[region, z, y, x]`.

use crate::image::{Reader, folder::Folder};
use crate::record::check_name;
use crate::{Error, Kind, Label, Record, Region, Result, nifti};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the record.
pub const RECORD: &str = "prediction.toml";
/// Name of the probabilities.
pub const PROBABILITIES: &str = "probabilities.npy";

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// What was predicted.
    pub prediction: PredictionInfo,
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of the probabilities' channels; none: the channels are `labels`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
}

/// What was predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionInfo {
    /// Case id.
    pub case: String,
    /// The sibling that holds the label map.
    pub segmentation: String,
    /// Shape on the original grid (z, y, x).
    pub shape: [usize; 3],
    /// Spacing (z, y, x).
    pub spacing_mm: [f64; 3],
    /// Voxels per class, in the order of `labels`.
    pub class_voxels: Vec<u64>,
    /// How the label map is read, as the data set's images are: `dataset.reader` of the plan.
    #[serde(default, skip_serializing_if = "Reader::is_default")]
    pub reader: Reader,
}

impl Kind for Prediction {
    const KIND: &'static str = "prediction";
    const VERSION: u32 = 1;

    fn check(&self) -> std::result::Result<(), String> {
        crate::label::check_labels(&self.labels)?;
        crate::label::check_regions(&self.labels, &self.regions, None)?;
        check_name("prediction.case", &self.prediction.case)?;
        check_name("prediction.segmentation", &self.prediction.segmentation)?;
        let (found, expected) = (self.prediction.class_voxels.len(), self.labels.len());
        if found != expected {
            return Err(format!(
                "prediction.class_voxels has {found} entries, expected {expected}, one per label"
            ));
        }
        Ok(())
    }
}

/// The files that a case's prediction may consist of, in a folder of predictions.
pub fn outputs(folder: &Path, case: &str) -> Vec<PathBuf> {
    let maps = [".nii.gz", ".nii", ".png"].map(|ending| format!("segmentation{ending}"));
    let names = maps.into_iter().chain([RECORD.into(), PROBABILITIES.into()]);
    names.map(|name| folder.join(case).join(name)).collect()
}

/// A segmentation to score: a prediction record's, or a plain image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Case id.
    pub case: String,
    /// The label map.
    pub segmentation: PathBuf,
    /// The record, if there is one.
    pub record: Option<PathBuf>,
}

/// All segmentations in a folder, sorted by case: `CASE/prediction.toml`, or images named after their case from elsewhere.
/// And those that nothing can be made of, because their names aren't UTF-8: one error each.
///
/// # Errors
/// If the folder can't be read, a record is broken, or a case is there twice.
pub fn find(folder: &Path) -> Result<(Vec<Found>, Vec<Error>)> {
    let fail = |e| Error::io(folder, "read this folder", &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let record = path.join(RECORD);
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && record.is_file() {
            let info = Record::<Prediction>::load(&record)?.body.prediction;
            found.push(Found {
                case: info.case,
                segmentation: path.join(info.segmentation),
                record: Some(record),
            });
        }
    }
    let images = Folder::read(folder)?;
    for case in images.names() {
        let segmentation = images.image(case)?;
        found.extend(segmentation.map(|segmentation| Found {
            case: case.into(),
            segmentation,
            record: None,
        }));
    }
    found.sort_by(|a, b| a.case.cmp(&b.case));
    if let Some([a, b]) = found.array_windows().find(|[a, b]| a.case == b.case) {
        return Err(a.twice(b));
    }
    Ok((found, images.unnamed()))
}

/// The segmentation of one case in a folder, as [`find`] would find it; other cases aren't looked at.
///
/// # Errors
/// If the folder can't be read, the record is broken, or the case is there twice.
pub fn find_case(folder: &Path, case: &str) -> Result<Option<Found>> {
    let record = folder.join(case).join(RECORD);
    let mut found = None;
    if record.is_file() {
        let info = Record::<Prediction>::load(&record)?.body.prediction;
        let segmentation = record.with_file_name(info.segmentation);
        found = Some(Found { case: case.into(), segmentation, record: Some(record) });
    }
    let plain = Folder::read(folder)?.image(case)?;
    let plain = plain.map(|segmentation| Found { case: case.into(), segmentation, record: None });
    match (found, plain) {
        (Some(a), Some(b)) => Err(a.twice(&b)),
        (found, plain) => Ok(found.or(plain)),
    }
}

impl Found {
    /// The files of this prediction, and of the probabilities that may lie beside its record.
    pub fn files(&self) -> Vec<PathBuf> {
        // A map that can't be read is said where it is read.
        let map = crate::image::files_of(&self.segmentation);
        let mut files = map.unwrap_or_else(|_| vec![self.segmentation.clone()]);
        if let Some(record) = &self.record {
            files.extend([record.clone(), record.with_file_name(PROBABILITIES)]);
        }
        files
    }

    fn twice(&self, other: &Self) -> Error {
        let path =
            |found: &Self| found.record.clone().unwrap_or_else(|| found.segmentation.clone());
        let message =
            format!("and {} are both the prediction of case {}", path(other).display(), self.case);
        Error::input(&path(self), message)
            .hint("keep the right one of the two and move the other away")
    }
}

/// Voxel value → class index for a label map read from `path`; the ignore label becomes `labels.len()`.
///
/// # Errors
/// Names the first value that isn't a declared label.
pub fn class_indices(
    path: &Path,
    volume: &nifti::Volume,
    labels: &[Label],
    ignore: Option<&Label>,
) -> Result<ndarray::Array3<i16>> {
    let map = volume.channels.index_axis(ndarray::Axis(0), 0);
    // Values are at most 32767: a table finds the class of each.
    let places = || labels.iter().chain(ignore).map(|l| usize::try_from(l.value).unwrap_or(0));
    let mut class_of = vec![None; places().max().unwrap_or(0) + 1];
    for (class, value) in places().enumerate() {
        class_of[value] = Some(i16::try_from(class).unwrap_or(i16::MAX));
    }
    let mut unknown = None;
    let classes = map.mapv(|value| {
        // A negative or fractional value never equals its own place.
        let place = value as usize;
        let class = class_of.get(place).copied().flatten().filter(|_| place as f32 == value);
        class.unwrap_or_else(|| {
            unknown.get_or_insert(value);
            0
        })
    });
    match unknown {
        None => Ok(classes),
        Some(value) => Err(Error::input(
            path,
            format!(
                "contains the value {value}, expected one of {:?}",
                labels.iter().chain(ignore).map(|l| l.value).collect::<Vec<_>>()
            ),
        )),
    }
}
