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

/// How a first stage's classes reach the second stage's grid when both predict an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstStage {
    /// As a label map on the image's own grid, which is then preprocessed as the image is. nnU-Net, whose stages hand files
    /// to each other.
    ByImage,
    /// The network's outputs are resampled to the second stage's grid, and decided there: what maps for training are made by,
    /// in nnU-Net too.
    Straight,
}

/// Sliding-window prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inference {
    /// Distance of neighbouring tiles as a fraction of the patch.
    pub step: f64,
    /// Width of the Gaussian weight as a fraction of the patch.
    pub gaussian_sigma: f64,
    /// Average over all flips along the axes of [`super::Recipe::mirrored_in_prediction`].
    pub mirroring: bool,
    /// Axes (plan order z, y, x) of these flips, if they aren't those that training mirrored; imported models have them
    /// from their checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_axes: Option<Vec<usize>>,
    /// What is averaged.
    pub averaged: Averaged,
    /// Spline order when probabilities return to the original grid.
    pub resample_order: u8,
    /// The same along the coarse axis of an anisotropic case.
    pub resample_order_coarse_axis: u8,
    /// Cascades: the way from the first stage to the second.
    pub first_stage: FirstStage,
}

/// By what `nnu-postprocess fit` and `select` decide which components stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostprocessingRule {
    /// How many components the training labels have (the paper).
    TrainingComponents,
    /// Whether the cross-validated Dice rises: of all foreground together, then of each class or region (v2).
    CrossValidatedDice,
}

/// What `nnu-postprocess fit` may decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocessing {
    /// By what it decides.
    pub rule: PostprocessingRule,
    /// `training_components`: keep a class's largest component only, if no training label has two.
    pub keep_largest_if_single_in_training: bool,
    /// `training_components`: … and only if the cross-validated Dice of that class does not fall.
    pub only_if_dice_does_not_fall: bool,
}
