//! What tests above the driver run on.

use crate::gpu::Gpu;
use crate::sim::SimOptions;

/// A simulated card and, if `NNU_TEST_CUDA` is set, card 0; with `NNU_TEST_CUDA=only` that alone (for tools that watch
/// what runs there).
///
/// # Panics
/// If a card is asked for and there is none.
#[must_use]
pub fn test_gpus() -> Vec<Gpu> {
    let card = std::env::var_os("NNU_TEST_CUDA");
    let mut gpus = Vec::new();
    if card.as_deref().is_none_or(|value| value != "only") {
        gpus.push(Gpu::sim(SimOptions::default()));
    }
    if card.is_some() {
        gpus.push(Gpu::cuda(0).unwrap_or_else(|error| panic!("NNU_TEST_CUDA: {error}")));
    }
    gpus
}
