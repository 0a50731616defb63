//! The recipe: every constant that a stage would otherwise hide in its code.
//!
//! A recipe is a TOML file with these tables; `nnu-plan` copies the resolved one into `plan.toml` under `[recipe]`.
//! Unknown keys are errors, so that a mistyped setting is never silently ignored.

mod check;

use serde::{Deserialize, Serialize};

/// A closed range, written `[low, high]`.
pub type Range = [f64; 2];

/// All settings, by the stage that reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the recipe this started from: `paper`, or the user's own.
    pub name: String,
    /// Rules of `nnu-plan`.
    pub planning: Planning,
    /// Rules of `nnu-preprocess`.
    pub preprocessing: Preprocessing,
    /// Which patches are drawn.
    pub sampling: Sampling,
    /// How patches are changed.
    pub augmentation: Augmentation,
    /// Loss.
    pub loss: LossWeights,
    /// Optimiser.
    pub optimiser: Optimiser,
    /// Length of a training, learning rate, stopping.
    pub schedule: Schedule,
    /// Sliding-window prediction.
    pub inference: Inference,
    /// What `nnu-postprocess fit` may decide.
    pub postprocessing: Postprocessing,
}

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

/// Order of the steps between cropping and saving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOrder {
    /// The 2018 paper.
    ResampleThenNormalise,
    /// nnU-Net v2.
    NormaliseThenResample,
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
    /// Spline order for one-hot labels (1 with threshold 0.5; 0 = nearest neighbour).
    pub label_order: u8,
    /// The same along the coarse axis.
    pub label_order_coarse_axis: u8,
    /// The coarse axis is resampled separately above this spacing ratio.
    pub anisotropy_threshold: f64,
    /// At most this many foreground locations per class are stored …
    pub foreground_locations_per_class: usize,
    /// … but at least this fraction of the class's voxels.
    pub foreground_locations_min_fraction: f64,
}

/// Which patches are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Share of the batch that must show foreground: the last `round(batch × fraction)` samples, at least one.
    pub foreground_fraction: f64,
}

/// How patches are changed. Probabilities are per sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// 3D patches whose largest edge exceeds the smallest this many times are augmented slice by slice.
    pub slice_by_slice_above: f64,
    /// Spline order of the spatial transforms, images.
    pub image_order: u8,
    /// Spline order of the spatial transforms, one-hot labels.
    pub label_order: u8,
    /// Probability of a rotation.
    pub rotation_probability: f64,
    /// Angle about each axis, 3D.
    pub rotation_degrees_3d: Range,
    /// In-plane angle, 2D and slice by slice.
    pub rotation_degrees_2d: Range,
    /// In-plane angle, 2D patches whose edges differ more than `elongated_above` times.
    pub rotation_degrees_2d_elongated: Range,
    /// See above.
    pub elongated_above: f64,
    /// Probability of a scaling.
    pub scaling_probability: f64,
    /// Factor on the sampling coordinates, one for all axes: above 1 shrinks the object.
    pub scaling_factor: Range,
    /// Probability of an elastic deformation.
    pub elastic_probability: f64,
    /// Magnitude (voxels, before smoothing), 3D.
    pub elastic_alpha_3d: Range,
    /// Magnitude (voxels, before smoothing), 2D and slice by slice.
    pub elastic_alpha_2d: Range,
    /// Width of the smoothing Gaussian, voxels.
    pub elastic_sigma: Range,
    /// Probability of a gamma transform.
    pub gamma_probability: f64,
    /// Exponent.
    pub gamma: Range,
    /// Restore mean and standard deviation after gamma.
    pub gamma_retain_statistics: bool,
    /// Probability of a flip, per axis.
    pub mirror_probability: f64,
    /// Axes (plan order z, y, x) that may be flipped, in training and at test time.
    pub mirror_axes: Vec<usize>,
}

/// Loss = `dice_weight` × Dice loss + `cross_entropy_weight` × cross-entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossWeights {
    /// Weight of the Dice loss.
    pub dice_weight: f64,
    /// Weight of the cross-entropy.
    pub cross_entropy_weight: f64,
    /// Added to numerator and denominator of the Dice.
    pub dice_smooth: f64,
    /// Count the background as a class of the Dice.
    pub dice_background: bool,
}

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimiserKind {
    /// Adam.
    Adam,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// Optimiser and its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimiser {
    /// Which one.
    pub kind: OptimiserKind,
    /// Initial learning rate.
    pub learning_rate: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Adam: decay of the mean of gradients.
    pub beta1: f64,
    /// Adam: decay of the mean of squared gradients.
    pub beta2: f64,
    /// Adam: added to the denominator.
    pub epsilon: f64,
    /// Adam: divide by the largest mean square so far.
    pub amsgrad: bool,
    /// SGD: momentum.
    pub momentum: f64,
    /// SGD: Nesterov's form.
    pub nesterov: bool,
    /// Global gradient norm is clipped to this; 0 = off.
    pub clip_norm: f64,
}

/// How the learning rate moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Divided when the training loss stops improving; training ends when the validation loss does.
    Plateau,
    /// `learning_rate × (1 − epoch / epochs) ^ poly_power`.
    Polynomial,
}

/// Length of a training, learning rate, stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Which rule moves the learning rate.
    pub kind: ScheduleKind,
    /// Epochs at most.
    pub epochs: usize,
    /// Training batches per epoch.
    pub iterations_per_epoch: usize,
    /// Validation batches per epoch.
    pub validation_iterations: usize,
    /// Polynomial: exponent.
    pub poly_power: f64,
    /// Plateau: decay of the moving average of the training loss.
    pub train_average_decay: f64,
    /// Plateau: decay of the moving average of the validation loss.
    pub validation_average_decay: f64,
    /// Plateau: an improvement counts from here (absolute).
    pub min_improvement: f64,
    /// Plateau: epochs without improvement of the training average before the rate is divided.
    pub reduce_after_epochs: usize,
    /// Plateau: factor on the learning rate.
    pub reduce_factor: f64,
    /// Plateau: epochs without improvement of the validation average before training ends …
    pub stop_after_epochs: usize,
    /// … but not while the learning rate is above this.
    pub stop_below_learning_rate: f64,
}

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
