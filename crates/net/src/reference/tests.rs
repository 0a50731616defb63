//! The definitions themselves, by finite differences.

use super::Grid;
use crate::ops::tests::random;
use crate::reference;

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

#[test]
fn convolutions_agree_with_finite_differences() {
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

#[test]
fn norms_agree_with_finite_differences() {
    let shape = (2, 2, 2, 3, 3);
    let x = random(shape, 1);
    let (gamma, beta) = ([0.7, -1.2], [0.05, 0.3]);
    let weights = random(shape, 2);
    let loss = |x: &Grid| (&reference::norm_relu(x, &gamma, &beta, 1e-5, 0.01) * &weights).sum();
    let (dx, ..) = reference::norm_relu_backward(&x, &gamma, &beta, 1e-5, 0.01, &weights);
    assert_slopes(&x, &dx, loss);
}
