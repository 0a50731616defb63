//! Prediction and what follows it.

use serde::{Deserialize, Serialize};

/// What is averaged over tiles, mirrors and models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Averaged {
    /// Softmax outputs (the paper, v1).
    Probabilities,
    /// Network outputs (v2, within one model).
    Logits,
}

/// Sliding-window prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inference {
    /// Distance of neighbouring tiles as a fraction of the patch.
    pub step: f64,
    /// Width of the Gaussian weight as a fraction of the patch.
    pub gaussian_sigma: f64,
    /// Average over all flips along `augmentation.mirror_axes`.
    pub mirroring: bool,
    /// What is averaged.
    pub averaged: Averaged,
    /// Spline order when probabilities return to the original grid.
    pub resample_order: u8,
    /// The same along the coarse axis of an anisotropic case.
    pub resample_order_coarse_axis: u8,
}

/// What `nnu-postprocess fit` may decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocessing {
    /// Keep a class's largest component only, if every training label has a single component of it.
    pub keep_largest_if_single_in_training: bool,
    /// … and only if the cross-validated Dice of that class does not fall.
    pub only_if_dice_does_not_fall: bool,
}
