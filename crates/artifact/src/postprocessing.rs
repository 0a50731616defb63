//! `postprocess.toml`: what `nnu-postprocess fit` decided and `apply` does.
//!
//! Kept components are the largest by voxels, 26-connected; of equal, largest ones all stay. First comes `foreground`,
//! then `classes` in their order; what is removed becomes background.

use crate::recipe::PostprocessingRule;
use crate::{Kind, Label, Region};
use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Postprocessing {
    /// How it was decided, and what it brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// All foreground together; none: left alone, and never tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreground: Option<ForegroundRule>,
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of the network's outputs; none for most data sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// One per foreground class; with regions one per region, in their order.
    pub classes: Vec<ClassRule>,
}

/// How it was decided, and what it brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The recipe's rule.
    pub rule: PostprocessingRule,
    /// Mean foreground Dice of the cross-validated predictions as they are (NaN if not evaluated).
    pub mean_dice_before: f64,
    /// The same after everything below (NaN if not evaluated).
    pub mean_dice_after: f64,
}

/// What happens to all foreground taken together, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForegroundRule {
    /// Remove all but the largest connected component of the voxels that aren't background.
    pub keep_largest_component: bool,
    /// Mean foreground Dice as predicted.
    pub dice_before: f64,
    /// Mean foreground Dice with the largest component only.
    pub dice_after: f64,
}

/// What happens to one class or region, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRule {
    /// Name of the label, or of the region.
    pub label: String,
    /// Label value; of a region, the value that it is written as.
    pub value: i32,
    /// Remove all but the largest connected component.
    pub keep_largest_component: bool,
    /// Most components in any training label.
    pub most_components_in_training: u64,
    /// Its mean Dice over the cross-validation when its turn came (NaN if not evaluated).
    pub dice_before: f64,
    /// The same with only the largest component (NaN if not evaluated).
    pub dice_after: f64,
}

impl Kind for Postprocessing {
    const KIND: &'static str = "postprocessing";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        crate::label::check_labels(&self.labels)?;
        crate::label::check_regions(&self.labels, &self.regions, None)?;
        if !self.regions.is_empty() {
            return self.check_order_of_regions();
        }
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

impl Postprocessing {
    /// Regions overlap, so that their order matters: rules stand in the regions' order.
    fn check_order_of_regions(&self) -> Result<(), String> {
        let found: Vec<&str> = self.classes.iter().map(|rule| rule.label.as_str()).collect();
        let expected: Vec<&str> = self.regions.iter().map(|region| region.name.as_str()).collect();
        if found == expected {
            return Ok(());
        }
        Err(format!("classes names {found:?}, expected the regions in their order: {expected:?}"))
    }
}
