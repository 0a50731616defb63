//! `selection.toml`: which models predict new images together, and what happens to their predictions afterwards.
//!
//! Written by `nnu-postprocess select` from cross-validated predictions; `nnu-infer --selection` does what it says.

use crate::postprocessing::Postprocessing;
use crate::record::check_name;
use crate::{Kind, Label, Region};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path};

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// What was selected.
    pub selection: Selected,
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of the networks' outputs; none for most data sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// Everything that was compared: single configurations first, then pairs.
    pub candidates: Vec<Candidate>,
    /// The models that predict, by configuration, then fold. First stages of a cascade are among them.
    pub models: Vec<SelectedModel>,
    /// What follows, decided on the winner's cross-validated predictions.
    pub postprocessing: Postprocessing,
}

/// What was selected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// One configuration, or two whose probabilities are averaged.
    pub configurations: Vec<String>,
    /// Mean foreground Dice of the cross-validated predictions, before postprocessing.
    pub mean_dice: f64,
    /// The same after postprocessing.
    pub mean_dice_postprocessed: f64,
}

/// A configuration or a pair, and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// One configuration, or two.
    pub configurations: Vec<String>,
    /// Mean over classes (or regions) of `dice`.
    pub mean_dice: f64,
    /// Per foreground class (or region): mean over the cases that have it; NaN if none has.
    pub dice: Vec<f64>,
    /// Cases scored.
    pub cases: usize,
}

/// One trained model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectedModel {
    /// Its configuration.
    pub configuration: String,
    /// Its fold.
    pub fold: usize,
    /// Its folder, relative to the folder of `selection.toml`.
    pub folder: String,
    /// Hash of its `model.toml`.
    pub hash: String,
}

impl Kind for Selection {
    const KIND: &'static str = "selection";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        crate::label::check_labels(&self.labels)?;
        crate::label::check_regions(&self.labels, &self.regions, None)?;
        let chosen = &self.selection.configurations;
        if !matches!(chosen.len(), 1 | 2) {
            return Err(format!(
                "selection.configurations has {} entries, expected 1 or 2",
                chosen.len()
            ));
        }
        for name in chosen {
            check_name("selection.configurations", name)?;
            if !self.models.iter().any(|m| m.configuration == *name) {
                return Err(format!(
                    "models has none of configuration {name}, expected one per fold"
                ));
            }
        }
        for model in &self.models {
            let path = Path::new(&model.folder);
            let inside = |part: Component<'_>| {
                matches!(part, Component::Normal(_) | Component::ParentDir | Component::CurDir)
            };
            if model.folder.is_empty() || !path.components().all(inside) {
                return Err(format!(
                    "models names the folder \"{}\", expected a path relative to selection.toml",
                    model.folder
                ));
            }
        }
        if (&self.postprocessing.labels, &self.postprocessing.regions)
            != (&self.labels, &self.regions)
        {
            return Err("postprocessing has other labels or regions than the selection".into());
        }
        self.postprocessing.check()
    }
}
