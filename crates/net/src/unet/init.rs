//! First weights: He et al. 2015 for leaky ReLUs, as torch's `kaiming_normal_(a = 0.01)` draws them.

use super::topology::{Role, Topology};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Slope that the gain is computed for (nnU-Net's `InitWeights_He(1e-2)`).
const SLOPE: f64 = 1e-2;

/// Writes all parameters. Standard deviation √(2 / (1 + slope²) / fan_in), with torch's fan_in: the second axis of the
/// weights times the kernel, which for a transposed convolution is the output's channels.
pub(crate) fn initialise(topology: &Topology, seed: u64, values: &mut [f32]) {
    for layer in &topology.layers {
        let channels = if layer.role == Role::Up { layer.outputs } else { layer.inputs };
        let fan_in = (channels * layer.geometry.taps()) as f64;
        let sd = (2.0 / (1.0 + SLOPE * SLOPE) / fan_in).sqrt();
        let name = format!("{}.weight", layer.name);
        normal(seed, &name, sd, &mut values[layer.weight.clone()]);
        values[layer.bias.clone()].fill(0.0);
        // A residual block begins as its skip alone.
        values[layer.gamma.clone()].fill(if layer.role == Role::Residual { 0.0 } else { 1.0 });
        values[layer.beta.clone()].fill(0.0);
    }
}

/// Normal numbers from the stream of (seed, name), by Box and Muller's transform in f64.
fn normal(seed: u64, name: &str, sd: f64, values: &mut [f32]) {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(*hash.finalize().as_bytes());
    for pair in values.chunks_mut(2) {
        // 1 − u lies in (0, 1]: its logarithm is finite.
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        let radius = sd * (-2.0 * u.ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
        for (value, part) in pair.iter_mut().zip([cos, sin]) {
            *value = (radius * part) as f32;
        }
    }
}
