//! The CPU engine: every operation done when its call returns.

use super::convolution::{gather, scatter};
use super::first::Image;
use super::format::Format;
use super::grid::{BLOCK, Chunk, Grid, Tensor, Wide};
use super::linear::Sums;
use super::norm::Moments;
use super::packing::{Packed, pack_bias};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::unit::Amx;
use super::{first, head, linear, norm, outer, pool, residual};
use crate::Error;
use crate::device::{Cpu, Precision, Unit};
use crate::engine::{Engine, Wanted, norm_gradients};
use crate::geometry::Direction;
use crate::layout::Layout;
use crate::loss::LossOptions;
use crate::ops::loss::{self, Terms};
use crate::optimiser::Optimiser;
use crate::unet::{Layer, Role, Topology};
use ndarray::{ArrayView4, ArrayView5, ArrayViewMut5};

/// See the module.
#[derive(Debug)]
pub(crate) struct Host {
    pub cpu: Cpu,
    pub norm_epsilon: f32,
}

/// What is compiled: for each unit and precision, what multiplies, the vectors for everything else, and the format. `unit`
/// calls a function that is generic over the first and the last, `vector` one over the last two.
macro_rules! table {
    ($what:ident, $cpu:expr, $function:tt, $arguments:tt) => {{
        #[allow(unused_imports, reason = "a row's names are used where its unit is")]
        use $crate::device::{Precision as P, Unit as Kind};
        #[allow(unused_imports, reason = "as above")]
        use $crate::host::{format::{Bf16, F32, Split}, unit::*};
        match ($cpu.unit(), $cpu.precision()) {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            (Kind::Amx, P::Bf16) => chosen!($what, {Amx}, {Avx512<true>}, Bf16, $function, $arguments),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            (Kind::Amx, _) => chosen!($what, {Amx}, {Avx512<true>}, Split, $function, $arguments),
            #[cfg(test)]
            (Kind::Tiles, P::Bf16) => chosen!($what, {Tiles}, {Portable}, Bf16, $function, $arguments),
            #[cfg(test)]
            (Kind::Tiles, _) => chosen!($what, {Tiles}, {Portable}, Split, $function, $arguments),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512Bf16, _) => chosen!($what, {Vectors<Avx512<true>>}, {Avx512<true>}, Bf16, $function, $arguments),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, P::Bf16) => chosen!($what, {Vectors<Avx512<false>>}, {Avx512<false>}, Bf16, $function, $arguments),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, _) => chosen!($what, {Vectors<Avx512<false>>}, {Avx512<false>}, F32, $function, $arguments),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, P::Bf16) => chosen!($what, {Vectors<Avx2>}, {Avx2}, Bf16, $function, $arguments),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, _) => chosen!($what, {Vectors<Avx2>}, {Avx2}, F32, $function, $arguments),
            (_, P::Bf16) => chosen!($what, {Vectors<Portable>}, {Portable}, Bf16, $function, $arguments),
            (_, P::F32Fast) => chosen!($what, {Vectors<Portable>}, {Portable}, Split, $function, $arguments),
            (_, P::F32) => chosen!($what, {Vectors<Portable>}, {Portable}, F32, $function, $arguments),
        }
    }};
}

/// A row of [`table`].
macro_rules! chosen {
    (unit, {$unit:ty}, {$vector:ty}, $format:ty, [$($function:tt)*], [$($argument:expr),*]) => {
        $($function)*::<$unit, $format>($($argument),*)
    };
    (vector, {$unit:ty}, {$vector:ty}, $format:ty, [$($function:tt)*], [$($argument:expr),*]) => {
        $($function)*::<$vector, $format>($($argument),*)
    };
}

/// Calls a function that is generic over unit and format.
macro_rules! with_unit {
    ($cpu:expr, $function:ident $(:: $next:ident)* ($($argument:expr),* $(,)?)) => {
        table!(unit, $cpu, [$function$(::$next)*], [$($argument),*])
    };
}

/// The same over vectors and format, for everything but products.
macro_rules! with_vector {
    ($cpu:expr, $function:ident $(:: $next:ident)* ($($argument:expr),* $(,)?)) => {
        table!(vector, $cpu, [$function$(::$next)*], [$($argument),*])
    };
}

/// And over the format alone.
macro_rules! with_format {
    ($cpu:expr, $function:ident $(:: $next:ident)* ($($argument:expr),* $(,)?)) => {
        match $cpu.precision() {
            $crate::device::Precision::F32 => $function$(::$next)*::<$crate::host::format::F32>($($argument),*),
            $crate::device::Precision::F32Fast => $function$(::$next)*::<$crate::host::format::Split>($($argument),*),
            $crate::device::Precision::Bf16 => $function$(::$next)*::<$crate::host::format::Bf16>($($argument),*),
        }
    };
}
#[cfg(test)]
pub(super) use {chosen, table, with_format, with_unit, with_vector};

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
    partials: Vec<Wide>,
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

fn chunks<F: Format>() -> usize {
    F::CHUNKS
}

/// Bytes of one packing of a parameter.
fn packed_bytes<F: Format>() -> usize {
    F::PARTS * 4 / F::GROUP
}

fn packed<F: Format>(l: &Layer, direction: Direction) -> Packed {
    if reads_image(l) {
        // The patches' channels are those of the image times the taps.
        return Packed::new::<F>(&l.small, &[l.inputs * l.geometry.taps()], 1, direction);
    }
    Packed::new::<F>(&l.small, &l.large, l.geometry.taps(), direction)
}

fn fill<F: Format>(packed: &mut Packed, values: &[f32]) {
    packed.fill::<F>(values);
}

fn import<F: Format>(image: &mut Image, x: ArrayView5<'_, f32>) {
    image.import::<F>(x);
}

impl Host {
    fn chunks(&self) -> usize {
        with_format!(self.cpu, chunks())
    }
}

/// See [`Cpu::measure_peak`].
pub(crate) fn peak(cpu: &Cpu) -> Option<f64> {
    match (cpu.unit(), cpu.precision()) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        (Unit::Amx, precision) => {
            let share = if precision == Precision::F32Fast { 1.0 / 3.0 } else { 1.0 };
            Some(Amx::peak() * share)
        }
        (Unit::Portable, _) => None,
        _ => Some(with_vector!(cpu, super::peak::vectors())),
    }
}

impl Engine for Host {
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
        let forward = |l: &Layer| with_format!(self.cpu, packed(l, l.forward()));
        let backward = |l: &Layer| {
            let wanted = !reads_image(l) && l.role != Role::Head;
            wanted.then(|| with_format!(self.cpu, packed(l, l.backward())))
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
                let values = &weights.values[layer.weight.clone()];
                with_format!(self.cpu, fill(&mut weights.forward[i], values));
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
                    let values = &weights.values[layer.weight.clone()];
                    with_format!(self.cpu, fill(packed, values));
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
        // Values; gradients and three moments; two packings.
        let packed = 2 * with_format!(self.cpu, packed_bytes());
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
        arena.bytes += grid.len() * self.chunks() * size_of::<Chunk>();
        if arena.counting {
            return Tensor { grid, ..Tensor::default() };
        }
        Tensor::zeros(grid, self.chunks())
    }

    fn input(&self, arena: &mut Arena, layout: Layout, training: bool) -> Input {
        arena.bytes += 4 * Image::len(&layout);
        if training {
            arena.bytes += 2 * layout.batch * layout.voxels();
        }
        let image = (!arena.counting).then(|| Image::zeros(layout));
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
        let partials = self.scratch_bytes(wanted) / size_of::<Wide>();
        Ok(Scratch { sums: vec![[[0.0; BLOCK]; 2]; sums], partials: vec![Wide::ZERO; partials] })
    }

    fn scratch_bytes(&self, wanted: &[Wanted<'_>]) -> usize {
        let blocks = |w: &Wanted<'_>| match w.training && w.layer.role != Role::Head {
            true => {
                let large: Vec<Grid> = w.large.iter().map(|l| Grid::of(*l)).collect();
                let image = reads_image(w.layer);
                outer::scratch(&w.layer.geometry, &large, &Grid::of(w.small), image)
            }
            false => 0,
        };
        wanted.iter().map(blocks).max().unwrap_or(0) * size_of::<Wide>()
    }

    fn receive(
        &self,
        x: ArrayView5<'_, f32>,
        target: Option<ArrayView4<'_, i16>>,
        input: &mut Input,
    ) -> Result<(), Error> {
        if let Some(image) = &mut input.image.image {
            with_format!(self.cpu, import(image, x));
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
                with_unit!(self.cpu, first::convolve(geometry, image, packed, out, sums));
            }
            None => {
                with_unit!(self.cpu, gather(geometry, source, packed, None, out, Some(&mut *sums)));
            }
        }
        let gamma = &weights.values[layer.gamma.clone()];
        let beta = &weights.values[layer.beta.clone()];
        norm::moments(&g, sums, gamma, beta, self.norm_epsilon, moments);
    }

    fn normalise(&self, y: Option<&Tensor>, moments: &Vec<Moments>, slope: f32, a: &mut Tensor) {
        with_vector!(self.cpu, norm::apply(y, moments, slope, a));
    }

    fn up(&self, weights: &Weights, layer: &Layer, small: &Tensor, large: &mut Tensor) {
        let packed = &weights.forward[layer.index];
        let bias = Some(&weights.bias[layer.index][..]);
        let large = &mut [large];
        with_unit!(self.cpu, scatter(&layer.geometry, small, packed, bias, large, false));
    }

    fn head(&self, weights: &Weights, layer: &Layer, a: &Tensor, logits: &mut Logits) {
        let packed = &weights.forward[layer.index];
        let bias = &weights.values[layer.bias.clone()];
        with_unit!(self.cpu, head::forward(a, packed, bias, &mut logits.tensor));
    }

    fn add_skip(
        &self,
        y: &Tensor,
        moments: &Vec<Moments>,
        skip: Option<&Tensor>,
        slope: f32,
        out: &mut Tensor,
    ) {
        with_vector!(self.cpu, residual::add(y, moments, skip, slope, out));
    }

    fn average(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        with_vector!(self.cpu, pool::average(stride, from, to));
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
        logits.terms = loss::loss(self.cpu.level(), values, shape, &logits.target, options, scale);
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
            with_vector!(self.cpu, head::weights_backward(large[0], small, weight));
            return;
        }
        let (geometry, partials) = (&layer.geometry, &mut scratch.partials);
        with_unit!(self.cpu, outer::outer(geometry, large, small, partials, weight));
    }

    fn bias_backward(&self, layer: &Layer, dy: &Tensor, gradient: &mut Vec<f32>) {
        let bias = &mut gradient[layer.bias.clone()];
        match layer.role {
            Role::Head => head::bias_backward(dy, bias),
            _ => with_vector!(self.cpu, head::sum(dy, bias)),
        }
    }

    fn up_backward(&self, weights: &Weights, layer: &Layer, large: &Tensor, small: &mut Tensor) {
        let Some(packed) = &weights.backward[layer.index] else { return };
        let geometry = &layer.geometry;
        with_unit!(self.cpu, gather(geometry, &[large], packed, None, small, None));
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
            with_vector!(self.cpu, head::input_backward(values, small, add, &mut *large[0]));
            return;
        }
        let Some(packed) = &weights.backward[layer.index] else { return };
        with_unit!(self.cpu, scatter(&layer.geometry, small, packed, None, large, add));
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
        let (gamma, beta) = norm_gradients(layer, gradient);
        let sums = &mut scratch.sums;
        with_vector!(self.cpu, norm::backward(y, moments, slope, sums, da, gamma, beta));
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
        let (gamma, beta) = norm_gradients(layer, gradient);
        let sums = &mut scratch.sums;
        with_vector!(
            self.cpu,
            residual::add_backward(y, out, moments, slope, sums, da, dy, gamma, beta)
        );
    }

    fn spread(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        with_vector!(self.cpu, pool::spread(stride, from, to));
    }
}
