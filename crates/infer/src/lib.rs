//! Predicts whole images with trained models.
//!
//! One case at a time: [`prepare`] reads and preprocesses it (or maps a preprocessed one) while the network is still at
//! the case before, [`predict`] runs the sliding window of every model, [`export`] brings the probabilities back to the
//! image's own grid, and [`write`] writes the label map while the network is at the case behind. Models are read and
//! compared by [`ensemble`]; [`units`] says which cases there are.

mod average;
pub mod ensemble;
pub mod export;
pub mod lineup;
mod maps;
mod memory;
mod planes;
mod predict;
pub mod prepare;
pub mod previous;
mod run;
pub mod units;
mod write;

pub use predict::{Predictor, Took};
pub use run::{Input, Models, Request, run};

/// Revision of predictions, beside what `net`, `preprocess` and `postprocess` compute.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;
