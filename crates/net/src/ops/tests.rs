//! The loss at every vector level of this machine against its f64 definition, and what other tests share.

mod loss;

use crate::device::SimdLevel;
use crate::reference::Grid;
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
