//! Scores predicted label maps against reference ones, averages predictions, selects among configurations, and decides
//! and applies postprocessing.
//!
//! - [`scheme`]: labels, regions, ignore label; what is scored.
//! - [`score`]: voxel counts, Dice, IoU, volumes, means.
//! - [`decision`]: from probabilities to classes; [`average`]: the mean of several predictions.
//! - [`components`]: connected components; [`largest`]: keeping the largest; [`fit`]: deciding which.
//! - [`select`]: the best single configuration or pair.
//! - [`overlay`]: pictures of reference and prediction on the image.
//! - [`files`], [`table`]: cases in folders; a summary as text and CSV.
//!
//! All of it works case by case: memory doesn't grow with the number of cases, and no result depends on their order
//! or on the number of threads. Nothing here knows of networks or of how predictions were made.

pub mod average;
pub mod components;
pub mod decision;
pub mod files;
pub mod fit;
pub mod largest;
pub mod overlay;
pub mod scheme;
pub mod score;
pub mod select;
pub mod table;

/// Revision of summaries, selections, postprocessing and averaged predictions.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 1;
