//! Every operation at every vector level of this machine against the f64 definitions.
pub(crate) mod linear;
mod loss;
mod norm;
mod residual;

use crate::device::SimdLevel;
use crate::reference::Grid;
use crate::tensor::{Layout, Tensor};
use ndarray::Array5;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform in −1..1, the same for the same seed; every value is an f32.
pub(crate) fn random(shape: (usize, usize, usize, usize, usize), seed: u64) -> Grid {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array5::from_shape_simple_fn(shape, || f64::from(rng.random_range(-1.0f32..1.0)))
}

pub(crate) fn random_vec(len: usize, seed: u64) -> Vec<f64> {
    random((1, 1, 1, 1, len), seed).into_raw_vec_and_offset().0
}

pub(crate) fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

pub(crate) fn flat(x: &Grid) -> Vec<f32> {
    x.iter().map(|v| *v as f32).collect()
}

/// A tensor with halo 1 on every axis that holds `x`.
pub(crate) fn tensor(x: &Grid) -> Tensor {
    let mut t = empty(x.dim());
    t.import(x.mapv(|v| v as f32).view());
    t
}

pub(crate) fn empty(shape: (usize, usize, usize, usize, usize)) -> Tensor {
    let (batch, channels, d, h, w) = shape;
    Tensor::zeros(Layout { batch, channels, size: [d, h, w], halo: [1; 3] })
}

pub(crate) fn values(t: &Tensor) -> Array5<f32> {
    let l = t.layout;
    let mut out = Array5::zeros((l.batch, l.channels, l.size[0], l.size[1], l.size[2]));
    t.export(out.view_mut());
    out
}

/// Fails with position, both values and the number of misses.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let miss = |i: &usize| {
        let difference = (f64::from(found[*i]) - expected[*i]).abs();
        difference.is_nan() || difference > tolerance
    };
    let misses: Vec<usize> = (0..found.len()).filter(miss).collect();
    if let Some(&first) = misses.first() {
        panic!(
            "{what}: {} of {} values off by more than {tolerance:.1e}; first at {first}: {} != {}",
            misses.len(),
            found.len(),
            found[first],
            expected[first]
        );
    }
}

/// Rounding of a sum of `terms` products of numbers in −1..1: the running sum stays below 2·√terms (six standard
/// deviations of such a walk), each addition errs by half an ulp of it, and those errors walk √terms far: ε · terms.
pub(crate) fn sum_tolerance(terms: usize) -> f64 {
    f64::from(f32::EPSILON) * (terms + 4) as f64
}

pub(crate) fn levels() -> Vec<SimdLevel> {
    SimdLevel::available()
}

/// The halo and the channels of the padding must stay zero: the kernels rely on it.
pub(crate) fn assert_padding_is_zero(t: &Tensor) {
    let mut copy = t.clone();
    let l = t.layout;
    copy.import(Array5::zeros((l.batch, l.channels, l.size[0], l.size[1], l.size[2])).view());
    assert!(copy.data.iter().all(|lane| lane.0.iter().all(|v| *v == 0.0)), "padding was written");
}

/// Central differences in f64: step 1e-5 leaves a truncation error of order 1e-10 and a rounding error of 1e-11.
pub(crate) fn assert_slopes(at: &Grid, gradient: &Grid, f: impl Fn(&Grid) -> f64) {
    let step = 1e-5;
    for (index, expected) in gradient.indexed_iter() {
        let moved = |by: f64| {
            let mut x = at.clone();
            x[index] += by;
            f(&x)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let bound = 1e-7 * (1.0 + expected.abs());
        assert!((slope - expected).abs() < bound, "{index:?}: {slope} != {expected}");
    }
}
