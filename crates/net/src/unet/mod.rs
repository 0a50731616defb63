//! The network: parameters, passes, loss, update.

mod init;
mod pass;
mod residual;
mod topology;
mod workspace;

use crate::Error;
use crate::describe::{self, Work};
use crate::device::{Device, SimdLevel};
use crate::loss::{Loss, LossOptions, Targets};
use crate::ops::loss;
use crate::ops::packing::{Packed, pack_bias};
use crate::optimiser::Optimiser;
use crate::tensor::Lane;
use artifact::plan::Network;
use ndarray::{Array5, ArrayD, ArrayView4, ArrayView5, ArrayViewMut5, IxDyn};
use rayon::prelude::*;
pub(crate) use topology::{Layer, Parameter, Role, Topology, loss_weights};
use workspace::Workspace;

/// What stays the same over the life of a network.
#[derive(Debug)]
struct Engine {
    topology: Topology,
    level: SimdLevel,
    negative_slope: f32,
    norm_epsilon: f32,
}

/// Parameters, flat and in the kernels' order.
#[derive(Debug)]
struct Weights {
    values: Vec<f32>,
    forward: Vec<Packed>,
    backward: Vec<Packed>,
    bias: Vec<Vec<Lane>>,
    /// `forward` and `bias` show `values`.
    forward_fresh: bool,
    backward_fresh: bool,
}

/// A U-Net with its parameters and gradients. See [`Network`] for the architecture and the crate for the layout.
#[derive(Debug)]
pub struct UNet {
    spec: Network,
    engine: Engine,
    weights: Weights,
    gradient: Option<Vec<f32>>,
    training: Option<Workspace>,
    inference: Option<Workspace>,
}

impl UNet {
    /// All parameters zero but the norms' scales, which are one; call [`UNet::initialise`] or
    /// [`UNet::set_parameters`].
    pub fn new(spec: &Network, device: &Device) -> Result<Self, Error> {
        let topology = Topology::new(spec)?;
        let pack = |layer: &Layer, direction| {
            Packed::new(&layer.small, &layer.large, layer.geometry.taps(), direction)
        };
        let mut values = vec![0.0; topology.len()];
        for layer in &topology.layers {
            values[layer.gamma.clone()].fill(1.0);
        }
        let weights = Weights {
            values,
            forward: topology.layers.iter().map(|l| pack(l, l.forward())).collect(),
            backward: topology.layers.iter().map(|l| pack(l, l.backward())).collect(),
            bias: vec![vec![]; topology.layers.len()],
            forward_fresh: false,
            backward_fresh: false,
        };
        let engine = Engine {
            topology,
            level: device.level(),
            negative_slope: spec.negative_slope,
            norm_epsilon: spec.norm_epsilon,
        };
        let spec = spec.clone();
        Ok(Self { spec, engine, weights, gradient: None, training: None, inference: None })
    }

    /// The description that this network was made from.
    pub fn spec(&self) -> &Network {
        &self.spec
    }

    /// Draws weights from a normal distribution (He et al. 2015, for the leaky ReLU's slope 0.01), biases 0, norms 1
    /// and 0. Each tensor has a random stream of its own, keyed by seed and name.
    pub fn initialise(&mut self, seed: u64) {
        init::initialise(&self.engine.topology, seed, &mut self.weights.values);
        self.weights.touch();
    }

    /// Every parameter by name in network order, in PyTorch's shapes: convolutions `[out, in, z, y, x]`, transposed
    /// convolutions `[in, out, z, y, x]`, biases and norms `[channels]`.
    pub fn parameters(&self) -> Vec<(String, ArrayD<f32>)> {
        named(&self.engine.topology.parameters, &self.weights.values)
    }

    /// Takes over parameters in any order. Names and shapes must be exactly those of [`UNet::parameters`].
    pub fn set_parameters(&mut self, named: &[(String, ArrayD<f32>)]) -> Result<(), Error> {
        let parameters = &self.engine.topology.parameters;
        let values = gather_named(parameters, named)?;
        self.weights.values = values;
        self.weights.touch();
        Ok(())
    }

    /// Gradients of the last [`UNet::loss_and_gradients`], named and shaped as [`UNet::parameters`]; zeros before the
    /// first. The bias of a convolution before a norm has gradient 0: the norm takes any constant away again.
    pub fn gradients(&self) -> Vec<(String, ArrayD<f32>)> {
        let zeros;
        let gradient = match &self.gradient {
            Some(gradient) => gradient,
            None => {
                zeros = vec![0.0; self.weights.values.len()];
                &zeros
            }
        };
        named(&self.engine.topology.parameters, gradient)
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
        self.fill_inference(n, [d, h, w]);
        self.weights.refresh(&self.engine, false);
        if let Some(ws) = &mut self.inference {
            ws.input.import(x);
            self.engine.forward(&self.weights, ws);
            if let Some(logits) = &ws.stages[0].logits {
                logits.export(out);
            }
        }
        Ok(())
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
        self.forward_loss(x, target, options, false)
    }

    /// As [`UNet::loss`], and computes the gradients of all parameters.
    pub fn loss_and_gradients(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
    ) -> Result<Loss, Error> {
        let loss = self.forward_loss(x, target, options, true)?;
        let length = self.weights.values.len();
        let gradient = self.gradient.get_or_insert_with(|| vec![0.0; length]);
        self.weights.refresh(&self.engine, true);
        if let Some(ws) = &mut self.training {
            self.engine.backward(&self.weights, ws, gradient);
        }
        Ok(loss)
    }

    /// One step of the optimiser along the last gradients.
    pub fn update(&mut self, optimiser: &mut Optimiser, learning_rate: f64) -> Result<(), Error> {
        let gradient = self.gradient.as_mut().ok_or(Error::NoGradients)?;
        let parameters = &self.engine.topology.parameters;
        optimiser.step(parameters, &mut self.weights.values, gradient, learning_rate)?;
        self.weights.touch();
        Ok(())
    }

    /// Bytes that a network of this description takes for `batch` patches `[z, y, x]`: activations, parameters, and
    /// for training gradients and Adam's moments (AMSGrad's maximum included).
    pub fn memory_bytes(
        spec: &Network,
        batch: usize,
        patch: [usize; 3],
        training: bool,
    ) -> Result<u64, Error> {
        let topology = Topology::new(spec)?;
        let activations = workspace::Plan::new(spec, &topology, batch, patch, training);
        // Values and two packings; gradients and three moments.
        let copies = if training { 7 } else { 3 };
        Ok(activations.bytes(&topology) + 4 * (topology.len() * copies) as u64)
    }

    /// Work per sample of a patch `[z, y, x]`.
    pub fn work(&self, patch: [usize; 3]) -> Work {
        describe::work(&describe::of_topology(&self.engine.topology, &self.spec, patch))
    }

    /// Gives back the memory of training passes; the next one takes it again.
    pub fn release_training(&mut self) {
        self.training = None;
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

    fn fill_inference(&mut self, batch: usize, patch: [usize; 3]) {
        if self.inference.as_ref().is_none_or(|ws| ws.shape != (batch, patch)) {
            self.inference = None;
            let topology = &self.engine.topology;
            let plan = workspace::Plan::new(&self.spec, topology, batch, patch, false);
            self.inference = Some(plan.allocate(topology));
        }
    }

    fn fill_training(&mut self, batch: usize, patch: [usize; 3]) {
        if self.training.as_ref().is_none_or(|ws| ws.shape != (batch, patch)) {
            self.training = None;
            let topology = &self.engine.topology;
            let plan = workspace::Plan::new(&self.spec, topology, batch, patch, true);
            self.training = Some(plan.allocate(topology));
        }
    }

    /// Forward pass and loss; with `gradients` the logits then hold their gradients. Uses the training workspace:
    /// with deep supervision all heads count, and a validation batch costs no memory of its own.
    fn forward_loss(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
        gradients: bool,
    ) -> Result<Loss, Error> {
        self.check_input(x)?;
        self.check_target(x, target, &options.targets)?;
        let (n, _, d, h, w) = x.dim();
        self.fill_training(n, [d, h, w]);
        self.weights.refresh(&self.engine, false);
        let mut loss = Loss { total: 0.0, dice: 0.0, cross_entropy: 0.0, counts: vec![] };
        let Some(ws) = &mut self.training else { return Ok(loss) };
        ws.input.import(x);
        self.engine.forward(&self.weights, ws);
        for (s, weight) in loss_weights(&self.spec).into_iter().enumerate() {
            let stage = &mut ws.stages[s];
            let Some(logits) = &mut stage.logits else { continue };
            nearest(target, logits.layout.size, &mut stage.target);
            let scale = gradients.then_some(weight);
            let terms = loss::loss(logits, &stage.target, options, scale);
            loss.dice += weight * terms.dice;
            loss.cross_entropy += weight * terms.cross_entropy;
            if s == 0 {
                loss.counts = terms.counts;
            }
        }
        loss.total = f64::from(options.dice_weight) * loss.dice
            + f64::from(options.cross_entropy_weight) * loss.cross_entropy;
        Ok(loss)
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

impl Weights {
    /// `values` changed.
    fn touch(&mut self) {
        (self.forward_fresh, self.backward_fresh) = (false, false);
    }

    /// Packs what is out of date and needed.
    fn refresh(&mut self, engine: &Engine, backward: bool) {
        let layers = &engine.topology.layers;
        if !self.forward_fresh {
            for (i, layer) in layers.iter().enumerate() {
                self.forward[i].fill(engine.level, &self.values[layer.weight.clone()]);
                let outputs = if layer.role == Role::Up { &layer.large } else { &layer.small };
                if !layer.bias.is_empty() {
                    pack_bias(outputs, &self.values[layer.bias.clone()], &mut self.bias[i]);
                }
            }
            self.forward_fresh = true;
        }
        if backward && !self.backward_fresh {
            for (packed, layer) in self.backward.iter_mut().zip(layers) {
                packed.fill(engine.level, &self.values[layer.weight.clone()]);
            }
            self.backward_fresh = true;
        }
    }
}

/// Labels at a coarser resolution: the voxel at each coarse voxel's centre, the upper one of two (torch's
/// `nearest-exact`).
fn nearest(target: ArrayView4<'_, i16>, size: [usize; 3], out: &mut Vec<i16>) {
    let (n, d, h, w) = target.dim();
    let [sd, sh, sw] = size;
    out.resize(n * sd * sh * sw, 0);
    let centre = |i: usize, small: usize, large: usize| (2 * i + 1) * large / (2 * small);
    out.par_chunks_mut(sh * sw).enumerate().for_each(|(plane, out)| {
        let (n, z) = (plane / sd, centre(plane % sd, sd, d));
        for (i, value) in out.iter_mut().enumerate() {
            *value = target[[n, z, centre(i / sw, sh, h), centre(i % sw, sw, w)]];
        }
    });
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
    if let Some((name, _)) = named.iter().find(|(n, _)| parameters.iter().all(|p| p.name != *n)) {
        return Err(Error::UnknownTensor(name.clone()));
    }
    let mut values = vec![0.0; parameters.last().map_or(0, |p| p.range.end)];
    for p in parameters {
        let (_, array) = named
            .iter()
            .find(|(name, _)| *name == p.name)
            .ok_or_else(|| Error::MissingTensor(p.name.clone()))?;
        if array.shape() != p.shape {
            let (name, found) = (p.name.clone(), array.shape().to_vec());
            return Err(Error::TensorShape { name, found, expected: p.shape.clone() });
        }
        for (to, from) in values[p.range.clone()].iter_mut().zip(array) {
            *to = *from;
        }
    }
    Ok(values)
}
