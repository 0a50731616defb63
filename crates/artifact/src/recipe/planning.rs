//! How a plan is derived.

use serde::{Deserialize, Serialize};

/// Which planner reads the numbers of [`Planning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanningRules {
    /// The 2018 paper: patches by aspect ratio, batches by voxel count, axes pooled independently.
    Paper,
}

/// Rules of `nnu-plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planning {
    /// Which planner.
    pub rules: PlanningRules,
    /// GPU memory that the reference patches fill; `--gpu-memory` scales batch and patch from here.
    pub reference_memory_gib: f64,
    /// The budget to plan for.
    pub gpu_memory_gib: f64,
    /// Reference 3D patch; its voxel count bounds every 3D patch at the reference memory.
    pub reference_patch_3d: [usize; 3],
    /// Longest edge of a 3D patch.
    pub max_patch_edge_3d: usize,
    /// Batch size that fits with the reference patch.
    pub reference_batch_3d: usize,
    /// Reference 2D patch.
    pub reference_patch_2d: [usize; 2],
    /// Batch size that fits with the reference patch.
    pub reference_batch_2d: usize,
    /// Feature maps at full resolution; doubled by each pooling.
    pub base_features: usize,
    /// Upper bound of the feature maps, 3D.
    pub max_features_3d: usize,
    /// Upper bound of the feature maps, 2D.
    pub max_features_2d: usize,
    /// Convolutions per stage, encoder and decoder.
    pub convs_per_stage: usize,
    /// An axis is pooled until its feature map is smaller than this.
    pub pool_until_smaller_than: usize,
    /// Poolings per axis at most, 3D.
    pub max_poolings_3d: usize,
    /// Poolings per axis at most, 2D.
    pub max_poolings_2d: usize,
    /// One batch sees at most this fraction of the training set's voxels.
    pub max_dataset_fraction_per_batch: f64,
    /// The batch is never smaller.
    pub min_batch_size: usize,
    /// Percentile of the cases' spacings that becomes the target spacing.
    pub target_spacing_percentile: f64,
    /// Low resolution: axes finer than the coarsest one by this factor or more are coarsened first.
    pub anisotropy_threshold: f64,
    /// Masked normalisation if cropping leaves at most this fraction of the voxels (mean over cases).
    pub masked_normalisation_below: f64,
    /// A cascade is planned if the median case has more than this many times the voxels that fit into one patch.
    pub cascade_above_patches: f64,
    /// Factor by which the low-resolution spacing grows per step.
    pub low_resolution_step: f64,
    /// A loss at every decoder resolution.
    pub deep_supervision: bool,
    /// Slope of the leaky ReLU below 0.
    pub negative_slope: f32,
    /// Added to the variance by the instance norm.
    pub norm_epsilon: f32,
}
