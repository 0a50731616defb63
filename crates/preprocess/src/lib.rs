//! Crops, resamples and normalises cases for one configuration.
//!
//! [`preprocess`] is the whole way of one case; `nnu-preprocess` runs it over a data set, `nnu-infer` over new images.
//! Rules and constants are nnU-Net's and come from the plan's recipe; nothing here is decided by this crate.

mod case;
mod extent;
pub mod foreground;
pub mod normalise;
pub mod resample;

pub use case::{Preprocessed, configuration, preprocess, target_spacing, write_case};
pub use extent::Extent;

/// Revision of preprocessed cases.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;
