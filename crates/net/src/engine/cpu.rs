//! The CPU engine: f32, on the vector kernels of [`crate::cpu`], every operation done when its call returns.

use super::{Engine, Wanted};
use crate::Error;
use crate::device::SimdLevel;
use crate::loss::LossOptions;
use crate::ops::instance_norm::{self, Moments, PlaneSums};
use crate::ops::linear::{bias_gradient, gather, outer, outer_scratch, scatter};
use crate::ops::loss::{self, Terms};
use crate::ops::packing::{Channels, Packed, pack_bias};
use crate::ops::{pool, residual};
use crate::optimiser::Optimiser;
use crate::tensor::{LANES, Lane, Layout, Tensor};
use crate::unet::{Layer, Topology};
use ndarray::{ArrayView4, ArrayView5, ArrayViewMut5};

/// See the module.
#[derive(Debug)]
pub(crate) struct CpuEngine {
    pub level: SimdLevel,
    pub norm_epsilon: f32,
}

/// Parameters, flat and in the kernels' order.
#[derive(Debug)]
pub(crate) struct Weights {
    values: Vec<f32>,
    forward: Vec<Packed>,
    backward: Vec<Packed>,
    bias: Vec<Vec<Lane>>,
    /// `forward` and `bias` show `values`.
    forward_fresh: bool,
    backward_fresh: bool,
}

impl Weights {
    /// `values` changed.
    fn touch(&mut self) {
        (self.forward_fresh, self.backward_fresh) = (false, false);
    }
}

/// Images as a tensor, labels `[n, z, y, x]`.
#[derive(Debug)]
pub(crate) struct Input {
    image: Tensor,
    target: Vec<i16>,
}

/// A head's output, which the loss turns into its gradient.
#[derive(Debug)]
pub(crate) struct Logits {
    tensor: Tensor,
    /// The same as the loss has them: `[sample][class][z][y][x]`.
    values: Vec<f32>,
    target: Vec<i16>,
    terms: Terms,
}

/// Memory between the steps of one operation.
#[derive(Debug)]
pub(crate) struct Scratch {
    planes: Vec<PlaneSums>,
    partials: Vec<Lane>,
}

/// Counts; the memory itself comes from the system, once per workspace.
#[derive(Debug)]
pub(crate) struct Arena {
    counting: bool,
    bytes: usize,
}

impl Arena {
    fn take(&mut self, layout: Layout) -> Tensor {
        self.bytes += layout.len() * size_of::<Lane>();
        if self.counting { Tensor { layout, data: vec![] } } else { Tensor::zeros(layout) }
    }
}

impl Engine for CpuEngine {
    type Tensor = Tensor;
    type Input = Input;
    type Logits = Logits;
    type Moments = Vec<Moments>;
    type Weights = Weights;
    type Vector = Vec<f32>;
    type Scratch = Scratch;
    type Arena = Arena;
    type Recording = ();

    fn weights(&self, topology: &Topology) -> Result<Weights, Error> {
        let pack = |layer: &Layer, direction| {
            let (small, large) = (Channels::new(&layer.small), Channels::new(&layer.large));
            Packed::new(&small, &large, layer.geometry.taps(), direction)
        };
        Ok(Weights {
            values: vec![0.0; topology.len()],
            forward: topology.layers.iter().map(|l| pack(l, l.forward())).collect(),
            backward: topology.layers.iter().map(|l| pack(l, l.backward())).collect(),
            bias: vec![vec![]; topology.layers.len()],
            forward_fresh: false,
            backward_fresh: false,
        })
    }

    fn values(&self, weights: &Weights) -> Result<Vec<f32>, Error> {
        Ok(weights.values.clone())
    }

    fn set_values(&self, weights: &mut Weights, values: Vec<f32>) -> Result<(), Error> {
        weights.values = values;
        weights.touch();
        Ok(())
    }

    fn refresh(&self, topology: &Topology, weights: &mut Weights, backward: bool) {
        let layers = &topology.layers;
        if !weights.forward_fresh {
            for (i, layer) in layers.iter().enumerate() {
                weights.forward[i].fill(self.level, &weights.values[layer.weight.clone()]);
                let outputs = Channels::new(&[layer.outputs]);
                if !layer.bias.is_empty() {
                    let bias = &weights.values[layer.bias.clone()];
                    pack_bias(&outputs, bias, &mut weights.bias[i]);
                }
            }
            weights.forward_fresh = true;
        }
        if backward && !weights.backward_fresh {
            for (packed, layer) in weights.backward.iter_mut().zip(layers) {
                packed.fill(self.level, &weights.values[layer.weight.clone()]);
            }
            weights.backward_fresh = true;
        }
    }

    fn touch(&self, weights: &mut Weights) {
        weights.touch();
    }

    fn vector(&self, length: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![0.0; length])
    }

    fn read(&self, vector: &Vec<f32>) -> Result<Vec<f32>, Error> {
        Ok(vector.clone())
    }

    fn begin_update(
        &self,
        topology: &Topology,
        optimiser: &mut Optimiser,
        _learning_rate: f64,
    ) -> Result<(), Error> {
        optimiser.begin(topology)
    }

    fn update(
        &self,
        weights: &mut Weights,
        gradient: &mut Vec<f32>,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) {
        optimiser.step(&mut weights.values, gradient, learning_rate);
        weights.touch();
    }

    fn recorded(
        &self,
        _recording: &mut (),
        _key: &str,
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        work();
        Ok(())
    }

    fn parameter_bytes(&self, topology: &Topology, training: bool) -> usize {
        // Values and two packings; gradients and three moments.
        4 * topology.len() * if training { 7 } else { 3 }
    }

    fn arena(&self, _bytes: usize) -> Result<Arena, Error> {
        Ok(Arena { counting: false, bytes: 0 })
    }

    fn counting_arena(&self) -> Arena {
        Arena { counting: true, bytes: 0 }
    }

    fn given(arena: &Arena) -> usize {
        arena.bytes
    }

    fn tensor(&self, arena: &mut Arena, layout: Layout) -> Tensor {
        arena.take(layout)
    }

    fn input(&self, arena: &mut Arena, layout: Layout, _training: bool) -> Input {
        Input { image: arena.take(layout), target: vec![] }
    }

    fn logits(&self, arena: &mut Arena, layout: Layout, training: bool) -> Logits {
        let values = if training { layout.batch * layout.channels * layout.voxels() } else { 0 };
        arena.bytes += 4 * values;
        let values = if arena.counting { vec![] } else { vec![0.0; values] };
        Logits { tensor: arena.take(layout), values, target: vec![], terms: Terms::default() }
    }

    fn moments(&self, _arena: &mut Arena, layer: &Layer, batch: usize) -> Vec<Moments> {
        let normed = if layer.gamma.is_empty() { 0 } else { layer.outputs.div_ceil(LANES) };
        vec![Moments::ZERO; normed * batch]
    }

    fn scratch(&self, wanted: &[Wanted<'_>]) -> Result<Scratch, Error> {
        let planes = wanted.iter().map(|w| w.small.planes()).max().unwrap_or(0);
        let partials = self.scratch_bytes(wanted) / size_of::<Lane>();
        let planes = vec![PlaneSums::default(); planes];
        Ok(Scratch { planes, partials: vec![Lane::ZERO; partials] })
    }

    fn scratch_bytes(&self, wanted: &[Wanted<'_>]) -> usize {
        let lanes = |w: &Wanted<'_>| match w.training {
            true => outer_scratch(&w.layer.geometry, &w.large, &w.small),
            false => 0,
        };
        wanted.iter().map(lanes).max().unwrap_or(0) * size_of::<Lane>()
    }

    fn receive(
        &self,
        x: ArrayView5<'_, f32>,
        target: Option<ArrayView4<'_, i16>>,
        input: &mut Input,
    ) -> Result<(), Error> {
        input.image.import(x);
        input.target.clear();
        if let Some(target) = target {
            input.target.extend(target.iter());
        }
        Ok(())
    }

    fn unpack(&self, _input: &mut Input) {}

    fn image(input: &Input) -> &Tensor {
        &input.image
    }

    fn export(&self, logits: &Logits, out: ArrayViewMut5<'_, f32>) -> Result<(), Error> {
        logits.tensor.export(out);
        Ok(())
    }

    fn convolve(
        &self,
        weights: &Weights,
        layer: &Layer,
        source: &[&Tensor],
        out: &mut Tensor,
        scratch: &mut Scratch,
        moments: &mut Vec<Moments>,
    ) {
        let packed = &weights.forward[layer.index];
        let bias = (!layer.bias.is_empty()).then_some(&weights.bias[layer.index][..]);
        let gamma = &weights.values[layer.gamma.clone()];
        let beta = &weights.values[layer.beta.clone()];
        gather(self.level, &layer.geometry, source, packed, bias, out, false);
        let (epsilon, planes) = (self.norm_epsilon, &mut scratch.planes);
        instance_norm::moments(self.level, out, gamma, beta, epsilon, planes, moments);
    }

    fn normalise(&self, y: Option<&Tensor>, moments: &Vec<Moments>, slope: f32, a: &mut Tensor) {
        instance_norm::apply(self.level, y, moments, slope, a);
    }

    fn up(&self, weights: &Weights, layer: &Layer, small: &Tensor, large: &mut Tensor) {
        let packed = &weights.forward[layer.index];
        let bias = Some(&weights.bias[layer.index][..]);
        scatter(self.level, &layer.geometry, small, packed, bias, &mut [large], false);
    }

    fn head(&self, weights: &Weights, layer: &Layer, a: &Tensor, logits: &mut Logits) {
        let packed = &weights.forward[layer.index];
        let bias = Some(&weights.bias[layer.index][..]);
        gather(self.level, &layer.geometry, &[a], packed, bias, &mut logits.tensor, false);
    }

    fn add_skip(
        &self,
        y: &Tensor,
        moments: &Vec<Moments>,
        skip: Option<&Tensor>,
        slope: f32,
        out: &mut Tensor,
    ) {
        residual::add(self.level, y, moments, skip, slope, out);
    }

    fn average(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        pool::average(self.level, stride, from, to);
    }

    fn begin_loss(&mut self, _options: &LossOptions, _channels: usize) -> Result<(), Error> {
        Ok(())
    }

    fn set_target(&self, input: &Input, logits: &mut Logits) {
        let (from, to) = (input.image.layout, logits.tensor.layout);
        loss::nearest(&input.target, from.size, to.batch, to.size, &mut logits.target);
    }

    fn loss(&self, logits: &mut Logits, options: &LossOptions, scale: Option<f64>) {
        let Logits { tensor, values, target, terms } = logits;
        let l = tensor.layout;
        let shape = [l.batch, l.channels, l.voxels()];
        tensor.to_planes(values);
        *terms = loss::loss(self.level, values, shape, target, options, scale);
        tensor.of_planes(values);
    }

    fn terms(&self, logits: &Logits) -> Result<Terms, Error> {
        Ok(logits.terms.clone())
    }

    fn logits_gradient(logits: &Logits) -> &Tensor {
        &logits.tensor
    }

    fn clear(&self, gradient: &mut Vec<f32>) {
        gradient.fill(0.0);
    }

    fn weights_backward(
        &self,
        layer: &Layer,
        large: &[&Tensor],
        small: &Tensor,
        scratch: &mut Scratch,
        gradient: &mut Vec<f32>,
    ) {
        let weight = &mut gradient[layer.weight.clone()];
        outer(self.level, &layer.geometry, large, small, &mut scratch.partials, weight);
    }

    fn bias_backward(&self, layer: &Layer, dy: &Tensor, gradient: &mut Vec<f32>) {
        bias_gradient(dy, &mut gradient[layer.bias.clone()]);
    }

    fn up_backward(&self, weights: &Weights, layer: &Layer, large: &Tensor, small: &mut Tensor) {
        let packed = &weights.backward[layer.index];
        gather(self.level, &layer.geometry, &[large], packed, None, small, false);
    }

    fn input_backward(
        &self,
        weights: &Weights,
        layer: &Layer,
        small: &Tensor,
        large: &mut [&mut Tensor],
        add: bool,
    ) {
        let packed = &weights.backward[layer.index];
        scatter(self.level, &layer.geometry, small, packed, None, large, add);
    }

    fn norm_backward(
        &self,
        layer: &Layer,
        y: &Tensor,
        moments: &Vec<Moments>,
        slope: f32,
        scratch: &mut Scratch,
        da: &mut Tensor,
        gradient: &mut Vec<f32>,
    ) {
        let (gamma, beta) = super::norm_gradients(layer, gradient);
        let planes = &mut scratch.planes;
        instance_norm::backward(self.level, y, moments, slope, planes, da, gamma, beta);
    }

    fn add_skip_backward(
        &self,
        layer: &Layer,
        y: &Tensor,
        out: &Tensor,
        moments: &Vec<Moments>,
        slope: f32,
        scratch: &mut Scratch,
        da: &mut Tensor,
        dy: &mut Tensor,
        gradient: &mut Vec<f32>,
    ) {
        let (gamma, beta) = super::norm_gradients(layer, gradient);
        let planes = &mut scratch.planes;
        residual::add_backward(self.level, y, out, moments, slope, planes, da, dy, gamma, beta);
    }

    fn spread(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        pool::spread(self.level, stride, from, to);
    }
}
