//! Times a network on noise, and counts its work.

use crate::{AdamOptions, Device, Error, LossOptions, Optimiser, UNet};
use artifact::plan::Network;
use ndarray::{Array4, Array5};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

/// What to time.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchOptions {
    /// Samples per batch.
    pub batch: usize,
    /// z, y, x.
    pub patch: [usize; 3],
    /// Timed repetitions; one more, which takes the memory, goes ahead untimed.
    pub repetitions: usize,
}

/// Medians in seconds, and the work in floating-point operations (a multiply-add counts 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Forward, loss, backward, Adam.
    pub training_seconds: f64,
    /// Forward of the same batch through [`UNet::forward`].
    pub forward_seconds: f64,
    /// Work of a training iteration.
    pub training_flops: f64,
    /// Work of a forward pass.
    pub forward_flops: f64,
}

/// Adam as the 2018 paper's code has it.
pub fn paper_adam() -> Optimiser {
    let options =
        AdamOptions { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 3e-5, amsgrad: true };
    Optimiser::adam(options, None)
}

/// Times training iterations and forward passes on noise.
///
/// # Errors
/// As [`UNet::new`] and [`UNet::forward`].
pub fn bench(spec: &Network, device: &Device, options: &BenchOptions) -> Result<Timing, Error> {
    let [d, h, w] = options.patch;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let shape = (options.batch, spec.input_channels, d, h, w);
    let image = Array5::from_shape_simple_fn(shape, || rng.random_range(-1.0f32..1.0));
    let classes = i16::try_from(spec.output_channels).unwrap_or(i16::MAX);
    let target =
        Array4::from_shape_simple_fn((options.batch, d, h, w), || rng.random_range(0..classes));
    let mut net = UNet::new(spec, device)?;
    net.initialise(0);
    let mut optimiser = paper_adam();
    let training_seconds = median(options.repetitions, || {
        net.loss_and_gradients(image.view(), target.view(), &LossOptions::default())?;
        net.update(&mut optimiser, 3e-4)
    })?;
    let mut logits = Array5::zeros((options.batch, spec.output_channels, d, h, w));
    net.release_training();
    let forward_seconds =
        median(options.repetitions, || net.forward_into(image.view(), logits.view_mut()))?;
    let work = net.work(options.patch);
    Ok(Timing {
        training_seconds,
        forward_seconds,
        training_flops: options.batch as f64 * work.training,
        forward_flops: options.batch as f64 * work.forward,
    })
}

/// Median seconds of `repetitions` calls after one that is not timed.
fn median(repetitions: usize, mut call: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    call()?;
    let mut seconds = Vec::new();
    for _ in 0..repetitions.max(1) {
        let begun = Instant::now();
        call()?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}
