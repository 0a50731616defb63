//! Convolution, transposed convolution and the 1×1×1 head: forward and all gradients.
use super::*;
use crate::ops::linear::{Geometry, bias_gradient, gather, outer, scatter};
use crate::ops::packing::{Channels, Direction, Packed, pack_bias};
use crate::reference;

#[derive(Debug)]
pub(crate) struct Case {
    pub batch: usize,
    /// Channels of the large side's tensors.
    pub large: &'static [usize],
    pub small: usize,
    pub size: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
}

pub(crate) const fn case(
    batch: usize,
    large: &'static [usize],
    small: usize,
    size: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
) -> Case {
    Case { batch, large, small, size, kernel, stride }
}

/// Sizes of the large side: one voxel, odd, anisotropic, depth 1, wide rows, concatenations with unequal blocks.
pub(crate) const CONVOLUTIONS: &[Case] = &[
    case(1, &[1], 1, [1, 1, 1], [3, 3, 3], [1, 1, 1]),
    case(2, &[3], 16, [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    case(1, &[1], 30, [5, 4, 7], [3, 3, 3], [1, 1, 1]),
    case(2, &[3], 33, [3, 5, 6], [3, 3, 3], [2, 2, 2]),
    case(1, &[16], 16, [1, 9, 43], [1, 3, 3], [1, 1, 1]),
    case(1, &[30], 30, [1, 8, 10], [3, 3, 3], [1, 1, 1]),
    case(2, &[33], 3, [4, 3, 5], [1, 3, 3], [1, 2, 2]),
    case(1, &[30], 33, [3, 7, 29], [3, 3, 3], [1, 1, 1]),
    case(2, &[16], 30, [6, 4, 8], [3, 1, 3], [2, 1, 2]),
    case(1, &[33], 16, [5, 5, 5], [1, 1, 1], [2, 2, 2]),
    case(2, &[3, 3], 5, [3, 4, 14], [3, 3, 3], [1, 1, 1]),
    case(2, &[30, 30], 30, [2, 6, 5], [3, 3, 3], [1, 1, 1]),
    case(2, &[30, 3], 16, [2, 3, 9], [1, 3, 3], [1, 1, 1]),
    case(1, &[32], 3, [4, 6, 15], [1, 1, 1], [1, 1, 1]),
];

/// Sizes of the small side.
pub(crate) const TRANSPOSED: &[Case] = &[
    case(1, &[1], 1, [1, 1, 1], [2, 2, 2], [2, 2, 2]),
    case(2, &[16], 33, [3, 2, 5], [2, 2, 2], [2, 2, 2]),
    case(1, &[30], 30, [1, 5, 21], [1, 2, 2], [1, 2, 2]),
    case(2, &[3], 16, [4, 3, 3], [2, 1, 2], [2, 1, 2]),
    case(1, &[33], 3, [2, 3, 4], [1, 1, 1], [1, 1, 1]),
];

/// The two ends of a case and the packed weights between them.
struct Setup {
    large: Vec<Tensor>,
    weights: Vec<f32>,
    channels: (Channels, Channels),
    taps: usize,
}

impl Setup {
    fn packed(&self, level: SimdLevel, direction: Direction) -> Packed {
        let (small, large) = &self.channels;
        let mut packed = Packed::new(small, large, self.taps, direction);
        packed.fill(level, &self.weights);
        packed
    }

    fn refs(&self) -> Vec<&Tensor> {
        self.large.iter().collect()
    }
}

/// Cuts the channels of `x` among tensors.
fn split(x: &Grid, channels: &[usize]) -> Vec<Tensor> {
    let mut first = 0;
    let mut list = Vec::new();
    for n in channels {
        list.push(tensor(&x.slice(ndarray::s![.., first..first + n, .., .., ..]).to_owned()));
        first += n;
    }
    list
}

fn joined(tensors: &[Tensor]) -> Vec<f32> {
    let parts: Vec<_> = tensors.iter().map(values).collect();
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    ndarray::concatenate(ndarray::Axis(1), &views).unwrap().iter().copied().collect()
}

fn shape(case: &Case, channels: usize, size: [usize; 3]) -> (usize, usize, usize, usize, usize) {
    (case.batch, channels, size[0], size[1], size[2])
}

fn setup(case: &Case, large: &Grid, weights: &Grid) -> Setup {
    Setup {
        large: split(large, case.large),
        weights: flat(weights),
        channels: (Channels::new(&[case.small]), Channels::new(case.large)),
        taps: case.kernel.iter().product(),
    }
}

#[test]
fn convolutions_match_their_definition() {
    for (i, case) in CONVOLUTIONS.iter().enumerate() {
        let geometry = Geometry::convolution(case.kernel, case.stride);
        let inputs: usize = case.large.iter().sum();
        let [kz, ky, kx] = case.kernel;
        let x = random(shape(case, inputs, case.size), 1);
        let w = random((case.small, inputs, kz, ky, kx), 2);
        let bias = random_vec(case.small, 3);
        let y = reference::convolution(&x, &w, &bias, case.stride, geometry.pad);
        let dy = random(y.dim(), 4);
        let (dx, dw, db) = reference::convolution_backward(&x, &w, &dy, case.stride, geometry.pad);
        let setup = setup(case, &x, &w);
        for level in levels() {
            let name = |what: &str| format!("convolution {i} at {level}: {what}");
            let packed = setup.packed(level, Direction::LargeToSmall);
            let mut lanes = Vec::new();
            pack_bias(&setup.channels.0, &f32s(&bias), &mut lanes);
            let mut found = empty(y.dim());
            gather(level, &geometry, &setup.refs(), &packed, Some(&lanes), &mut found, false);
            let terms = inputs * geometry.taps() + 1;
            let expected: Vec<f64> = y.iter().copied().collect();
            assert_close(&name("y"), &flat_of(&found), &expected, sum_tolerance(terms));
            assert_padding_is_zero(&found);
            gather(level, &geometry, &setup.refs(), &packed, None, &mut found, true);
            let twice: Vec<f64> =
                y.indexed_iter().map(|((_, c, ..), v)| 2.0 * v - bias[c]).collect();
            assert_close(&name("2y"), &flat_of(&found), &twice, 2.0 * sum_tolerance(terms));

            let packed = setup.packed(level, Direction::SmallToLarge);
            let mut found: Vec<Tensor> = setup.large.clone();
            let mut targets: Vec<&mut Tensor> = found.iter_mut().collect();
            let small = tensor(&dy);
            scatter(level, &geometry, &small, &packed, None, &mut targets, false);
            let tolerance = sum_tolerance(case.small * geometry.taps());
            let expected: Vec<f64> = dx.iter().copied().collect();
            assert_close(&name("dx"), &joined(&found), &expected, tolerance);
            found.iter().for_each(assert_padding_is_zero);
            let mut targets: Vec<&mut Tensor> = found.iter_mut().collect();
            scatter(level, &geometry, &small, &packed, None, &mut targets, true);
            let twice: Vec<f64> = dx.iter().map(|v| 2.0 * v).collect();
            assert_close(&name("2dx"), &joined(&found), &twice, 2.0 * tolerance);

            let voxels = dy.len() / case.small;
            let expected: Vec<f64> = dw.iter().copied().collect();
            let found = weight_gradient(level, &geometry, &setup, &small);
            assert_close(&name("dw"), &found, &expected, sum_tolerance(voxels));
            let mut found = vec![f32::NAN; case.small];
            bias_gradient(&small, &mut found);
            assert_close(&name("db"), &found, &db, sum_tolerance(voxels));
        }
    }
}

fn flat_of(t: &Tensor) -> Vec<f32> {
    values(t).into_raw_vec_and_offset().0
}

fn weight_gradient(
    level: SimdLevel,
    geometry: &Geometry,
    setup: &Setup,
    small: &Tensor,
) -> Vec<f32> {
    let mut found = vec![f32::NAN; setup.weights.len()];
    outer(level, geometry, &setup.refs(), small, &mut Vec::new(), &mut found);
    found
}

#[test]
fn transposed_convolutions_match_their_definition() {
    for (i, case) in TRANSPOSED.iter().enumerate() {
        let geometry = Geometry::transposed(case.stride);
        let [kz, ky, kx] = case.kernel;
        let outputs = case.large[0];
        let x = random(shape(case, case.small, case.size), 1);
        let w = random((case.small, outputs, kz, ky, kx), 2);
        let bias = random_vec(outputs, 3);
        let y = reference::transposed(&x, &w, &bias, case.stride);
        let dy = random(y.dim(), 4);
        let (dx, dw, db) = reference::transposed_backward(&x, &w, &dy, case.stride);
        let setup = setup(case, &dy, &w);
        let small = tensor(&x);
        for level in levels() {
            let name = |what: &str| format!("transposed {i} at {level}: {what}");
            let packed = setup.packed(level, Direction::SmallToLarge);
            let mut lanes = Vec::new();
            pack_bias(&setup.channels.1, &f32s(&bias), &mut lanes);
            let mut found = empty(y.dim());
            scatter(level, &geometry, &small, &packed, Some(&lanes), &mut [&mut found], false);
            let expected: Vec<f64> = y.iter().copied().collect();
            assert_close(&name("y"), &flat_of(&found), &expected, sum_tolerance(case.small + 1));
            assert_padding_is_zero(&found);

            let packed = setup.packed(level, Direction::LargeToSmall);
            let mut found = empty(x.dim());
            gather(level, &geometry, &setup.refs(), &packed, None, &mut found, false);
            let expected: Vec<f64> = dx.iter().copied().collect();
            let terms = outputs * geometry.taps();
            assert_close(&name("dx"), &flat_of(&found), &expected, sum_tolerance(terms));

            let voxels = x.len() / case.small;
            let expected: Vec<f64> = dw.iter().copied().collect();
            let found = weight_gradient(level, &geometry, &setup, &small);
            assert_close(&name("dw"), &found, &expected, sum_tolerance(voxels));
            let mut found = vec![f32::NAN; outputs];
            bias_gradient(&setup.large[0], &mut found);
            assert_close(&name("db"), &found, &db, sum_tolerance(dy.len() / outputs));
        }
    }
}

#[test]
fn every_tile_shape_gives_the_same_sums() {
    // Widths 1 to 30 and heights 1 to 4 make the tiler use every tile it has; the definition stays cheap with one
    // input channel and a 3-tap row.
    for width in 1..=30 {
        for (height, outputs) in [(1, 17), (2, 32), (3, 33), (4, 16)] {
            for stride in [[1, 1, 1], [1, 1, 2]] {
                let geometry = Geometry::convolution([1, 1, 3], stride);
                let x = random((1, 2, 2, height, width), 5);
                let w = random((outputs, 2, 1, 1, 3), 6);
                let y = reference::convolution(&x, &w, &vec![0.0; outputs], stride, geometry.pad);
                let expected: Vec<f64> = y.iter().copied().collect();
                let channels = (Channels::new(&[outputs]), Channels::new(&[2]));
                for level in levels() {
                    let mut packed =
                        Packed::new(&channels.0, &channels.1, 3, Direction::LargeToSmall);
                    packed.fill(level, &flat(&w));
                    let mut found = empty(y.dim());
                    gather(level, &geometry, &[&tensor(&x)], &packed, None, &mut found, false);
                    let name = format!("{height}×{width}, {outputs} outputs at {level}");
                    assert_close(&name, &flat_of(&found), &expected, sum_tolerance(6));
                }
            }
        }
    }
}

#[test]
fn the_definition_agrees_with_finite_differences() {
    let x = random((1, 2, 3, 4, 3), 1);
    let w = random((3, 2, 3, 1, 3), 2);
    let (stride, pad) = ([2, 1, 1], [1, 0, 1]);
    let loss = |x: &Grid, w: &Grid| {
        let y = reference::convolution(x, w, &[0.1, 0.2, 0.3], stride, pad);
        let weights = random(y.dim(), 3);
        (&y * &weights).sum()
    };
    let y = reference::convolution(&x, &w, &[0.0; 3], stride, pad);
    let (dx, dw, _) = reference::convolution_backward(&x, &w, &random(y.dim(), 3), stride, pad);
    assert_slopes(&x, &dx, |x| loss(x, &w));
    assert_slopes(&w, &dw, |w| loss(&x, w));
    let w = random((2, 3, 2, 1, 2), 2);
    let loss = |x: &Grid, w: &Grid| {
        let y = reference::transposed(x, w, &[0.1, 0.2, 0.3], [2, 1, 2]);
        let weights = random(y.dim(), 3);
        (&y * &weights).sum()
    };
    let y = reference::transposed(&x, &w, &[0.0; 3], [2, 1, 2]);
    let (dx, dw, _) = reference::transposed_backward(&x, &w, &random(y.dim(), 3), [2, 1, 2]);
    assert_slopes(&x, &dx, |x| loss(x, &w));
    assert_slopes(&w, &dw, |w| loss(&x, w));
}
