//! Trains one fold of one configuration.
//!
//! A training is a pure function of plan, splits, cases and seed: batch `i` is drawn from a random stream named after
//! `i`, and sums run in a fixed order. So a run that is killed and resumed ends with the same bytes as one that isn't.
//!
//! - [`Schedule`]: learning rate and the end of training (the paper's plateau rule, or v2's polynomial).
//! - [`Trainer`]: the loop over epochs, with a checkpoint after each.
//! - [`checkpoint`]: the state on disk. [`Feed`]: batches prepared beside the network.
//! - [`validate`]: full prediction of the fold's validation cases at the end.

mod batches;
pub mod checkpoint;
mod feed;
mod inputs;
mod progress;
mod schedule;
mod trainer;
mod validate;

pub use batches::Batches;
pub use feed::{Feed, Source, Taken};
pub use inputs::{Inputs, Request};
pub use progress::draw;
pub use schedule::{Schedule, ScheduleState, Verdict};
pub use trainer::{Outcome, Trainer};
pub use validate::validate;

/// Revision of trainings, beside what `net` and `augment` compute.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 1;
