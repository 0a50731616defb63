//! Overlap of a predicted label map with the reference: counts first, scores from the counts.
//!
//! Dice = 2TP / (2TP + FP + FN), IoU = TP / (TP + FP + FN), both NaN where the class is in neither map. A mean is over
//! the values that are numbers, and NaN if there is none; this goes for the mean over classes too, so that a class which
//! no case has doesn't hide the others.

use artifact::Label;
use artifact::summary::{CaseScores, ClassScores, Mean, Summary};
use ndarray::ArrayView3;
use std::collections::BTreeMap;

/// Largest value that a label map may hold; labels are i16 in preprocessed cases.
const LARGEST_VALUE: usize = i16::MAX as usize;

/// Voxels of one label value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// In the prediction.
    pub predicted: u64,
    /// In the reference.
    pub reference: u64,
    /// In both.
    pub both: u64,
}

impl Overlap {
    /// 2TP / (2TP + FP + FN).
    pub fn dice(self) -> f64 {
        2.0 * self.both as f64 / (self.predicted + self.reference) as f64
    }

    /// TP / (TP + FP + FN).
    pub fn iou(self) -> f64 {
        self.both as f64 / (self.predicted + self.reference - self.both) as f64
    }
}

/// How prediction and reference of one case overlap.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// Voxels of the image.
    pub voxels: u64,
    /// Volume of a voxel.
    pub voxel_ml: f64,
    /// By label value, background included; only values that occur.
    pub values: BTreeMap<i32, Overlap>,
}

/// Which of the two maps a fault is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The prediction.
    Prediction,
    /// The reference.
    Reference,
}

impl Counts {
    /// Compares two label maps `[z, y, x]` of the same shape in one pass.
    ///
    /// # Errors
    /// The map and its first value that isn't a whole number from 0 to 32767.
    ///
    /// # Panics
    /// If the shapes differ; callers compare the geometries, which gives the better message.
    pub fn of(
        predicted: ArrayView3<'_, f32>,
        reference: ArrayView3<'_, f32>,
        spacing_mm: [f64; 3],
    ) -> Result<Self, (Side, f32)> {
        assert_eq!(predicted.dim(), reference.dim(), "label maps of different shapes");
        let mut values: Vec<Overlap> = Vec::new();
        for (&p, &r) in predicted.iter().zip(reference) {
            let (a, b) =
                (index(p).ok_or((Side::Prediction, p))?, index(r).ok_or((Side::Reference, r))?);
            if values.len() <= a.max(b) {
                values.resize(a.max(b) + 1, Overlap::default());
            }
            values[a].predicted += 1;
            values[b].reference += 1;
            values[a].both += u64::from(a == b);
        }
        let occurring = values.into_iter().enumerate().filter(|(_, o)| *o != Overlap::default());
        Ok(Self {
            voxels: predicted.len() as u64,
            voxel_ml: spacing_mm.iter().product::<f64>() / 1000.0,
            values: occurring.map(|(value, o)| (value as i32, o)).collect(),
        })
    }

    /// The map and the value, if one of them holds a value that isn't in `labels`.
    pub fn undeclared(&self, labels: &[Label]) -> Option<(Side, i32)> {
        let (&value, overlap) =
            self.values.iter().find(|(value, _)| labels.iter().all(|l| l.value != **value))?;
        let side = if overlap.reference > 0 { Side::Reference } else { Side::Prediction };
        Some((side, value))
    }

    /// Scores of every foreground class.
    pub fn scores(&self, labels: &[Label]) -> Vec<ClassScores> {
        labels.iter().skip(1).map(|label| self.score(label)).collect()
    }

    fn score(&self, label: &Label) -> ClassScores {
        let overlap = self.values.get(&label.value).copied().unwrap_or_default();
        let Overlap { predicted, reference, both } = overlap;
        ClassScores {
            label: label.name.clone(),
            dice: overlap.dice(),
            iou: overlap.iou(),
            true_positives: both,
            false_positives: predicted - both,
            false_negatives: reference - both,
            true_negatives: self.voxels + both - predicted - reference,
            predicted_ml: predicted as f64 * self.voxel_ml,
            reference_ml: reference as f64 * self.voxel_ml,
        }
    }
}

/// A label value as an index.
fn index(value: f32) -> Option<usize> {
    // `as` saturates and makes 0 of NaN, neither of which equals the value then.
    let whole = value as usize;
    (whole as f32 == value && whole <= LARGEST_VALUE).then_some(whole)
}

/// Labels named after the values that occur, where neither a plan nor a record tells their names.
pub fn labels_found<'a>(cases: impl IntoIterator<Item = &'a Counts>) -> Vec<Label> {
    let mut values: BTreeMap<i32, String> = BTreeMap::from([(0, "background".into())]);
    for value in cases.into_iter().flat_map(|c| c.values.keys()) {
        values.entry(*value).or_insert_with(|| value.to_string());
    }
    values.into_iter().map(|(value, name)| Label { name, value }).collect()
}

/// The summary of cases, sorted by id.
pub fn summarise(labels: &[Label], mut cases: Vec<(String, Counts)>) -> Summary {
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    let cases: Vec<CaseScores> = cases
        .into_iter()
        .map(|(case, counts)| CaseScores { case, classes: counts.scores(labels) })
        .collect();
    let mean_by_class = |value: fn(&ClassScores) -> f64| -> Vec<f64> {
        (0..labels.len().saturating_sub(1))
            .map(|class| mean(cases.iter().map(|c| value(&c.classes[class]))))
            .collect()
    };
    let (dice, iou) = (mean_by_class(|c| c.dice), mean_by_class(|c| c.iou));
    let means = Mean {
        foreground_dice: mean(dice.iter().copied()),
        foreground_iou: mean(iou.iter().copied()),
        dice,
        iou,
    };
    Summary { mean: means, labels: labels.to_vec(), cases }
}

/// Mean of the values that are numbers; NaN if there is none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let numbers = values.into_iter().filter(|v| !v.is_nan());
    let (sum, count) = numbers.fold((0.0, 0u64), |(sum, count), v| (sum + v, count + 1));
    sum / count as f64
}
