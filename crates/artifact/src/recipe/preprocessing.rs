//! How a case becomes arrays.

use serde::{Deserialize, Serialize};

/// Order of the steps between cropping and saving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOrder {
    /// The 2018 paper.
    ResampleThenNormalise,
    /// nnU-Net v2.
    NormaliseThenResample,
}

/// Which label a voxel between several takes, each with the weight of its linearly interpolated one-hot map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelVote {
    /// That of the largest weight; of equal ones the nearest voxel's, or the smallest if that is not among them. nnU-Net
    /// v2 with batchgenerators 0.25.5.
    LargestWeight,
    /// The largest label with at least one half; 0 where none has, as where three labels meet. The code of 2019.
    Half,
}

/// Rules of `nnu-preprocess`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Order of the steps.
    pub order: StepOrder,
    /// Spline order for images.
    pub image_order: u8,
    /// Spline order for images along the coarse axis of an anisotropic case.
    pub image_order_coarse_axis: u8,
    /// Spline order for one-hot labels; 0 = nearest neighbour.
    pub label_order: u8,
    /// Who wins with order 1.
    pub label_vote: LabelVote,
    /// The same along the coarse axis.
    pub label_order_coarse_axis: u8,
    /// The coarse axis is resampled separately above this spacing ratio.
    pub anisotropy_threshold: f64,
    /// At most this many foreground locations per class are stored …
    pub foreground_locations_per_class: usize,
    /// … but at least this fraction of the class's voxels.
    pub foreground_locations_min_fraction: f64,
}
