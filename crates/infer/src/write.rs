//! From class indices to a written label map; runs on a thread of its own while the network is at the next case.

use crate::export::into_image;
use artifact::case::Original;
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::{PROBABILITIES, Prediction, PredictionInfo};
use artifact::{Commit, Provenance, image, previous};
use ndarray::Array3;
use postprocess::largest;
use rayon::prelude::*;
use stage::Result;
use std::sync::Arc;

/// What all cases of a call have in common.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The plan.
    pub plan: Plan,
    /// What is done to the label maps.
    pub postprocessing: Option<Postprocessing>,
}

/// A case as predicted.
#[derive(Debug)]
pub struct Segmentation {
    pub(crate) rules: Arc<Rules>,
    pub(crate) id: String,
    /// Class indices in the crop box, plan axes.
    pub(crate) classes: Array3<i16>,
    /// How to get to the image's axes.
    pub(crate) original: Original,
    /// Begun, and perhaps with probabilities.
    pub(crate) commit: Commit,
    pub(crate) provenance: Provenance,
    /// Files of earlier calls that aren't this record's.
    pub(crate) probabilities: bool,
    pub(crate) next: bool,
}

impl Segmentation {
    /// Writes the label map and the record.
    ///
    /// # Errors
    /// If something can't be written.
    pub fn write(self) -> Result<()> {
        let Self { rules, original, mut commit, .. } = self;
        let mut labels = into_image(self.classes, &original);
        if let Some(rules) = &rules.postprocessing {
            largest::apply(rules, &mut labels);
        }
        let plan = &rules.plan;
        let class_voxels = into_labels(&mut labels, plan);
        // Pairs of header and voxels come back as one file.
        let ending = match plan.dataset.file_ending.as_str() {
            ending @ (".nii" | ".png") => ending,
            _ => ".nii.gz",
        };
        let name = &format!("segmentation{ending}");
        commit.bytes(name, &image::encode_labels(labels.view(), &original.geometry, ending)?)?;
        let info = PredictionInfo {
            case: self.id,
            segmentation: name.into(),
            shape: original.geometry.shape,
            spacing_mm: original.geometry.spacing_mm,
            class_voxels,
            reader: plan.dataset.reader,
        };
        let body = Prediction {
            prediction: info,
            labels: plan.labels.clone(),
            regions: plan.regions.clone(),
        };
        if !self.probabilities {
            // An earlier call's: it wouldn't be this record's.
            commit.without(PROBABILITIES);
        }
        if !self.next {
            // An earlier call's too, and perhaps of other models: record first, so that nothing is half there.
            commit.without(previous::RECORD);
            commit.without(previous::ARRAY);
        }
        Ok(commit.finish(&self.provenance, &body)?)
    }
}

/// Puts label values in the place of class indices; voxels per class.
fn into_labels(classes: &mut Array3<i16>, plan: &Plan) -> Vec<u64> {
    // Class indices are positions in the labels, whose values are at most 32767.
    let values: Vec<i16> =
        plan.labels.iter().map(|l| i16::try_from(l.value).unwrap_or(0)).collect();
    let none = || vec![0u64; values.len()];
    let slices = classes.outer_iter_mut().into_par_iter();
    let counts = slices.fold(none, |mut counts, mut slice| {
        for class in &mut slice {
            let index = usize::from(class.unsigned_abs());
            counts[index] += 1;
            *class = values[index];
        }
        counts
    });
    counts.reduce(none, |a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect())
}
