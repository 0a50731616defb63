//! Samples patches from preprocessed cases and augments them.
//!
//! A batch is a pure function of (seed, mode, batch number): [`Loader::batch`] may be called by any thread in any
//! order. The transforms are the 2018 paper's: rotation, scaling and elastic deformation, composed into one coordinate
//! map and done in one resampling pass ([`spatial`]), then gamma ([`intensity`]), then mirroring. [`draws`] decides which
//! of them fire; the others take the random draw as an argument.

mod cases;
pub mod draws;
pub mod elastic;
pub mod intensity;
mod loader;
pub mod preview;
pub mod sampling;
pub mod spatial;
pub mod spline;
pub mod spool;

pub use cases::{case_path, cases_hash, open_cases, training_cases};
pub use draws::{Draws, Elastic, Frame, Settings};
pub use loader::{Loader, Mode, Placement, SampledBatch};
