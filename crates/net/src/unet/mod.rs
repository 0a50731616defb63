//! The network: parameters, passes, loss, update.

mod init;
mod on_device;
mod pass;
mod residual;
mod state;
mod topology;
mod workspace;

use crate::Error;
use crate::describe::{self, Work};
use crate::device::Device;
use crate::engine::cuda::CudaEngine;
use crate::host::engine::Host;
use crate::loss::{Loss, LossOptions, Targets};
use crate::optimiser::Optimiser;
use artifact::plan::Network;
pub(crate) use init::initialise;
use ndarray::{Array5, ArrayD, ArrayView4, ArrayView5, ArrayViewMut5, IxDyn};
pub use on_device::DeviceBatch;
use state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
pub(crate) use topology::{Layer, Parameter, Role, Topology, loss_weights};

/// The passes over a network on one engine.
#[derive(Debug)]
struct Passes<E> {
    topology: Topology,
    engine: E,
    negative_slope: f32,
}

/// A network on the engine of its device.
#[derive(Debug)]
enum Runner {
    Cpu(Box<State<Host>>),
    Cuda(Box<State<CudaEngine>>),
}

/// The same expression over the state of either engine.
macro_rules! on {
    ($runner:expr, $state:ident => $body:expr) => {
        match $runner {
            Runner::Cpu($state) => $body,
            Runner::Cuda($state) => $body,
        }
    };
}

/// A U-Net with its parameters and gradients. See [`Network`] for the architecture and the crate for the layout.
#[derive(Debug)]
pub struct UNet {
    spec: Network,
    topology: Topology,
    runner: Runner,
}

impl UNet {
    /// All parameters zero but the norms' scales, which are one; call [`UNet::initialise`] or
    /// [`UNet::set_parameters`].
    ///
    /// # Errors
    /// If the description contradicts itself, or the device fails.
    pub fn new(spec: &Network, device: &Device) -> Result<Self, Error> {
        let topology = Topology::new(spec)?;
        let runner = match device {
            Device::Cpu(cpu) => {
                let engine = Host { cpu: *cpu, norm_epsilon: spec.norm_epsilon };
                Runner::Cpu(Box::new(State::new(spec, topology.clone(), engine)?))
            }
            Device::Cuda(cuda) => {
                let engine = CudaEngine::new(cuda, spec.norm_epsilon)?;
                Runner::Cuda(Box::new(State::new(spec, topology.clone(), engine)?))
            }
        };
        Ok(Self { spec: spec.clone(), topology, runner })
    }

    /// The description that this network was made from.
    pub fn spec(&self) -> &Network {
        &self.spec
    }

    /// Draws weights from a normal distribution (He et al. 2015, for the leaky ReLU's slope 0.01), biases 0, norms 1
    /// and 0. Each tensor has a random stream of its own, keyed by seed and name.
    ///
    /// # Errors
    /// If the device fails.
    pub fn initialise(&mut self, seed: u64) -> Result<(), Error> {
        on!(&mut self.runner, s => s.initialise(seed))
    }

    /// Every parameter by name in network order, in PyTorch's shapes: convolutions `[out, in, z, y, x]`, transposed
    /// convolutions `[in, out, z, y, x]`, biases and norms `[channels]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn parameters(&self) -> Result<Vec<(String, ArrayD<f32>)>, Error> {
        let values = on!(&self.runner, s => s.values())?;
        Ok(named(&self.topology.parameters, &values))
    }

    /// Takes over parameters in any order. Names and shapes must be exactly those of [`UNet::parameters`].
    ///
    /// # Errors
    /// If they are not, or the device fails.
    pub fn set_parameters(&mut self, named: &[(String, ArrayD<f32>)]) -> Result<(), Error> {
        let values = gather_named(&self.topology.parameters, named)?;
        on!(&mut self.runner, s => s.set_values(values))
    }

    /// Gradients of the last [`UNet::loss_and_gradients`], named and shaped as [`UNet::parameters`]; zeros before the
    /// first. The bias of a convolution before a norm has gradient 0: the norm takes any constant away again.
    ///
    /// # Errors
    /// If the device fails.
    pub fn gradients(&self) -> Result<Vec<(String, ArrayD<f32>)>, Error> {
        let gradient = on!(&self.runner, s => s.gradients())?;
        Ok(named(&self.topology.parameters, &gradient))
    }

    /// Logits `[n, class, z, y, x]` at full resolution of images `[n, channel, z, y, x]`. Every edge must be a
    /// multiple of [`Network::divisor`]. The workspace stays for the next call of the same shape.
    pub fn forward(&mut self, x: ArrayView5<'_, f32>) -> Result<Array5<f32>, Error> {
        let (n, _, d, h, w) = x.dim();
        let mut out = Array5::zeros((n, self.spec.output_channels, d, h, w));
        self.forward_into(x, out.view_mut())?;
        Ok(out)
    }

    /// As [`UNet::forward`], into a given array.
    pub fn forward_into(
        &mut self,
        x: ArrayView5<'_, f32>,
        out: ArrayViewMut5<'_, f32>,
    ) -> Result<(), Error> {
        let (n, _, d, h, w) = x.dim();
        let expected = (n, self.spec.output_channels, d, h, w);
        if out.dim() != expected {
            let (found, expected) = (out.shape().to_vec(), format!("{expected:?}"));
            return Err(Error::Shape { what: "logits [n, class, z, y, x]", found, expected });
        }
        self.check_input(x)?;
        on!(&mut self.runner, s => s.forward(x, out))
    }

    /// The loss of images `[n, channel, z, y, x]` with labels `[n, z, y, x]`; labels below 0 count as background,
    /// what the others mean is said by [`LossOptions::targets`].
    /// No gradients; gradients of an earlier call stay.
    pub fn loss(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
    ) -> Result<Loss, Error> {
        self.check_batch(x, target, &options.targets)?;
        on!(&mut self.runner, s => s.loss(x, target, options, false))
    }

    /// As [`UNet::loss`], and computes the gradients of all parameters.
    pub fn loss_and_gradients(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
    ) -> Result<Loss, Error> {
        self.check_batch(x, target, &options.targets)?;
        on!(&mut self.runner, s => s.loss(x, target, options, true))
    }

    /// A training iteration: [`UNet::loss_and_gradients`], then [`UNet::update`]. On a card the whole of it is
    /// recorded once and then launched at once.
    ///
    /// # Errors
    /// Those of the two.
    pub fn step(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<Loss, Error> {
        self.check_batch(x, target, &options.targets)?;
        on!(&mut self.runner, s => s.step(x, target, options, optimiser, learning_rate))
    }

    /// One step of the optimiser along the last gradients.
    pub fn update(&mut self, optimiser: &mut Optimiser, learning_rate: f64) -> Result<(), Error> {
        on!(&mut self.runner, s => s.update(optimiser, learning_rate))
    }

    /// Bytes that a network of this description takes on a device for `batch` patches `[z, y, x]`: activations,
    /// parameters, and for training gradients and Adam's moments (AMSGrad's maximum included).
    ///
    /// # Errors
    /// If the description contradicts itself, or the device fails.
    pub fn memory_bytes(
        spec: &Network,
        device: &Device,
        batch: usize,
        patch: [usize; 3],
        training: bool,
    ) -> Result<u64, Error> {
        let topology = Topology::new(spec)?;
        Ok(match device {
            Device::Cpu(cpu) => {
                let engine = Host { cpu: *cpu, norm_epsilon: spec.norm_epsilon };
                State::memory_bytes(spec, &topology, &engine, batch, patch, training)
            }
            Device::Cuda(cuda) => {
                let engine = CudaEngine::new(cuda, spec.norm_epsilon)?;
                State::memory_bytes(spec, &topology, &engine, batch, patch, training)
            }
        })
    }

    /// Work per sample of a patch `[z, y, x]`.
    pub fn work(&self, patch: [usize; 3]) -> Work {
        describe::work(&describe::of_topology(&self.topology, &self.spec, patch))
    }

    /// Refuses a training for which the machine hasn't the memory.
    fn admit_training(&self, samples: usize, patch: [usize; 3]) -> Result<(), Error> {
        on!(&self.runner, s => s.admit_training(samples, patch))
    }

    /// Gives back the memory of training passes; the next one takes it again.
    pub fn release_training(&mut self) {
        on!(&mut self.runner, s => s.release_training());
    }

    fn check_input(&self, x: ArrayView5<'_, f32>) -> Result<(), Error> {
        let (n, c, d, h, w) = x.dim();
        let divisor = self.spec.divisor();
        let fits = (0..3).all(|a| [d, h, w][a] > 0 && [d, h, w][a] % divisor[a] == 0);
        if n == 0 || c != self.spec.input_channels || !fits {
            let [z, y, x_] = divisor;
            let expected = format!(
                "[n ≥ 1, {}, multiple of {z}, multiple of {y}, multiple of {x_}]",
                self.spec.input_channels
            );
            let found = x.shape().to_vec();
            return Err(Error::Shape { what: "image [n, channel, z, y, x]", found, expected });
        }
        Ok(())
    }

    fn check_batch(
        &self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        targets: &Targets,
    ) -> Result<(), Error> {
        self.check_input(x)?;
        self.check_target(x, target, targets)
    }

    fn check_target(
        &self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        targets: &Targets,
    ) -> Result<(), Error> {
        let (n, _, d, h, w) = x.dim();
        let outputs = self.spec.output_channels;
        targets.check(outputs)?;
        if target.dim() != (n, d, h, w) {
            let expected = format!("{:?}, as the image", [n, d, h, w]);
            let found = target.shape().to_vec();
            return Err(Error::Shape { what: "target [n, z, y, x]", found, expected });
        }
        let classes = targets.classes(outputs);
        let unknown =
            |t: &i16| usize::try_from(*t).is_ok_and(|t| t >= classes) && Some(*t) != targets.ignore;
        match target.iter().find(|t| unknown(t)) {
            Some(&found) => Err(Error::Class { found, classes }),
            None => Ok(()),
        }
    }
}

/// Cuts a flat vector into named arrays.
pub(crate) fn named(parameters: &[Parameter], values: &[f32]) -> Vec<(String, ArrayD<f32>)> {
    let array = |p: &Parameter| {
        let mut array = ArrayD::zeros(IxDyn(&p.shape));
        for (to, from) in array.iter_mut().zip(&values[p.range.clone()]) {
            *to = *from;
        }
        (p.name.clone(), array)
    };
    parameters.iter().map(array).collect()
}

/// The reverse of [`named`], from any order; every name once, no other, each with its shape.
pub(crate) fn gather_named(
    parameters: &[Parameter],
    named: &[(String, ArrayD<f32>)],
) -> Result<Vec<f32>, Error> {
    check_named(parameters, named.iter().map(|(name, array)| (name.as_str(), array.shape())))?;
    let ranges: BTreeMap<&str, Range<usize>> =
        parameters.iter().map(|p| (p.name.as_str(), p.range.clone())).collect();
    let mut values = vec![0.0; parameters.last().map_or(0, |p| p.range.end)];
    for (name, array) in named {
        for (to, from) in values[ranges[name.as_str()].clone()].iter_mut().zip(array) {
            *to = *from;
        }
    }
    Ok(values)
}

/// Names and shapes of arrays are exactly those of the parameters, in any order.
pub(crate) fn check_named<'a>(
    parameters: &[Parameter],
    arrays: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<(), Error> {
    let known: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    let mut found = BTreeMap::new();
    for (name, shape) in arrays {
        if !known.contains(name) {
            return Err(Error::UnknownTensor(name.into()));
        }
        if found.insert(name, shape).is_some() {
            return Err(Error::RepeatedTensor(name.into()));
        }
    }
    for Parameter { name, shape, .. } in parameters {
        let found = found.get(name.as_str()).ok_or_else(|| Error::MissingTensor(name.clone()))?;
        if found != shape {
            let (name, found, expected) = (name.clone(), found.to_vec(), shape.clone());
            return Err(Error::TensorShape { name, found, expected });
        }
    }
    Ok(())
}
