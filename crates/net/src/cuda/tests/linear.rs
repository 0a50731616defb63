//! Convolution, transposed convolution and the heads, in all directions.

use super::{contexts, rounded};
use crate::cuda::Context;
use crate::cuda::linear::{
    Limits, PackTable, Packed, VARIANTS, bias_gradient, bias_scratch, gather_within, outer,
    outer_scratch, pack, scatter_within, tiles_within,
};
use crate::cuda::tensor::{Element, Layout, Tensor};
use crate::ops::linear::Geometry;
use crate::ops::packing::Direction;
use crate::ops::tests::linear::{CONVOLUTIONS, Case, TRANSPOSED, case};
use crate::ops::tests::{f32s, flat, random, random_vec, sum_tolerance};
use crate::reference::{self, Grid};
use ndarray::{Axis, Zip, s};
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
        }
    }

    fn convolution(case: &'a Case, element: Element) -> Self {
        Self::new(case, Geometry::convolution(case.kernel, case.stride), case.size, element)
    }

    fn transposed(case: &'a Case, element: Element) -> Self {
        let size = [0, 1, 2].map(|a| case.size[a] * case.stride[a]);
        Self::new(case, Geometry::transposed(case.stride), size, element)
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

    /// [`gather`] into NaN, with statistics; then the same again, added.
    fn gather(&self, name: &str, output: Element) {
        let layer = self.layer;
        let sum = reference::convolution(
            &layer.large,
            &layer.weights,
            &layer.small_bias,
            layer.geometry.stride,
            layer.geometry.pad,
        );
        let terms = layer.large.dim().1 * layer.geometry.taps() + 1;
        let tolerance =
            |e| layer.sum_tolerance(terms) + store_tolerance(e, output) + f64::from(f32::EPSILON);
        let (bias, _owner) = self.ctx.upload(&f32s(&layer.small_bias));
        let found = self.ctx.garbage(self.small.layout, output);
        let tiles = tiles_within(
            &self.limits,
            &layer.geometry,
            &self.large_layouts(),
            &self.small.layout,
            layer.element,
        );
        let (batch, pitch) = (found.layout.batch, found.layout.pitch());
        let partials = vec![f32::NAN; batch * tiles * 3 * pitch];
        let (statistics, _owner) = self.ctx.upload(&partials);
        let run = |bias, accumulate, statistics| {
            gather_within(
                &self.limits,
                self.ctx,
                &layer.geometry,
                &self.large(),
                &self.large_to_small,
                bias,
                &found,
                accumulate,
                statistics,
            );
        };
        run(Some(bias), false, Some(statistics));
        let first = self.ctx.values(&found);
        assert_close(&format!("{name}: small"), &first, &sum, tolerance);
        assert_statistics(name, &first, &self.ctx.floats(statistics, partials.len()), pitch);
        run(None, true, None);
        let bias = Grid::from_shape_fn(sum.dim(), |(_, c, ..)| layer.small_bias[c]);
        let twice = &first + &sum - bias;
        assert_close(&format!("{name}: small added"), &self.ctx.values(&found), &twice, tolerance);
    }

    /// [`scatter`] into NaN, and added.
    fn scatter(&self, name: &str) {
        let layer = self.layer;
        let (mut sum, ..) = reference::convolution_backward(
            &layer.large,
            &layer.weights,
            &layer.small,
            layer.geometry.stride,
            layer.geometry.pad,
        );
        let bias = Grid::from_shape_fn(sum.dim(), |(_, c, ..)| layer.large_bias[c]);
        sum += &bias;
        let terms = layer.case.small * layer.geometry.taps() + 1;
        let tolerance = |e| layer.sum_tolerance(terms) + store_tolerance(e, layer.element);
        let (pointer, _owner) = self.ctx.upload(&f32s(&layer.large_bias));
        let found: Vec<Tensor> =
            self.large.iter().map(|t| self.ctx.garbage(t.layout, layer.element)).collect();
        let values = || {
            let parts: Vec<Grid> = found.iter().map(|t| self.ctx.values(t)).collect();
            let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
            ndarray::concatenate(Axis(1), &views).unwrap()
        };
        let run = |bias, accumulate| {
            scatter_within(
                &self.limits,
                self.ctx,
                &layer.geometry,
                &self.small,
                &self.small_to_large,
                bias,
                &found.iter().collect::<Vec<_>>(),
                accumulate,
            );
        };
        run(Some(pointer), false);
        let first = values();
        assert_close(&format!("{name}: large"), &first, &sum, tolerance);
        run(None, true);
        let twice = &first + &sum - bias;
        assert_close(&format!("{name}: large added"), &values(), &twice, tolerance);
    }

    fn gradients(&self, name: &str) {
        let (layer, ctx) = (self.layer, self.ctx);
        let (_, dw, db) = reference::convolution_backward(
            &layer.large,
            &layer.weights,
            &layer.small,
            layer.geometry.stride,
            layer.geometry.pad,
        );
        let small = &self.small.layout;
        let bytes = outer_scratch(&layer.geometry, &self.large_layouts(), small, layer.element);
        ctx.reserve(bytes.max(bias_scratch(small)));
        let (gradient, _owner) = ctx.upload(&vec![f32::NAN; dw.len()]);
        outer(ctx, &layer.geometry, &self.large(), &self.small, gradient);
        let found = Grid::from_shape_vec(
            dw.dim(),
            ctx.floats(gradient, dw.len()).iter().map(|v| f64::from(*v)).collect(),
        );
        let voxels = small.batch * small.voxels();
        let tolerance = layer.sum_tolerance(voxels);
        assert_close(&format!("{name}: weights"), &found.unwrap(), &dw, |_| tolerance);
        let (gradient, _owner) = ctx.upload(&vec![f32::NAN; db.len()]);
        bias_gradient(ctx, &self.small, gradient);
        let found = ctx.floats(gradient, db.len());
        crate::ops::tests::assert_close(
            &format!("{name}: bias"),
            &found,
            &db,
            sum_tolerance(voxels),
        );
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

fn check(name: &str, ctx: &Context, layer: &Layer, limits: Limits) {
    let device = Device::new(ctx, layer, limits);
    device.gather(name, layer.element);
    device.scatter(name);
    device.gradients(name);
}

#[test]
fn convolutions_match_their_definition() {
    for ctx in contexts() {
        for (i, case) in CONVOLUTIONS.iter().enumerate() {
            let layer = Layer::convolution(case, ctx.element);
            let name = format!("convolution {i}, {:?}", ctx.element);
            check(&name, &ctx, &layer, Limits::of(ctx.gpu.card()));
        }
    }
}

#[test]
fn transposed_convolutions_match_their_definition() {
    for ctx in contexts() {
        for (i, case) in TRANSPOSED.iter().enumerate() {
            let layer = Layer::transposed(case, ctx.element);
            let name = format!("transposed {i}, {:?}", ctx.element);
            check(&name, &ctx, &layer, Limits::of(ctx.gpu.card()));
        }
    }
}
