//! The CPU engine on the matrix unit: bfloat16 activations, or split ones, which are nearly f32; every operation done
//! when its call returns.

use super::{Engine, Wanted};
use crate::Error;
use crate::amx::convolution::{gather, scatter};
use crate::amx::first::{self, Image};
use crate::amx::linear::{self, Sums};
use crate::amx::norm::{self, Moments};
use crate::amx::outer;
use crate::amx::packing::{Packed, pack_bias};
use crate::amx::tensor::{BLOCK, Chunk, Grid, Tensor, Wide};
use crate::amx::{Parts, head, pool, residual, with_parts};
use crate::device::SimdLevel;
use crate::loss::LossOptions;
use crate::ops::loss::{self, Terms};
use crate::optimiser::Optimiser;
use crate::tensor::Layout;
use crate::unet::{Layer, Role, Topology};
use ndarray::{ArrayView4, ArrayView5, ArrayViewMut5};

/// See the module.
#[derive(Debug)]
pub(crate) struct AmxEngine {
    pub parts: Parts,
    pub norm_epsilon: f32,
}

/// Parameters, flat, and packed.
#[derive(Debug)]
pub(crate) struct Weights {
    values: Vec<f32>,
    forward: Vec<Packed>,
    /// None where the gradient of the input is not wanted, or needs no packing.
    backward: Vec<Option<Packed>>,
    bias: Vec<Vec<Wide>>,
    forward_fresh: bool,
    backward_fresh: bool,
}

impl Weights {
    fn touch(&mut self) {
        (self.forward_fresh, self.backward_fresh) = (false, false);
    }
}

/// Images, labels `[n, z, y, x]`.
#[derive(Debug)]
pub(crate) struct Input {
    image: Tensor,
    target: Vec<i16>,
}

/// A head's output, which the loss turns into its gradient.
#[derive(Debug)]
pub(crate) struct Logits {
    tensor: Tensor,
    target: Vec<i16>,
    terms: Terms,
}

/// Memory between the steps of one operation.
#[derive(Debug)]
pub(crate) struct Scratch {
    sums: Vec<Sums>,
    partials: Vec<f32>,
}

/// Counts; the memory itself comes from the system, once per workspace.
#[derive(Debug)]
pub(crate) struct Arena {
    counting: bool,
    bytes: usize,
}

/// Whether a layer reads the image.
fn reads_image(layer: &Layer) -> bool {
    layer.index == 0
}

impl AmxEngine {
    fn tensor_bytes(&self, grid: &Grid) -> usize {
        Tensor::chunks(grid, self.parts) * size_of::<Chunk>()
    }
}

impl Engine for AmxEngine {
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
        let parts = self.parts.count();
        let forward = |l: &Layer| {
            if reads_image(l) {
                // The patches' channels are those of the image times the taps.
                let patch = [l.inputs * l.geometry.taps()];
                return Packed::new(&l.small, &patch, 1, parts, l.forward());
            }
            Packed::new(&l.small, &l.large, l.geometry.taps(), parts, l.forward())
        };
        let backward = |l: &Layer| {
            let packed = !reads_image(l) && l.role != Role::Head;
            packed.then(|| Packed::new(&l.small, &l.large, l.geometry.taps(), parts, l.backward()))
        };
        Ok(Weights {
            values: vec![0.0; topology.len()],
            forward: topology.layers.iter().map(forward).collect(),
            backward: topology.layers.iter().map(backward).collect(),
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
        if !weights.forward_fresh {
            for (i, layer) in topology.layers.iter().enumerate() {
                weights.forward[i].fill(&weights.values[layer.weight.clone()]);
                // In front of a norm a bias changes nothing: the norm takes any constant away again.
                if !layer.bias.is_empty() && layer.gamma.is_empty() {
                    pack_bias(&weights.values[layer.bias.clone()], &mut weights.bias[i]);
                }
            }
            weights.forward_fresh = true;
        }
        if backward && !weights.backward_fresh {
            for (packed, layer) in weights.backward.iter_mut().zip(&topology.layers) {
                if let Some(packed) = packed {
                    packed.fill(&weights.values[layer.weight.clone()]);
                }
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
        // Values; gradients and three moments; two packings of one or two bfloat16 each.
        let packed = 4 * self.parts.count();
        topology.len() * if training { 20 + packed } else { 4 + packed }
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
        let grid = Grid::of(layout);
        arena.bytes += self.tensor_bytes(&grid);
        if arena.counting {
            return Tensor { grid, ..Tensor::default() };
        }
        Tensor::zeros(grid, self.parts)
    }

    fn input(&self, arena: &mut Arena, layout: Layout, training: bool) -> Input {
        arena.bytes += 2 * Image::len(&layout, self.parts.count());
        if training {
            arena.bytes += 2 * layout.batch * layout.voxels();
        }
        let image = (!arena.counting).then(|| Image::zeros(layout, self.parts.count()));
        Input {
            image: Tensor { grid: Grid::of(layout), image, ..Tensor::default() },
            target: vec![],
        }
    }

    fn logits(&self, arena: &mut Arena, layout: Layout, training: bool) -> Logits {
        let count = layout.batch * layout.channels * layout.voxels();
        arena.bytes += 4 * count;
        if training {
            arena.bytes += 2 * layout.batch * layout.voxels();
        }
        let logits = if arena.counting { vec![] } else { vec![0.0; count] };
        let tensor = Tensor { grid: Grid::of(layout), logits, ..Tensor::default() };
        Logits { tensor, target: vec![], terms: Terms::default() }
    }

    fn moments(&self, _arena: &mut Arena, layer: &Layer, batch: usize) -> Vec<Moments> {
        let normed = if layer.gamma.is_empty() { 0 } else { layer.outputs.div_ceil(BLOCK) };
        vec![Moments::ZERO; normed * batch]
    }

    fn scratch(&self, wanted: &[Wanted<'_>]) -> Result<Scratch, Error> {
        let sums = |w: &Wanted<'_>| {
            let l = w.small;
            let units = linear::units(l.size).max(l.size[0]);
            l.batch * l.channels.div_ceil(BLOCK) * units
        };
        let sums = wanted.iter().map(sums).max().unwrap_or(0);
        let partials = self.scratch_bytes(wanted) / size_of::<f32>();
        Ok(Scratch { sums: vec![[[0.0; BLOCK]; 2]; sums], partials: vec![0.0; partials] })
    }

    fn scratch_bytes(&self, wanted: &[Wanted<'_>]) -> usize {
        let floats = |w: &Wanted<'_>| match w.training && w.layer.role != Role::Head {
            true => {
                let large: Vec<Grid> = w.large.iter().map(|l| Grid::of(*l)).collect();
                let image = reads_image(w.layer);
                outer::scratch(&w.layer.geometry, &large, &Grid::of(w.small), image)
            }
            false => 0,
        };
        wanted.iter().map(floats).max().unwrap_or(0) * size_of::<f32>()
    }

    fn receive(
        &self,
        x: ArrayView5<'_, f32>,
        target: Option<ArrayView4<'_, i16>>,
        input: &mut Input,
    ) -> Result<(), Error> {
        if let Some(image) = &mut input.image.image {
            image.import(x);
        }
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

    fn export(&self, logits: &Logits, mut out: ArrayViewMut5<'_, f32>) -> Result<(), Error> {
        let values = &logits.tensor.logits;
        match out.as_slice_mut() {
            Some(out) => out.copy_from_slice(values),
            None => out.iter_mut().zip(values).for_each(|(to, from)| *to = *from),
        }
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
        let g = out.grid;
        let sums = &mut scratch.sums[..g.batch * g.blocks() * linear::units(g.size)];
        let geometry = &layer.geometry;
        match &source[0].image {
            Some(image) => {
                with_parts!(self.parts, first::convolve(geometry, image, packed, out, sums));
            }
            None => {
                with_parts!(
                    self.parts,
                    gather(geometry, source, packed, None, out, Some(&mut *sums))
                );
            }
        }
        let gamma = &weights.values[layer.gamma.clone()];
        let beta = &weights.values[layer.beta.clone()];
        norm::moments(&g, sums, gamma, beta, self.norm_epsilon, moments);
    }

    fn normalise(&self, y: Option<&Tensor>, moments: &Vec<Moments>, slope: f32, a: &mut Tensor) {
        with_parts!(self.parts, norm::apply(y, moments, slope, a));
    }

    fn up(&self, weights: &Weights, layer: &Layer, small: &Tensor, large: &mut Tensor) {
        let packed = &weights.forward[layer.index];
        let bias = Some(&weights.bias[layer.index][..]);
        let large = &mut [large];
        with_parts!(self.parts, scatter(&layer.geometry, small, packed, bias, large, false));
    }

    fn head(&self, weights: &Weights, layer: &Layer, a: &Tensor, logits: &mut Logits) {
        let packed = &weights.forward[layer.index];
        let bias = &weights.values[layer.bias.clone()];
        with_parts!(self.parts, head::forward(a, packed, bias, &mut logits.tensor));
    }

    fn add_skip(
        &self,
        y: &Tensor,
        moments: &Vec<Moments>,
        skip: Option<&Tensor>,
        slope: f32,
        out: &mut Tensor,
    ) {
        with_parts!(self.parts, residual::add(y, moments, skip, slope, out));
    }

    fn average(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        with_parts!(self.parts, pool::average(stride, from, to));
    }

    fn begin_loss(&mut self, _options: &LossOptions, _channels: usize) -> Result<(), Error> {
        Ok(())
    }

    fn set_target(&self, input: &Input, logits: &mut Logits) {
        let (from, to) = (input.image.grid, logits.tensor.grid);
        loss::nearest(&input.target, from.size, to.batch, to.size, &mut logits.target);
    }

    fn loss(&self, logits: &mut Logits, options: &LossOptions, scale: Option<f64>) {
        let (values, g) = (&mut logits.tensor.logits, logits.tensor.grid);
        let shape = [g.batch, g.channels, g.voxels()];
        logits.terms = loss::loss(SimdLevel::Avx512, values, shape, &logits.target, options, scale);
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
        if layer.role == Role::Head {
            with_parts!(self.parts, head::weights_backward(large[0], small, weight));
            return;
        }
        let (geometry, partials) = (&layer.geometry, &mut scratch.partials);
        with_parts!(self.parts, outer::outer(geometry, large, small, partials, weight));
    }

    fn bias_backward(&self, layer: &Layer, dy: &Tensor, gradient: &mut Vec<f32>) {
        let bias = &mut gradient[layer.bias.clone()];
        match layer.role {
            Role::Head => head::bias_backward(dy, bias),
            _ => with_parts!(self.parts, head::sum(dy, bias)),
        }
    }

    fn up_backward(&self, weights: &Weights, layer: &Layer, large: &Tensor, small: &mut Tensor) {
        let Some(packed) = &weights.backward[layer.index] else { return };
        let geometry = &layer.geometry;
        with_parts!(self.parts, gather(geometry, &[large], packed, None, small, None));
    }

    fn input_backward(
        &self,
        weights: &Weights,
        layer: &Layer,
        small: &Tensor,
        large: &mut [&mut Tensor],
        add: bool,
    ) {
        if layer.role == Role::Head {
            let values = &weights.values[layer.weight.clone()];
            with_parts!(self.parts, head::input_backward(values, small, add, &mut *large[0]));
            return;
        }
        let Some(packed) = &weights.backward[layer.index] else { return };
        with_parts!(self.parts, scatter(&layer.geometry, small, packed, None, large, add));
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
        let sums = &mut scratch.sums;
        with_parts!(self.parts, norm::backward(y, moments, slope, sums, da, gamma, beta));
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
        let sums = &mut scratch.sums;
        with_parts!(
            self.parts,
            residual::add_backward(y, out, moments, slope, sums, da, dy, gamma, beta)
        );
    }

    fn spread(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        with_parts!(self.parts, pool::spread(stride, from, to));
    }
}
