//! The CUDA engine: every operation is queued on one stream, and nothing waits but where numbers are read.
//!
//! A workspace is one allocation that its tensors are cut from. Operations that need memory in between share one
//! scratch buffer, as they run one after the other.

use super::{Engine, Wanted};
use crate::Error;
use crate::cuda::tensor::{Element, Layout as DeviceLayout, Tensor};
use crate::cuda::{Context, linear, loss, norm, pool, residual, transfer};
use crate::device::{Cuda, Precision};
use crate::layout::Layout;
use crate::loss::LossOptions;
use crate::ops::loss::Terms;
use crate::optimiser::Optimiser;
use crate::unet::{DeviceBatch, Layer, Role, Topology};
use kernels::{Buffer, Event, Graph, Pointer};
use ndarray::{Array5, ArrayView4, ArrayView5, ArrayViewMut5};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct CudaEngine {
    pub ctx: Arc<Context>,
    norm_epsilon: f32,
    /// What labels mean, as the last [`Engine::begin_loss`] had it.
    meaning: Option<loss::Meaning>,
    /// Before and after the stream waited for the last batch from a card.
    waited: Mutex<Option<[Event; 2]>>,
}

impl CudaEngine {
    pub(crate) fn new(cuda: &Cuda, norm_epsilon: f32) -> Result<Self, Error> {
        let element = match cuda.precision() {
            Precision::Bf16 => Element::Bf16,
            Precision::F32 | Precision::F32Fast => Element::F32,
        };
        let ctx = Arc::new(Context::new(cuda.gpu().clone(), element)?);
        Ok(Self { ctx, norm_epsilon, meaning: None, waited: Mutex::new(None) })
    }
}

/// Parameters, and their copies in the order in which the convolutions read them.
#[derive(Debug)]
pub(crate) struct Weights {
    values: Buffer,
    forward: Vec<linear::Packed>,
    backward: Vec<linear::Packed>,
    table: linear::PackTable,
    fresh: bool,
}

impl Weights {
    fn at(&self, place: &std::ops::Range<usize>) -> Pointer {
        self.values.pointer().offset(4 * place.start)
    }

    fn bias(&self, layer: &Layer) -> Option<Pointer> {
        (!layer.bias.is_empty()).then(|| self.at(&layer.bias))
    }
}

/// Images `[n, c, z, y, x]` f32 and labels `[n, z, y, x]` as they come, and the images as a tensor.
#[derive(Debug)]
pub(crate) struct Input {
    image: Pointer,
    target: Pointer,
    tensor: Tensor,
}

/// A head's output in f32, and in training its gradient, the labels and the loss.
#[derive(Debug)]
pub(crate) struct Logits {
    values: Tensor,
    /// Where [`Engine::export`] lays out the values.
    array: Pointer,
    training: Option<LossPlace>,
}

impl Logits {
    /// f32 `[n][z][y][x][pitch]`.
    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }
}

#[derive(Debug)]
struct LossPlace {
    gradient: Tensor,
    target: Pointer,
    terms: Pointer,
}

/// One buffer, cut from its start.
#[derive(Debug)]
pub(crate) struct Arena {
    buffer: Option<Arc<Buffer>>,
    given: usize,
}

impl Arena {
    /// Tensors begin at multiples of this.
    const ALIGNMENT: usize = 256;

    fn take(&mut self, bytes: usize) -> (usize, Pointer) {
        let offset = self.given;
        self.given += bytes.next_multiple_of(Self::ALIGNMENT);
        let base = self.buffer.as_ref().map_or(Pointer::default(), |b| b.pointer());
        (offset, base.offset(offset))
    }

    fn tensor(&mut self, layout: DeviceLayout, element: Element) -> Tensor {
        let (offset, _) = self.take(layout.len() * element.bytes());
        match &self.buffer {
            Some(buffer) => Tensor::at(buffer, offset, layout, element),
            None => Tensor::nowhere(layout, element),
        }
    }
}

/// Moments of a layer; `pointer` lies in the workspace's buffer.
#[derive(Debug)]
pub(crate) struct Moments {
    pointer: Pointer,
}

/// A recording of all that a key stands for, made when the same work comes the second time: the first time takes what
/// memory it lacks.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    key: String,
    /// [`Context::moves`] when it was made.
    moves: u64,
    graph: Option<Graph>,
}

fn device(layout: &Layout) -> DeviceLayout {
    DeviceLayout { batch: layout.batch, channels: layout.channels, size: layout.size }
}

fn devices(layouts: &[Layout]) -> Vec<DeviceLayout> {
    layouts.iter().map(device).collect()
}

impl Engine for CudaEngine {
    type Tensor = Tensor;
    type Input = Input;
    type Logits = Logits;
    type Moments = Moments;
    type Weights = Weights;
    type Vector = Buffer;
    type Scratch = ();
    type Arena = Arena;
    type Recording = Recording;

    fn admit(&self, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn weights(&self, topology: &Topology) -> Result<Weights, Error> {
        let (.., bytes) = self.packed(topology, None);
        let buffer = Arc::new(self.ctx.gpu.buffer(bytes)?);
        let (forward, backward, _) = self.packed(topology, Some(&buffer));
        let values = self.ctx.gpu.buffer(4 * topology.len())?;
        let sources: Vec<Pointer> =
            topology.layers.iter().map(|l| values.pointer().offset(4 * l.weight.start)).collect();
        let all = forward.iter().zip(&sources).chain(backward.iter().zip(&sources));
        let all: Vec<_> = all.map(|(packed, source)| (packed, *source)).collect();
        let table = linear::PackTable::new(&self.ctx, &all)?;
        Ok(Weights { values, forward, backward, table, fresh: false })
    }

    fn values(&self, weights: &Weights) -> Result<Vec<f32>, Error> {
        self.download(&weights.values)
    }

    fn set_values(&self, weights: &mut Weights, values: Vec<f32>) -> Result<(), Error> {
        self.ctx.stream.upload(weights.values.pointer(), &values)?;
        weights.fresh = false;
        Ok(())
    }

    fn refresh(&self, _topology: &Topology, weights: &mut Weights, _backward: bool) {
        if !weights.fresh {
            linear::pack(&self.ctx, &weights.table);
            weights.fresh = true;
        }
    }

    fn touch(&self, weights: &mut Weights) {
        weights.fresh = false;
    }

    fn vector(&self, length: usize) -> Result<Buffer, Error> {
        let buffer = self.ctx.gpu.buffer(4 * length)?;
        self.ctx.stream.fill(buffer.pointer(), 0, 4 * length)?;
        Ok(buffer)
    }

    fn read(&self, vector: &Buffer) -> Result<Vec<f32>, Error> {
        self.download(vector)
    }

    fn begin_update(
        &self,
        topology: &Topology,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<(), Error> {
        optimiser.begin_on(&self.ctx, topology, learning_rate)
    }

    fn update(
        &self,
        weights: &mut Weights,
        gradient: &mut Buffer,
        optimiser: &mut Optimiser,
        _learning_rate: f64,
    ) {
        optimiser.step_on(weights.values.pointer(), gradient.pointer());
        weights.fresh = false;
    }

    fn recorded(
        &self,
        recording: &mut Recording,
        key: &str,
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        let moves = self.ctx.moves();
        if recording.key != key || recording.moves != moves {
            *recording = Recording { key: key.into(), moves, graph: None };
            work();
        } else if let Some(graph) = &recording.graph {
            self.ctx.stream.replay(graph)?;
        } else {
            let graph = self.ctx.stream.capture(|| {
                work();
                self.ctx.check()
            })?;
            self.ctx.stream.replay(&graph)?;
            recording.graph = Some(graph);
        }
        Ok(())
    }

    fn parameter_bytes(&self, topology: &Topology, training: bool) -> usize {
        let (.., packed) = self.packed(topology, None);
        // Values; gradients and three moments.
        packed + 4 * topology.len() * if training { 5 } else { 1 }
    }

    fn arena(&self, bytes: usize) -> Result<Arena, Error> {
        let buffer = self.ctx.gpu.buffer(bytes)?;
        self.ctx.stream.fill(buffer.pointer(), 0, bytes)?;
        Ok(Arena { buffer: Some(Arc::new(buffer)), given: 0 })
    }

    fn counting_arena(&self) -> Arena {
        Arena { buffer: None, given: 0 }
    }

    fn given(arena: &Arena) -> usize {
        arena.given
    }

    fn tensor(&self, arena: &mut Arena, layout: Layout) -> Tensor {
        arena.tensor(device(&layout), self.ctx.element)
    }

    fn input(&self, arena: &mut Arena, layout: Layout, training: bool) -> Input {
        let layout = device(&layout);
        let (_, image) = arena.take(transfer::array_bytes(&layout));
        let labels = if training { loss::target_bytes(&layout) } else { 0 };
        let (_, target) = arena.take(labels);
        Input { image, target, tensor: arena.tensor(layout, self.ctx.element) }
    }

    fn logits(&self, arena: &mut Arena, layout: Layout, training: bool) -> Logits {
        let layout = device(&layout);
        let values = arena.tensor(layout, Element::F32);
        let array = if training { 0 } else { transfer::array_bytes(&layout) };
        let (_, array) = arena.take(array);
        let training = training.then(|| LossPlace {
            gradient: arena.tensor(layout, self.ctx.element),
            target: arena.take(loss::target_bytes(&layout)).1,
            terms: arena.take(loss::terms_bytes(&layout)).1,
        });
        Logits { values, array, training }
    }

    fn moments(&self, arena: &mut Arena, layer: &Layer, batch: usize) -> Moments {
        let normed = if layer.gamma.is_empty() { 0 } else { batch };
        let layout = DeviceLayout { batch: normed, channels: layer.outputs, size: [1; 3] };
        Moments { pointer: arena.take(norm::moments_bytes(&layout)).1 }
    }

    fn scratch(&self, wanted: &[Wanted<'_>]) -> Result<(), Error> {
        self.ctx.reserve(self.scratch_bytes(wanted));
        Ok(self.ctx.check()?)
    }

    fn scratch_bytes(&self, wanted: &[Wanted<'_>]) -> usize {
        wanted.iter().map(|w| self.operation_scratch(w)).max().unwrap_or(0)
    }

    fn receive(
        &self,
        x: ArrayView5<'_, f32>,
        target: Option<ArrayView4<'_, i16>>,
        input: &mut Input,
    ) -> Result<(), Error> {
        let x = x.as_standard_layout();
        self.ctx.stream.upload(input.image, x.as_slice().unwrap_or(&[]))?;
        if let Some(target) = target {
            let target = target.as_standard_layout();
            self.ctx.stream.upload(input.target, target.as_slice().unwrap_or(&[]))?;
        }
        Ok(())
    }

    fn unpack(&self, input: &mut Input) {
        transfer::import(&self.ctx, input.image, &input.tensor);
    }

    fn image(input: &Input) -> &Tensor {
        &input.tensor
    }

    fn export(&self, logits: &Logits, mut out: ArrayViewMut5<'_, f32>) -> Result<(), Error> {
        transfer::export(&self.ctx, &logits.values, logits.array);
        self.ctx.check()?;
        match out.as_slice_mut() {
            Some(values) => self.ctx.stream.download(logits.array, values)?,
            None => {
                let mut whole = Array5::<f32>::zeros(out.dim());
                if let Some(values) = whole.as_slice_mut() {
                    self.ctx.stream.download(logits.array, values)?;
                }
                out.assign(&whole);
            }
        }
        Ok(())
    }

    fn convolve(
        &self,
        weights: &Weights,
        layer: &Layer,
        source: &[&Tensor],
        out: &mut Tensor,
        _scratch: &mut (),
        moments: &mut Moments,
    ) {
        let (ctx, geometry) = (&self.ctx, &layer.geometry);
        let packed = &weights.forward[layer.index];
        let layouts: Vec<_> = source.iter().map(|t| t.layout).collect();
        let tiles = linear::statistics_tiles(ctx, geometry, &layouts, &out.layout, out.element);
        let partials = ctx.scratch(statistics_bytes(&out.layout, tiles));
        let bias = weights.bias(layer);
        linear::gather(ctx, geometry, source, packed, bias, out, false, Some(partials));
        let (gamma, beta) = (weights.at(&layer.gamma), weights.at(&layer.beta));
        let epsilon = self.norm_epsilon;
        norm::moments(ctx, partials, tiles, &out.layout, gamma, beta, epsilon, moments.pointer);
    }

    fn normalise(&self, y: Option<&Tensor>, moments: &Moments, slope: f32, a: &mut Tensor) {
        norm::apply(&self.ctx, y.unwrap_or(a), moments.pointer, slope, a);
    }

    fn up(&self, weights: &Weights, layer: &Layer, small: &Tensor, large: &mut Tensor) {
        let packed = &weights.forward[layer.index];
        let bias = weights.bias(layer);
        linear::scatter(&self.ctx, &layer.geometry, small, packed, bias, &[large], false);
    }

    fn head(&self, weights: &Weights, layer: &Layer, a: &Tensor, logits: &mut Logits) {
        let packed = &weights.forward[layer.index];
        let (bias, to) = (weights.bias(layer), &logits.values);
        linear::gather(&self.ctx, &layer.geometry, &[a], packed, bias, to, false, None);
    }

    fn add_skip(
        &self,
        y: &Tensor,
        moments: &Moments,
        skip: Option<&Tensor>,
        slope: f32,
        out: &mut Tensor,
    ) {
        residual::add(&self.ctx, y, moments.pointer, skip.unwrap_or(out), slope, out);
    }

    fn average(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        pool::average(&self.ctx, stride, from, to);
    }

    fn begin_loss(&mut self, options: &LossOptions, channels: usize) -> Result<(), Error> {
        let targets = &options.targets;
        if self.meaning.as_ref().is_none_or(|m| m.targets != *targets) {
            // Recorded work may still read the old one.
            self.ctx.stream.synchronise()?;
            self.ctx.moved();
            self.meaning = Some(loss::Meaning::new(&self.ctx, targets, channels)?);
        }
        Ok(())
    }

    fn set_target(&self, input: &Input, logits: &mut Logits) {
        if let Some(place) = &logits.training {
            let (from, to) = (input.tensor.layout.size, &logits.values.layout);
            loss::nearest(&self.ctx, input.target, from, place.target, to);
        }
    }

    fn loss(&self, logits: &mut Logits, options: &LossOptions, scale: Option<f64>) {
        if let (Some(place), Some(meaning)) = (&logits.training, &self.meaning) {
            let gradient = scale.map(|scale| (&place.gradient, scale));
            let (ctx, values) = (&self.ctx, &logits.values);
            loss::loss(ctx, values, place.target, meaning, options, gradient, place.terms);
        }
    }

    fn terms(&self, logits: &Logits) -> Result<Terms, Error> {
        self.ctx.check()?;
        let Some(place) = &logits.training else { return Ok(Terms::default()) };
        let layout = &logits.values.layout;
        loss::read(&self.ctx, layout, place.terms)?.map_err(|found| {
            let classes = self.meaning.as_ref().map_or(0, |m| m.targets.classes(layout.channels));
            Error::Class { found, classes }
        })
    }

    fn logits_gradient(logits: &Logits) -> &Tensor {
        logits.training.as_ref().map_or(&logits.values, |place| &place.gradient)
    }

    fn clear(&self, gradient: &mut Buffer) {
        self.ctx.keep(self.ctx.stream.fill(gradient.pointer(), 0, gradient.bytes()));
    }

    fn weights_backward(
        &self,
        layer: &Layer,
        large: &[&Tensor],
        small: &Tensor,
        _scratch: &mut (),
        gradient: &mut Buffer,
    ) {
        let to = gradient.pointer().offset(4 * layer.weight.start);
        linear::outer(&self.ctx, &layer.geometry, large, small, to);
    }

    fn bias_backward(&self, layer: &Layer, dy: &Tensor, gradient: &mut Buffer) {
        linear::bias_gradient(&self.ctx, dy, gradient.pointer().offset(4 * layer.bias.start));
    }

    fn up_backward(&self, weights: &Weights, layer: &Layer, large: &Tensor, small: &mut Tensor) {
        let packed = &weights.backward[layer.index];
        linear::gather(&self.ctx, &layer.geometry, &[large], packed, None, small, false, None);
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
        let large: Vec<&Tensor> = large.iter().map(|t| &**t).collect();
        linear::scatter(&self.ctx, &layer.geometry, small, packed, None, &large, add);
    }

    fn norm_backward(
        &self,
        layer: &Layer,
        y: &Tensor,
        moments: &Moments,
        slope: f32,
        _scratch: &mut (),
        da: &mut Tensor,
        gradient: &mut Buffer,
    ) {
        let [gamma, beta] = norm_gradients(layer, gradient);
        norm::backward(&self.ctx, y, moments.pointer, slope, da, gamma, beta);
    }

    fn add_skip_backward(
        &self,
        layer: &Layer,
        y: &Tensor,
        out: &Tensor,
        moments: &Moments,
        slope: f32,
        _scratch: &mut (),
        da: &mut Tensor,
        dy: &mut Tensor,
        gradient: &mut Buffer,
    ) {
        let [gamma, beta] = norm_gradients(layer, gradient);
        let moments = moments.pointer;
        residual::add_backward(&self.ctx, y, out, moments, slope, da, dy, gamma, beta);
    }

    fn spread(&self, stride: [usize; 3], from: &Tensor, to: &mut Tensor) {
        pool::spread(&self.ctx, stride, from, to);
    }
}

impl CudaEngine {
    /// Packed weights of all layers in one buffer, forward and backward, and its size; without a buffer for the size
    /// alone.
    fn packed(
        &self,
        topology: &Topology,
        buffer: Option<&Arc<Buffer>>,
    ) -> (Vec<linear::Packed>, Vec<linear::Packed>, usize) {
        let mut offset = 0;
        let mut all = [Vec::new(), Vec::new()];
        for layer in &topology.layers {
            let taps = layer.geometry.taps();
            for (list, direction) in all.iter_mut().zip([layer.forward(), layer.backward()]) {
                let (small, large) = (&layer.small, &layer.large);
                let element = self.ctx.element;
                let bytes = linear::Packed::bytes(small, large, taps, direction, element);
                if let Some(buffer) = buffer {
                    list.push(linear::Packed::at(
                        buffer, offset, small, large, taps, direction, element,
                    ));
                }
                offset += bytes.next_multiple_of(Arena::ALIGNMENT);
            }
        }
        let [forward, backward] = all;
        (forward, backward, offset)
    }

    /// What the steps of a layer need between them, forward and, in training, backward.
    fn operation_scratch(&self, wanted: &Wanted<'_>) -> usize {
        let (layer, ctx) = (wanted.layer, &self.ctx);
        let (large, small) = (devices(&wanted.large), device(&wanted.small));
        let normed = !layer.gamma.is_empty();
        let mut most = 0;
        if normed {
            let tiles = linear::statistics_tiles(ctx, &layer.geometry, &large, &small, ctx.element);
            most = statistics_bytes(&small, tiles);
        }
        if wanted.training {
            let element = ctx.element;
            most = most.max(linear::outer_scratch(&layer.geometry, &large, &small, element));
            let output = if layer.role == Role::Up { &large[0] } else { &small };
            most = most.max(match normed {
                true => norm::backward_scratch(output),
                false => linear::bias_scratch(output),
            });
            if layer.role == Role::Head {
                most = most.max(loss::scratch(output));
            }
        }
        most
    }

    /// Copies a batch, once it is there, to where the recorded work reads it.
    pub(crate) fn take(&self, batch: &DeviceBatch<'_>, input: &mut Input) -> Result<(), Error> {
        let (stream, layout) = (&self.ctx.stream, &input.tensor.layout);
        let before = stream.record()?;
        stream.wait(batch.ready)?;
        let after = stream.record()?;
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner) = Some([before, after]);
        stream.copy(batch.image, input.image, transfer::array_bytes(layout))?;
        stream.copy(batch.label, input.target, loss::target_bytes(layout))?;
        Ok(())
    }

    /// How long the stream waited for the last batch; what came after must have been read.
    pub(crate) fn waited(&self) -> Result<Duration, Error> {
        let waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = waited.as_ref().map_or(Ok(0.0), |[before, after]| after.since(before))?;
        Ok(Duration::from_secs_f64(seconds.max(0.0)))
    }

    fn download(&self, buffer: &Buffer) -> Result<Vec<f32>, Error> {
        self.ctx.check()?;
        let mut values = vec![0.0f32; buffer.bytes() / 4];
        self.ctx.stream.download(buffer.pointer(), &mut values)?;
        Ok(values)
    }
}

/// Of what a convolution says of its tiles: count, mean and squares per channel.
fn statistics_bytes(layout: &DeviceLayout, tiles: usize) -> usize {
    3 * 4 * layout.batch * tiles * layout.pitch()
}

/// Where the gradients of a layer's norm go: scale, then shift.
fn norm_gradients(layer: &Layer, gradient: &Buffer) -> [Pointer; 2] {
    [&layer.gamma, &layer.beta].map(|range| gradient.pointer().offset(4 * range.start))
}
