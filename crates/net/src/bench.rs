//! Times a network on noise, and counts its work.

mod layer;

pub use layer::{OneLayer, Operation};

use crate::cuda::transfer;
use crate::{AdamOptions, Device, DeviceBatch, Error, LossOptions, Optimiser, SgdOptions, UNet};
use artifact::plan::Network;
use kernels::{Buffer, Event, Gpu, Stream};
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
    /// Timed repetitions. One more, which takes the memory, goes ahead untimed; on a card a second one, which is recorded.
    pub repetitions: usize,
    /// How parameters are updated.
    pub update: Update,
}

/// How a training iteration ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Adam with AMSGrad, as the 2018 paper's code has it.
    Adam,
    /// As nnU-Net v2: the gradient clipped to norm 12, SGD with Nesterov momentum 0.99.
    Sgd,
}

impl Update {
    fn optimiser(self) -> Optimiser {
        let weight_decay = 3e-5;
        let (beta1, beta2) = (0.9, 0.999);
        match self {
            Self::Adam => Optimiser::adam(
                AdamOptions { beta1, beta2, epsilon: 1e-8, weight_decay, amsgrad: true },
                None,
            ),
            Self::Sgd => Optimiser::sgd(
                SgdOptions { momentum: 0.99, nesterov: true, weight_decay },
                Some(12.0),
            ),
        }
    }
}

/// Times, and the work in floating-point operations (a multiply-add counts 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Forward, loss, backward, update. On a card the batch lies there, as training's does.
    pub training: Seconds,
    /// Forward of the same batch; on the CPU through [`UNet::forward_into`], on a card from a batch there to logits there.
    pub forward: Seconds,
    /// Work of a training iteration.
    pub training_flops: f64,
    /// Work of a forward pass.
    pub forward_flops: f64,
    /// Operations per second that the units reach with operands in registers ([`crate::Cpu::measure_peak`]).
    pub peak: Option<f64>,
}

/// Medians of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// By the clock.
    pub wall: f64,
    /// Of all threads, where the system tells (Linux).
    pub cpu: Option<f64>,
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
    let mut optimiser = options.update.optimiser();
    let (loss, rate, patch) = (LossOptions::default(), 3e-4, options.patch);
    let times = (if let Device::Cuda(_) = device { 2 } else { 1 }, options.repetitions);
    let (training, forward) = match device {
        Device::Cpu(_) => {
            let training = median(times, || {
                net.step(image.view(), target.view(), &loss, &mut optimiser, rate).map(|_| ())
            })?;
            net.release_training();
            let mut logits = Array5::zeros((options.batch, spec.output_channels, d, h, w));
            let forward = || net.forward_into(image.view(), logits.view_mut());
            (training, median(times, forward)?)
        }
        Device::Cuda(cuda) => {
            let held = Uploaded::new(cuda.gpu(), &image, &target)?;
            let batch = held.batch(options.batch, patch);
            let training = median(times, || {
                net.begin_step_on_device(&batch, &loss, &mut optimiser, rate)?;
                net.loss_of_device(&loss).map(|_| ())
            })?;
            net.release_training();
            net.begin_views(options.batch, patch, &held.ready)?;
            (training, median(times, || held.forward(&mut net))?)
        }
    };
    let work = net.work(options.patch);
    Ok(Timing {
        training,
        forward,
        training_flops: options.batch as f64 * work.training,
        forward_flops: options.batch as f64 * work.forward,
        peak: match device {
            Device::Cpu(cpu) => cpu.measure_peak(),
            Device::Cuda(_) => None,
        },
    })
}

/// A batch in a card's memory.
struct Uploaded {
    image: Buffer,
    label: Buffer,
    ready: Event,
}

impl Uploaded {
    fn new(gpu: &Gpu, image: &Array5<f32>, target: &Array4<i16>) -> Result<Self, Error> {
        let (images, targets) =
            (image.as_slice().unwrap_or_default(), target.as_slice().unwrap_or_default());
        let stream = gpu.stream()?;
        let (image, label) = (gpu.buffer(size_of_val(images))?, gpu.buffer(size_of_val(targets))?);
        stream.upload(image.pointer(), images)?;
        stream.upload(label.pointer(), targets)?;
        Ok(Self { image, label, ready: stream.record()? })
    }

    /// A forward pass to its end. The logits stay on the card, as those of tiles do.
    fn forward(&self, net: &mut UNet) -> Result<(), Error> {
        let image = self.image.pointer();
        net.forward_views("bench", &|ctx, input| transfer::import(ctx, image, input), &|_, _| ())?;
        net.card_stream().map_or(Ok(()), Stream::synchronise).map_err(Error::from)
    }

    fn batch(&self, samples: usize, patch: [usize; 3]) -> DeviceBatch<'_> {
        let (image, label) = (self.image.pointer(), self.label.pointer());
        DeviceBatch { image, label, samples, patch, ready: &self.ready }
    }
}

/// Median seconds of `repetitions` calls after `untimed` others.
fn median(
    (untimed, repetitions): (usize, usize),
    mut call: impl FnMut() -> Result<(), Error>,
) -> Result<Seconds, Error> {
    for _ in 0..untimed {
        call()?;
    }
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
