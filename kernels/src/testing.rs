//! What tests above the driver run on.

use crate::gpu::Gpu;
use crate::sim::SimOptions;

/// A simulated card.
#[must_use]
pub fn test_gpus() -> Vec<Gpu> {
    vec![Gpu::sim(SimOptions::default())]
}
