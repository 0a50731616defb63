//! Convolution, transposed convolution and the heads, in all directions.

use super::{contexts, rounded, same_bytes};
use crate::cuda::Context;
use crate::cuda::linear::{
    Limits, PackTable, Packed, VARIANTS, bias_gradient, bias_scratch, gather, gather_within, outer,
    outer_scratch, pack, scatter_within, tiles_within,
};
use crate::cuda::tensor::{Element, Layout, Tensor};
use crate::geometry::{Direction, Geometry};
use crate::ops::tests::{f32s, flat, random, random_vec, sum_tolerance};
use crate::reference::cases::{CONVOLUTIONS, Case, TRANSPOSED, case};
use crate::reference::{self, Grid};
use kernels::{Gpu, Pointer, SimOptions};
use ndarray::{Axis, Zip, s};
use std::cell::OnceCell;
use std::sync::Arc;

/// A layer with its numbers: everything as it is in memory, and what it should become.
struct Layer<'a> {
    case: &'a Case,
    geometry: Geometry,
    element: Element,
    large: Grid,
    small: Grid,
    weights: Grid,
    small_bias: Vec<f64>,
    large_bias: Vec<f64>,
    small_sum: OnceCell<Grid>,
    backward: OnceCell<(Grid, Grid, Vec<f64>)>,
}

impl<'a> Layer<'a> {
    fn new(case: &'a Case, geometry: Geometry, size: [usize; 3], element: Element) -> Self {
        let channels = case.large.iter().sum();
        let [d, h, w] = size;
        let [sd, sh, sw] = geometry.small(size);
        let [kz, ky, kx] = case.kernel;
        Self {
            case,
            geometry,
            element,
            large: rounded(&random((case.batch, channels, d, h, w), 1), element),
            small: rounded(&random((case.batch, case.small, sd, sh, sw), 2), element),
            weights: rounded(&random((case.small, channels, kz, ky, kx), 3), element),
            small_bias: random_vec(case.small, 4),
            large_bias: random_vec(channels, 5),
            small_sum: OnceCell::new(),
            backward: OnceCell::new(),
        }
    }

    fn convolution(case: &'a Case, element: Element) -> Self {
        Self::new(case, Geometry::convolution(case.kernel, case.stride), case.size, element)
    }

    fn transposed(case: &'a Case, element: Element) -> Self {
        let size = [0, 1, 2].map(|a| case.size[a] * case.stride[a]);
        Self::new(case, Geometry::transposed(case.stride), size, element)
    }

    /// What a convolution makes of the large side.
    fn small_sum(&self) -> &Grid {
        self.small_sum.get_or_init(|| {
            let Geometry { stride, pad, .. } = self.geometry;
            reference::convolution(&self.large, &self.weights, &self.small_bias, stride, pad)
        })
    }

    /// What its gradients make of the small side: for the large side, the weights and the bias.
    fn backward(&self) -> &(Grid, Grid, Vec<f64>) {
        self.backward.get_or_init(|| {
            let Geometry { stride, pad, .. } = self.geometry;
            reference::convolution_backward(&self.large, &self.weights, &self.small, stride, pad)
        })
    }

    /// What a sum of so many products of numbers in −1..1 may be off by, before it is stored. Products of bfloat16 are
    /// exact, and the sum is as [`sum_tolerance`] says, four times over because a tensor core may cut where it should
    /// round. A float is multiplied as high + low, each rounded to 2^-8 of what is left: what the two miss of either
    /// factor, and low · low, is each at most 2^-16 of the product. That is three errors of any sign a term, whose
    /// walk of √terms steps of 2^-16 · ⅓ · √3 (products of uniform numbers have deviation ⅓) stays below six deviations.
    fn sum_tolerance(&self, terms: usize) -> f64 {
        let split = match self.element {
            Element::Bf16 => 0.0,
            Element::F32 => 6.0 * 2f64.powi(-16) * (terms as f64 / 3.0).sqrt(),
        };
        4.0 * sum_tolerance(terms) + split
    }
}

/// Half a unit in the last place of `value`, stored as `element`.
fn store_tolerance(value: f64, element: Element) -> f64 {
    let unit = match element {
        Element::Bf16 => 2f64.powi(-8),
        Element::F32 => 2f64.powi(-24),
    };
    // The sum that is rounded may itself be off, into the next binade.
    unit * value.abs() * 1.01
}

fn assert_close(what: &str, found: &Grid, expected: &Grid, tolerance: impl Fn(f64) -> f64) {
    assert_eq!(found.dim(), expected.dim(), "{what}: shape");
    let off = |f: f64, e: f64| (f - e).abs() > tolerance(e) || f.is_nan();
    let misses = Zip::from(found).and(expected).fold(0, |n, f, e| n + usize::from(off(*f, *e)));
    if misses > 0 {
        let mut pairs = found.indexed_iter().zip(expected);
        let ((at, f), e) = pairs.find(|((_, f), e)| off(**f, **e)).unwrap();
        let (count, bound) = (found.len(), tolerance(*e));
        panic!(
            "{what}: {misses} of {count} off; first at {at:?}: {f} != {e}, tolerance {bound:.1e}"
        );
    }
}

/// The device's side of a layer.
struct Device<'a> {
    ctx: &'a Context,
    layer: &'a Layer<'a>,
    limits: Limits,
    large: Vec<Tensor>,
    small: Tensor,
    large_to_small: Packed,
    small_to_large: Packed,
    _weights: Arc<kernels::Buffer>,
}

impl<'a> Device<'a> {
    fn new(ctx: &'a Context, layer: &'a Layer<'a>, limits: Limits) -> Self {
        let element = layer.element;
        let (small, large, taps) = ([layer.case.small], layer.case.large, layer.geometry.taps());
        let empty = |direction| {
            let bytes = Packed::bytes(&small, large, taps, direction, element);
            // An offset and NaN: what is read must have been packed.
            let buffer = Arc::new(ctx.gpu.buffer(bytes + 512).unwrap());
            ctx.stream.fill(buffer.pointer(), 0xff, bytes + 512).unwrap();
            Packed::at(&buffer, 512, &small, large, taps, direction, element)
        };
        let (pointer, _weights) = ctx.upload(&flat(&layer.weights));
        let large_to_small = empty(Direction::LargeToSmall);
        let small_to_large = empty(Direction::SmallToLarge);
        let both = [(&large_to_small, pointer), (&small_to_large, pointer)];
        pack(ctx, &PackTable::new(ctx, &both).unwrap());
        ctx.check().unwrap();
        let large = split(&layer.large, large).iter().map(|x| ctx.tensor(x, element)).collect();
        let small = ctx.tensor(&layer.small, element);
        Self { ctx, layer, limits, large, small, large_to_small, small_to_large, _weights }
    }

    fn large(&self) -> Vec<&Tensor> {
        self.large.iter().collect()
    }

    fn large_layouts(&self) -> Vec<Layout> {
        self.large.iter().map(|t| t.layout).collect()
    }

    fn run_gather(
        &self,
        to: &Tensor,
        bias: Option<Pointer>,
        accumulate: bool,
        statistics: Option<Pointer>,
    ) {
        let (packed, geometry) = (&self.large_to_small, &self.layer.geometry);
        let (limits, large) = (&self.limits, self.large());
        gather_within(limits, self.ctx, geometry, &large, packed, bias, to, accumulate, statistics);
    }

    fn run_scatter(&self, to: &[Tensor], bias: Option<Pointer>, accumulate: bool) {
        let (packed, geometry) = (&self.small_to_large, &self.layer.geometry);
        let to: Vec<&Tensor> = to.iter().collect();
        let (limits, small) = (&self.limits, &self.small);
        scatter_within(limits, self.ctx, geometry, small, packed, bias, &to, accumulate);
    }

    fn garbage_large(&self) -> Vec<Tensor> {
        let garbage = |t: &Tensor| self.ctx.garbage(t.layout, t.element);
        self.large.iter().map(garbage).collect()
    }

    fn joined(&self, tensors: &[Tensor]) -> Grid {
        let parts: Vec<Grid> = tensors.iter().map(|t| self.ctx.values(t)).collect();
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        ndarray::concatenate(Axis(1), &views).unwrap()
    }

    /// Forward into NaN, with statistics; then the same again, added.
    fn check_gather(&self, name: &str) {
        let (layer, ctx) = (self.layer, self.ctx);
        let sum = layer.small_sum();
        let terms = layer.large.dim().1 * layer.geometry.taps() + 1;
        let tolerance = |e| layer.sum_tolerance(terms) + store_tolerance(e, layer.element);
        let (bias, _owner) = ctx.upload(&f32s(&layer.small_bias));
        let found = ctx.garbage(self.small.layout, layer.element);
        let (large, small) = (self.large_layouts(), &self.small.layout);
        let tiles = tiles_within(&self.limits, &layer.geometry, &large, small, layer.element);
        let partials = vec![f32::NAN; small.batch * tiles * 3 * small.pitch()];
        let (statistics, _owner) = ctx.upload(&partials);
        self.run_gather(&found, Some(bias), false, Some(statistics));
        let first = ctx.values(&found);
        assert_close(&format!("{name}: small"), &first, sum, tolerance);
        assert_statistics(name, &first, &ctx.floats(statistics, partials.len()), small.pitch());
        self.run_gather(&found, None, true, None);
        let bias = Grid::from_shape_fn(sum.dim(), |(_, c, ..)| layer.small_bias[c]);
        let twice = &first + sum - bias;
        assert_close(&format!("{name}: small added"), &ctx.values(&found), &twice, tolerance);
    }

    /// Backward into NaN, and added.
    fn check_scatter(&self, name: &str) {
        let (layer, ctx) = (self.layer, self.ctx);
        let (sum, ..) = layer.backward();
        let bias = Grid::from_shape_fn(sum.dim(), |(_, c, ..)| layer.large_bias[c]);
        let sum = sum + &bias;
        let terms = layer.case.small * layer.geometry.taps() + 1;
        let tolerance = |e| layer.sum_tolerance(terms) + store_tolerance(e, layer.element);
        let (pointer, _owner) = ctx.upload(&f32s(&layer.large_bias));
        let found = self.garbage_large();
        self.run_scatter(&found, Some(pointer), false);
        let first = self.joined(&found);
        assert_close(&format!("{name}: large"), &first, &sum, tolerance);
        self.run_scatter(&found, None, true);
        let twice = &first + &sum - bias;
        assert_close(&format!("{name}: large added"), &self.joined(&found), &twice, tolerance);
    }

    /// Gradients of the weights, `[small][large][tap]`, and of the small side's bias.
    fn gradients(&self) -> [Vec<f32>; 2] {
        let (layer, ctx, small) = (self.layer, self.ctx, &self.small.layout);
        let bytes = outer_scratch(&layer.geometry, &self.large_layouts(), small, layer.element);
        ctx.reserve(bytes.max(bias_scratch(small)));
        let count = layer.weights.len();
        let (gradient, _owner) = ctx.upload(&vec![f32::NAN; count]);
        outer(ctx, &layer.geometry, &self.large(), &self.small, gradient);
        let weights = ctx.floats(gradient, count);
        let (gradient, _owner) = ctx.upload(&vec![f32::NAN; layer.case.small]);
        bias_gradient(ctx, &self.small, gradient);
        [weights, ctx.floats(gradient, layer.case.small)]
    }

    fn check_gradients(&self, name: &str) {
        let layer = self.layer;
        let (_, dw, db) = layer.backward();
        let [weights, bias] = self.gradients();
        let voxels = self.small.layout.batch * self.small.layout.voxels();
        let found = weights.iter().map(|v| f64::from(*v)).collect();
        let found = Grid::from_shape_vec(dw.dim(), found).unwrap();
        let tolerance = layer.sum_tolerance(voxels);
        assert_close(&format!("{name}: weights"), &found, dw, |_| tolerance);
        let name = format!("{name}: bias");
        crate::ops::tests::assert_close(&name, &bias, db, sum_tolerance(voxels));
    }

    /// All that is computed, as bits.
    fn bits(&self) -> Vec<u32> {
        let (bias, _owner) = self.ctx.upload(&f32s(&self.layer.small_bias));
        let small = self.ctx.garbage(self.small.layout, self.layer.element);
        self.run_gather(&small, Some(bias), false, None);
        let large = self.garbage_large();
        self.run_scatter(&large, None, false);
        let values = [self.ctx.values(&small), self.joined(&large)];
        values.iter().flatten().map(|v| (*v as f32).to_bits()).collect()
    }
}

/// Cuts the channels of `x` among tensors.
fn split(x: &Grid, channels: &[usize]) -> Vec<Grid> {
    let mut first = 0;
    let cut = |n: &usize| {
        first += n;
        x.slice(s![.., first - n..first, .., .., ..]).to_owned()
    };
    channels.iter().map(cut).collect()
}

/// Counts, means and sums of squares of tiles, combined, are those of the stored values. The mean of n numbers errs by
/// no more than their sum, whose terms are below the largest value.
fn assert_statistics(name: &str, stored: &Grid, partials: &[f32], pitch: usize) {
    let (batch, channels, ..) = stored.dim();
    let tiles = partials.len() / (batch * 3 * pitch);
    let largest = stored.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for ((n, c), ()) in ndarray::Array2::<()>::default((batch, channels)).indexed_iter() {
        let values = stored.slice(s![n, c, .., .., ..]);
        let (mut count, mut sum, mut square) = (0.0, 0.0, 0.0);
        for tile in 0..tiles {
            let of = |i: usize| f64::from(partials[((n * tiles + tile) * 3 + i) * pitch + c]);
            count += of(0);
            sum += of(0) * of(1);
            square += of(2) + of(0) * of(1) * of(1);
        }
        let tolerance = sum_tolerance(values.len()) * largest;
        assert_eq!(count, values.len() as f64, "{name}: count of sample {n}, channel {c}");
        assert!((sum - values.sum()).abs() <= tolerance, "{name}: mean of {n}, {c}");
        let expected: f64 = values.iter().map(|v| v * v).sum();
        assert!((square - expected).abs() <= tolerance * largest, "{name}: squares of {n}, {c}");
    }
}

fn check(name: &str, ctx: &Context, layer: &Layer) {
    let name = format!("{name}, {:?}", layer.element);
    let device = Device::new(ctx, layer, Limits::of(ctx.gpu.card()));
    device.check_gather(&name);
    device.check_scatter(&name);
    device.check_gradients(&name);
}

#[test]
fn convolutions_match_their_definition() {
    for ctx in contexts() {
        for (i, case) in CONVOLUTIONS.iter().chain(LARGE).enumerate() {
            check(&format!("convolution {i}"), &ctx, &Layer::convolution(case, ctx.element));
        }
    }
}

#[test]
fn transposed_convolutions_match_their_definition() {
    for ctx in contexts() {
        for (i, case) in TRANSPOSED.iter().chain(LARGE_TRANSPOSED).enumerate() {
            check(&format!("transposed {i}"), &ctx, &Layer::transposed(case, ctx.element));
        }
    }
}

/// Chunks of 32 and 8 (72), 16 (48) and 8 input channels; several blocks of output channels; several tiles of every
/// size; several ranges of a weight gradient.
const LARGE: &[Case] = &[
    case(1, &[72], 40, [3, 6, 17], [3, 3, 3], [1, 1, 1]),
    case(2, &[1], 33, [2, 5, 36], [3, 3, 3], [1, 1, 1]),
    case(1, &[40, 16], 40, [5, 10, 7], [3, 3, 3], [2, 2, 2]),
    case(1, &[48], 70, [1, 11, 27], [1, 3, 3], [1, 1, 1]),
    case(1, &[8], 8, [5, 12, 36], [3, 3, 3], [1, 1, 1]),
];

const LARGE_TRANSPOSED: &[Case] = &[case(1, &[40], 40, [3, 5, 6], [2, 2, 2], [2, 2, 2])];

/// A simulated card with as much shared memory as the largest cards have.
fn large_card(element: Element) -> Context {
    let options = SimOptions { shared_memory: 227 << 10, ..SimOptions::default() };
    Context::new(Gpu::sim(options), element).unwrap()
}

#[test]
fn every_variant_gives_the_same_bytes() {
    for element in [Element::Bf16, Element::F32] {
        let ctx = large_card(element);
        let convolutions = LARGE[..3].iter().map(|case| Layer::convolution(case, element));
        let transposed = LARGE_TRANSPOSED.iter().map(|case| Layer::transposed(case, element));
        for (i, layer) in convolutions.chain(transposed).enumerate() {
            let limits = Limits::of(ctx.gpu.card());
            let expected = Device::new(&ctx, &layer, limits.clone()).bits();
            for variant in VARIANTS {
                // More items than blocks, and a block for every item.
                for (multiprocessors, buffers, step_slots) in [(1, 2, 12), (1000, 1, 36)] {
                    let limits = Limits {
                        multiprocessors,
                        variants: vec![variant],
                        buffers: vec![buffers],
                        step_slots: vec![step_slots],
                        ..limits.clone()
                    };
                    let device = Device::new(&ctx, &layer, limits);
                    let name = format!("layer {i}, {buffers} buffers, {step_slots}, {variant:?}");
                    assert!(device.bits() == expected, "{name}");
                    if i == 0 && step_slots == 12 {
                        device.check_gather(&name);
                    }
                }
            }
        }
    }
}

#[test]
fn every_tile_gives_the_same_bytes() {
    let cases = [
        case(1, &[3], 5, [2, 3, 33], [3, 3, 3], [1, 1, 1]),
        case(1, &[8, 3], 8, [4, 5, 17], [3, 3, 3], [2, 2, 2]),
    ];
    // As many voxels as the variant has rows, and fewer.
    for (element, log) in [(Element::Bf16, 6), (Element::F32, 5)] {
        let ctx = large_card(element);
        for case in &cases {
            let layer = Layer::convolution(case, element);
            let limits = Limits::of(ctx.gpu.card());
            let expected = Device::new(&ctx, &layer, limits.clone()).bits();
            for (x, y) in (0..=5).flat_map(|x| (0..=log - x).map(move |y| (x, y))) {
                let edges = Some([log - x - y, y, x]);
                let limits = Limits { variants: vec![VARIANTS[4]], edges, ..limits.clone() };
                let device = Device::new(&ctx, &layer, limits);
                let name = format!("{edges:?}, {element:?}, {case:?}");
                assert!(device.bits() == expected, "{name}");
                device.check_gather(&name);
            }
        }
    }
}

#[test]
fn the_order_of_threads_changes_nothing() {
    same_bytes(|ctx| {
        let layer = Layer::convolution(&LARGE[2], ctx.element);
        let device = Device::new(ctx, &layer, Limits::of(ctx.gpu.card()));
        let (tiles, pitch) = (1000, device.small.layout.pitch());
        let (statistics, _owner) = ctx.upload(&vec![0.0; tiles * 3 * pitch]);
        let small = ctx.garbage(device.small.layout, ctx.element);
        device.run_gather(&small, None, false, Some(statistics));
        let mut bytes: Vec<f32> = device.bits().into_iter().map(f32::from_bits).collect();
        bytes.extend(ctx.floats(statistics, tiles * 3 * pitch));
        bytes.extend(device.gradients().concat());
        bytes
    });
}

#[test]
fn weight_gradients_do_not_depend_on_the_card() {
    for element in [Element::Bf16, Element::F32] {
        for case in &LARGE[..4] {
            let layer = Layer::convolution(case, element);
            let gradients = |ctx: Context| {
                let found = Device::new(&ctx, &layer, Limits::of(ctx.gpu.card())).gradients();
                found.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let small = Context::new(Gpu::sim(SimOptions::default()), element).unwrap();
            assert!(gradients(small) == gradients(large_card(element)), "{element:?}, {case:?}");
        }
    }
}

#[test]
fn logits_are_float() {
    let case = case(2, &[40], 3, [3, 5, 9], [1, 1, 1], [1, 1, 1]);
    for ctx in contexts() {
        let layer = Layer::convolution(&case, ctx.element);
        let device = Device::new(&ctx, &layer, Limits::of(ctx.gpu.card()));
        let logits = ctx.garbage(device.small.layout, Element::F32);
        let (bias, _owner) = ctx.upload(&f32s(&layer.small_bias));
        let (geometry, packed) = (&layer.geometry, &device.large_to_small);
        gather(&ctx, geometry, &device.large(), packed, Some(bias), &logits, false, None);
        let tolerance = |e| layer.sum_tolerance(41) + store_tolerance(e, Element::F32);
        assert_close("logits", &ctx.values(&logits), layer.small_sum(), tolerance);
    }
}
