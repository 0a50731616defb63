//! How a plan is derived.

use crate::plan::Encoder;
use serde::{Deserialize, Serialize};

/// What counts the same in the foreground intensities of the training set, by which CT is clipped and scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// Every voxel: a case counts by its foreground (the paper).
    PerVoxel,
    /// Every case: its voxels share one weight (v2, which draws equally many from each).
    PerCase,
}

/// Rules of `nnu-plan`; `rules` says which planner, the other keys are that planner's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rules", rename_all = "snake_case")]
pub enum Planning {
    /// The 2018 paper: patches by aspect ratio, batches by voxel count, axes pooled independently.
    Paper(PaperPlanning),
    /// nnU-Net v2: patches and batches by an estimate of the network's memory, axes pooled by spacing.
    V2(V2Planning),
}

impl Planning {
    /// The budget to plan for.
    pub fn gpu_memory_gib(&self) -> f64 {
        match self {
            Self::Paper(p) => p.gpu_memory_gib,
            Self::V2(p) => p.gpu_memory_gib,
        }
    }

    /// What counts the same in the foreground intensities.
    pub fn intensity_weighting(&self) -> Weighting {
        match self {
            Self::Paper(p) => p.intensity_weighting,
            Self::V2(p) => p.intensity_weighting,
        }
    }

    /// GPU memory that the reference numbers were made for.
    pub fn reference_memory_gib(&self) -> f64 {
        match self {
            Self::Paper(p) => p.reference_memory_gib,
            Self::V2(p) => p.reference_memory_gib,
        }
    }
}

/// Rules of the 2018 paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperPlanning {
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
    /// What counts the same in the foreground intensities of CT.
    pub intensity_weighting: Weighting,
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

/// When a patch is small enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShrinkUntil {
    /// Once the smallest allowed batch fits.
    SmallestBatchFits,
    /// Once the reference batch fits.
    ReferenceBatchFits,
}

/// Rules of nnU-Net v2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct V2Planning {
    /// GPU memory that the reference estimates fill; `--gpu-memory` scales them from here.
    pub reference_memory_gib: f64,
    /// The budget to plan for.
    pub gpu_memory_gib: f64,
    /// Estimate (elements of all convolutions' outputs for one sample) at which the reference batch fits, 3D.
    pub reference_estimate_3d: u64,
    /// Batch size that belongs to it.
    pub reference_batch_3d: usize,
    /// The same, 2D.
    pub reference_estimate_2d: u64,
    /// Batch size that belongs to it.
    pub reference_batch_2d: usize,
    /// Patches start from a box of this edge's volume, with the aspect ratio of a cube in mm.
    pub start_edge_3d: usize,
    /// Patches start from a rectangle of this edge's area.
    pub start_edge_2d: usize,
    /// When a patch is small enough.
    pub shrink_until: ShrinkUntil,
    /// The batch is never smaller.
    pub min_batch_size: usize,
    /// One batch sees at most this fraction of the training set's voxels.
    pub max_dataset_fraction_per_batch: f64,
    /// No axis is pooled to fewer voxels.
    pub min_bottleneck_edge: usize,
    /// An axis that would be pooled alone must have at least this many voxels.
    pub min_edge_pooled_alone: usize,
    /// Axes are pooled, and convolved with kernels of 3, while their voxel distance is below this many times the finest.
    pub similar_spacing_below: f64,
    /// What the encoder's stages are made of.
    pub encoder: Encoder,
    /// Convolutions (residual: blocks) per encoder stage; the last number stands for all deeper stages.
    pub encoder_convs: Vec<usize>,
    /// Convolutions per decoder stage, deepest first; the last number stands for all further stages.
    pub decoder_convs: Vec<usize>,
    /// Feature maps at full resolution; doubled by each stage.
    pub base_features: usize,
    /// Upper bound of the feature maps, 3D.
    pub max_features_3d: usize,
    /// Upper bound of the feature maps, 2D.
    pub max_features_2d: usize,
    /// Percentile of the cases' spacings that becomes the target spacing.
    pub target_spacing_percentile: f64,
    /// A data set is anisotropic if its coarsest axis is coarser than the others, and has fewer voxels, by this factor.
    pub anisotropy_threshold: f64,
    /// Percentile for the coarse axis of an anisotropic data set.
    pub coarse_axis_percentile: f64,
    /// If that is finer than another axis, the coarse axis gets the other axis's spacing and this much more, in mm.
    pub coarse_axis_margin_mm: f64,
    /// Masked normalisation if cropping leaves less than this fraction of the voxels (median over cases).
    pub masked_normalisation_below: f64,
    /// What counts the same in the foreground intensities of CT.
    pub intensity_weighting: Weighting,
    /// A cascade is planned if a patch has less than this fraction of the median case's voxels.
    pub cascade_below_fraction: f64,
    /// Factor by which the low-resolution spacing grows per step.
    pub low_resolution_step: f64,
    /// Low resolution: axes finer than the coarsest one by more than this factor are coarsened first.
    pub low_resolution_finer_than: f64,
    /// The cascade is dropped if its low resolution has not at least this many times fewer voxels.
    pub low_resolution_min_reduction: f64,
    /// A loss at every decoder resolution.
    pub deep_supervision: bool,
    /// Slope of the leaky ReLU below 0.
    pub negative_slope: f32,
    /// Added to the variance by the instance norm.
    pub norm_epsilon: f32,
}
