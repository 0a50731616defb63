//! `postprocess.toml`: what `nnu-postprocess fit` decided and `apply` does.

use crate::{Kind, Label};
use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Postprocessing {
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// One per foreground class.
    pub classes: Vec<ClassRule>,
}

/// What happens to one class, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRule {
    /// Label name.
    pub label: String,
    /// Label value.
    pub value: i32,
    /// Remove all but the largest connected component (26-connected).
    pub keep_largest_component: bool,
    /// Most components of this class in any training label.
    pub most_components_in_training: u64,
    /// Mean Dice over the cross-validation as predicted (NaN if not evaluated).
    pub dice_before: f64,
    /// Mean Dice with only the largest component (NaN if not evaluated).
    pub dice_after: f64,
}

impl Kind for Postprocessing {
    const KIND: &'static str = "postprocessing";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        crate::label::check_labels(&self.labels)?;
        for rule in &self.classes {
            if !self.labels[1..].iter().any(|l| l.value == rule.value) {
                return Err(format!(
                    "classes names label {} ({}), which labels doesn't",
                    rule.label, rule.value
                ));
            }
        }
        Ok(())
    }
}
