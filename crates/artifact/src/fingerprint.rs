//! `fingerprint.toml`: what `nnu-fingerprint` measured; axes z, y, x as the data set's reader gives them.

use crate::image::Reader;
use crate::plan::Intensity;
use crate::{Kind, Label, Region};
use serde::{Deserialize, Serialize};

/// The whole fingerprint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The data set.
    pub dataset: MeasuredDataset,
    /// One per channel, in channel order.
    pub channels: Vec<MeasuredChannel>,
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of `dataset.json`; none for most data sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// The label of voxels that nobody annotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<Label>,
    /// One per training case, sorted by id.
    pub cases: Vec<MeasuredCase>,
}

/// The data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredDataset {
    /// Name from `dataset.json`, or the folder's.
    pub name: String,
    /// `.nii.gz`, `.nii`, …
    pub file_ending: String,
    /// How images and label maps are read.
    #[serde(default, skip_serializing_if = "Reader::is_default")]
    pub reader: Reader,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredChannel {
    /// Name from the data set, such as `CT` or `T1`.
    pub name: String,
    /// Foreground voxels (label > 0) measured.
    pub voxels: u64,
    /// Cases that have some.
    pub cases: u64,
    /// Their statistics, every voxel counting the same.
    pub per_voxel: Intensity,
    /// Their statistics, every one of these cases counting the same.
    pub per_case: Intensity,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredCase {
    /// Case id.
    pub id: String,
    /// Shape, axes as the reader gives them: as stored, or of RAS.
    pub shape: [usize; 3],
    /// Spacing.
    pub spacing_mm: [f64; 3],
    /// Shape of the nonzero box.
    pub cropped_shape: [usize; 3],
    /// Voxels in the nonzero box / voxels.
    pub relative_size: f64,
    /// Voxels per class, in the order of `labels`.
    pub class_voxels: Vec<u64>,
}

impl Kind for Fingerprint {
    const KIND: &'static str = "fingerprint";
    const VERSION: u32 = 2;

    fn check(&self) -> Result<(), String> {
        crate::label::check_labels(&self.labels)?;
        crate::label::check_regions(&self.labels, &self.regions, self.ignore.as_ref())?;
        if self.cases.is_empty() {
            return Err("cases is empty, expected at least one".into());
        }
        if self.channels.is_empty() {
            return Err("channels is empty, expected at least one".into());
        }
        for case in &self.cases {
            if case.shape.contains(&0) || case.cropped_shape.contains(&0) {
                return Err(format!("case {} has an axis of length 0", case.id));
            }
            if case.spacing_mm.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
                return Err(format!(
                    "case {} has spacing_mm = {:?}, expected positive numbers",
                    case.id, case.spacing_mm
                ));
            }
            if case.class_voxels.len() != self.labels.len() {
                return Err(format!(
                    "case {} has {} entries in class_voxels, expected {}, one per label",
                    case.id,
                    case.class_voxels.len(),
                    self.labels.len()
                ));
            }
        }
        Ok(())
    }
}
