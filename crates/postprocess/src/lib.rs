//! Scores predicted label maps against reference ones, and decides and applies postprocessing.
//!
//! - [`score`]: voxel counts, Dice, IoU, volumes, means.
//! - [`components`]: connected components of a class.
//! - [`largest`]: the paper's rule, keep a class's largest component where training cases have one only.
//! - [`overlay`]: pictures of reference and prediction on the image.
//! - [`files`], [`table`]: cases in folders; a summary as text and CSV.
//!
//! All of it works case by case: memory doesn't grow with the number of cases, and no result depends on their order
//! or on the number of threads. Nothing here knows of networks or of how predictions were made.

pub mod components;
pub mod files;
pub mod largest;
pub mod overlay;
pub mod score;
pub mod table;
