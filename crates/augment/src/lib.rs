//! Samples patches from preprocessed cases and augments them.
//!
//! A batch is a pure function of (seed, mode, batch number): [`Loader::batch`] may be called by any thread in any
//! order. Rotation, scaling and elastic deformation are composed into one coordinate map and done in one resampling pass
//! ([`spatial`], [`resample`]); then come the intensities ([`intensity`], [`blur`], [`low_resolution`]), mirroring, and in a cascade
//! the channels of the previous stage ([`previous`]). [`draws`] decides which of them fire; the others take the random
//! draw as an argument.

pub mod blur;
mod cases;
mod check;
pub mod counter;
pub mod device;
pub mod draws;
pub mod elastic;
pub mod intensity;
mod loader;
pub mod low_resolution;
pub mod preview;
pub mod previous;
pub mod resample;
pub mod sampling;
pub mod settings;
mod simd;
pub mod spatial;
pub mod spline;
pub mod spool;

pub use cases::{case_path, cases_hash, open_cases, open_previous, previous_hash, training_cases};
pub use draws::{Draws, Elastic, Noise, Stream};
pub use loader::{Loader, Mode, Placement, SampledBatch};
pub use sampling::Aim;
pub use settings::{Frame, Settings};

/// Revision of batches, on the CPU and, with the kernels, on a card.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;
