//! Which patches are drawn and how they are changed.

use super::Range;
use serde::{Deserialize, Serialize};

/// How many samples of a batch a share of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareOf {
    /// What is left when the others, `batch × (1 − share)`, are rounded, halves to even; none of a batch of 1. nnU-Net v2.
    Rounded,
    /// The fewest that are more than `batch × share`. The paper.
    MoreThan,
}

/// Which patches are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Share of the batch that must show foreground, its last samples; 0: none.
    pub foreground_fraction: f64,
    /// How many samples that is.
    pub foreground_count: ShareOf,
}

/// How patches are changed. Probabilities are per sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// 3D patches whose largest edge exceeds the edge across the slices more than this many times are augmented slice by
    /// slice.
    pub slice_by_slice_above: f64,
    /// Which axis the slices lie across.
    #[serde(default)]
    pub slice_by_slice_axis: SliceAxis,
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
    /// How the factor is drawn from its range.
    pub scaling_draw: Draw,
    /// Probability of an elastic deformation.
    pub elastic_probability: f64,
    /// Magnitude (voxels, before smoothing), 3D.
    pub elastic_alpha_3d: Range,
    /// Magnitude (voxels, before smoothing), 2D and slice by slice.
    pub elastic_alpha_2d: Range,
    /// Width of the smoothing Gaussian, voxels.
    pub elastic_sigma: Range,
    /// Probability of Gaussian noise.
    pub noise_probability: f64,
    /// Its standard deviation, the same for all channels.
    pub noise_sigma: Range,
    /// Probability of a Gaussian blur.
    pub blur_probability: f64,
    /// Its width in voxels, per channel and axis.
    pub blur_sigma: Range,
    /// Probability that a channel is blurred, if the blur fires.
    pub blur_channel_probability: f64,
    /// Probability of a factor on the intensities.
    pub brightness_probability: f64,
    /// The factor, per channel; drawn on either side of 1.
    pub brightness_factor: Range,
    /// Probability of a change of contrast.
    pub contrast_probability: f64,
    /// Factor on the distance from the channel's mean; drawn on either side of 1. The old extrema bound the result.
    pub contrast_factor: Range,
    /// Probability of a simulated low resolution.
    pub low_resolution_probability: f64,
    /// Share of the voxels per axis that is left in between.
    pub low_resolution_zoom: Range,
    /// Probability that a channel is affected, if it fires.
    pub low_resolution_channel_probability: f64,
    /// Probability of a gamma transform of the negated image, before the plain one.
    pub inverted_gamma_probability: f64,
    /// Probability of a gamma transform.
    pub gamma_probability: f64,
    /// Exponent of both; drawn on either side of 1.
    pub gamma: Range,
    /// Restore mean and standard deviation after gamma.
    pub gamma_retain_statistics: bool,
    /// Probability of a flip, per axis.
    pub mirror_probability: f64,
    /// Axes (plan order z, y, x) that may be flipped; in prediction too, unless `inference.mirror_axes` says others.
    pub mirror_axes: Vec<usize>,
    /// Anatomical axes that are never flipped, whichever of `mirror_axes` they lie along in an image.
    pub never_mirror: Vec<AnatomicalAxis>,
    /// Cascade: probability of a morphological change of the previous stage's channels.
    pub previous_morphology_probability: f64,
    /// Cascade: radius of the ball, voxels.
    pub previous_morphology_radius: Range,
    /// Cascade: probability that a label is changed, if the change fires.
    pub previous_morphology_label_probability: f64,
    /// Cascade: probability that components of the previous stage's channels vanish.
    pub previous_removal_probability: f64,
    /// Cascade: probability that a label loses one, if the removal fires.
    pub previous_removal_label_probability: f64,
    /// Cascade: only components smaller than this fraction of the patch vanish.
    pub previous_removal_max_fraction: f64,
}

/// Which axis slices lie across.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceAxis {
    /// The patch's shortest edge, the first of equals.
    #[default]
    Shortest,
    /// Axis 0, the plan's coarsest.
    First,
}

/// How a number is drawn from a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draw {
    /// Uniformly.
    Uniform,
    /// One time in two below 1, else above, uniformly on that side.
    EitherSide,
}

/// An axis of the patient's body; which axis of an image it is: [`crate::case::Original::anatomical_axis`]. In the
/// order of the rows of an LPS direction matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnatomicalAxis {
    /// Left to right.
    LeftRight,
    /// Front to back.
    AnteriorPosterior,
    /// Feet to head.
    InferiorSuperior,
}
