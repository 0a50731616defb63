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

/// Times, and the work in floating-point operations (a multiply-add counts 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Forward, loss, backward, Adam.
    pub training: Seconds,
    /// Forward of the same batch through [`UNet::forward`].
    pub forward: Seconds,
    /// Work of a training iteration.
    pub training_flops: f64,
    /// Work of a forward pass.
    pub forward_flops: f64,
}

/// Medians of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// By the clock.
    pub wall: f64,
    /// Of all threads, where the system tells (Linux).
    pub cpu: Option<f64>,
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
    net.initialise(0)?;
    let mut optimiser = paper_adam();
    let training = median(options.repetitions, || {
        net.step(image.view(), target.view(), &LossOptions::default(), &mut optimiser, 3e-4)?;
        Ok(())
    })?;
    let mut logits = Array5::zeros((options.batch, spec.output_channels, d, h, w));
    net.release_training();
    let forward =
        median(options.repetitions, || net.forward_into(image.view(), logits.view_mut()))?;
    let work = net.work(options.patch);
    Ok(Timing {
        training,
        forward,
        training_flops: options.batch as f64 * work.training,
        forward_flops: options.batch as f64 * work.forward,
    })
}

/// Median seconds of `repetitions` calls after one that is not timed.
fn median(
    repetitions: usize,
    mut call: impl FnMut() -> Result<(), Error>,
) -> Result<Seconds, Error> {
    call()?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..repetitions.max(1) {
        let (begun, used) = (Instant::now(), cpu_seconds());
        call()?;
        wall.push(begun.elapsed().as_secs_f64());
        cpu.extend(cpu_seconds().zip(used).map(|(end, begin)| end - begin));
    }
    let middle = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list.get(list.len() / 2).copied()
    };
    Ok(Seconds { wall: middle(wall).unwrap_or(f64::NAN), cpu: middle(cpu) })
}

/// User and system time of this process: fields 14 and 15 of Linux' `/proc/self/stat`, in hundredths of a second.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / 100.0)
}
