//! `summary.toml` with `summary.csv`: predictions scored against labels.
//!
//! NaN policy: a class that is in neither label nor prediction of a case has Dice = IoU = NaN there; means are over
//! the cases where the value is a number, and NaN if there is none. In a data set with regions these take the classes'
//! place; voxels that the label marks as ignored are in no count.

use crate::{Kind, Label, Region};
use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Means.
    pub mean: Mean,
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions, where the data set has them: what is scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// The label whose voxels were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<Label>,
    /// Sorted by case id.
    pub cases: Vec<CaseScores>,
}

/// Means over cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Mean over foreground classes of `dice`, by the same policy.
    pub foreground_dice: f64,
    /// Mean over foreground classes of `iou`, by the same policy.
    pub foreground_iou: f64,
    /// Per foreground class, in the order of `labels[1..]`, or per region.
    pub dice: Vec<f64>,
    /// As `dice`.
    pub iou: Vec<f64>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseScores {
    /// Case id.
    pub case: String,
    /// Per foreground class, in the order of `labels[1..]`, or per region.
    pub classes: Vec<ClassScores>,
}

/// One class (or region) of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Name of the label or region.
    pub label: String,
    /// 2TP / (2TP + FP + FN).
    pub dice: f64,
    /// TP / (TP + FP + FN).
    pub iou: f64,
    /// Voxels in both.
    pub true_positives: u64,
    /// Voxels in the prediction only.
    pub false_positives: u64,
    /// Voxels in the label only.
    pub false_negatives: u64,
    /// Voxels in neither.
    pub true_negatives: u64,
    /// Volume of the prediction.
    pub predicted_ml: f64,
    /// Volume of the label.
    pub reference_ml: f64,
}

impl Summary {
    /// Names of what is scored: foreground classes, or regions.
    pub fn names(&self) -> Vec<&str> {
        if self.regions.is_empty() {
            self.labels.iter().skip(1).map(|l| l.name.as_str()).collect()
        } else {
            self.regions.iter().map(|r| r.name.as_str()).collect()
        }
    }
}

impl Kind for Summary {
    const KIND: &'static str = "summary";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        crate::label::check_labels(&self.labels)?;
        crate::label::check_regions(&self.labels, &self.regions, self.ignore.as_ref())?;
        let expected = self.names().len();
        for case in &self.cases {
            if case.classes.len() != expected {
                return Err(format!(
                    "case {} has {} classes, expected {expected}",
                    case.case,
                    case.classes.len()
                ));
            }
        }
        Ok(())
    }
}
