//! Instance norm with leaky ReLU: forward, in place, and all gradients.
use super::*;
use crate::ops::instance_norm::{Moments, apply, backward, moments};
use crate::reference;

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

const SHAPES: &[(usize, usize, usize, usize, usize)] =
    &[(1, 1, 1, 1, 1), (2, 30, 5, 4, 7), (1, 33, 1, 17, 16), (2, 16, 3, 1, 2), (1, 3, 2, 9, 40)];

/// h is of order √voxels at most; its error is that of (y − mean), a few ulps of |y| + |mean|, times 1/sd, plus as
/// many ulps of the statistics. `scale` is the largest |y| / sd that the test feeds.
fn tolerance(scale: f64) -> f64 {
    16.0 * f64::from(f32::EPSILON) * scale
}

#[test]
fn norm_and_relu_match_their_definition() {
    for (i, &shape) in SHAPES.iter().enumerate() {
        // A mean far from zero must not cost digits beyond what f32 inputs lose themselves.
        for offset in [0.0, 30.0] {
            let x = random(shape, 7).mapv(|v| f64::from((v + offset) as f32));
            let (gamma, beta) = (random_vec(shape.1, 8), random_vec(shape.1, 9));
            let y = reference::norm_relu(&x, &gamma, &beta, EPSILON, SLOPE);
            let da = random(shape, 10);
            let (dx, dgamma, dbeta) =
                reference::norm_relu_backward(&x, &gamma, &beta, EPSILON, SLOPE, &da);
            // Uniform values have sd 0.58, but two voxels can lie close: then epsilon bounds 1/sd at 316.
            let voxels = (shape.2 * shape.3 * shape.4) as f64;
            let scale = (1.0 + offset) * if voxels < 10.0 { 316.0 } else { 4.0 };
            for level in levels() {
                let name = |what: &str| format!("norm {i}, offset {offset}, at {level}: {what}");
                let source = tensor(&x);
                let l = source.layout;
                let mut sums = vec![Default::default(); l.planes()];
                let mut stats = vec![Moments::ZERO; l.batch * l.blocks()];
                let (gamma, beta) = (f32s(&gamma), f32s(&beta));
                moments(level, &source, &gamma, &beta, 1e-5, &mut sums, &mut stats);
                let mut a = empty(shape);
                apply(level, Some(&source), &stats, 0.01, &mut a);
                let expected: Vec<f64> = y.iter().copied().collect();
                let found = values(&a).into_raw_vec_and_offset().0;
                assert_close(&name("a"), &found, &expected, tolerance(scale));
                assert_padding_is_zero(&a);
                let mut in_place = source.clone();
                apply(level, None, &stats, 0.01, &mut in_place);
                assert_eq!(in_place.data, a.data, "{}", name("in place"));

                let mut gradient = tensor(&da);
                let (mut dg, mut db) = (vec![0.0; shape.1], vec![0.0; shape.1]);
                let (dg, db) = (&mut dg, &mut db);
                backward(level, &source, &stats, 0.01, &mut sums, &mut gradient, dg, db);
                let found = values(&gradient).into_raw_vec_and_offset().0;
                let expected: Vec<f64> = dx.iter().copied().collect();
                // dy carries another factor 1/sd.
                let bound = tolerance(scale) * if voxels < 10.0 { 316.0 } else { 4.0 };
                assert_close(&name("dx"), &found, &expected, bound);
                assert_padding_is_zero(&gradient);
                let sum_bound = (voxels * shape.0 as f64).sqrt() * tolerance(scale);
                assert_close(&name("dgamma"), dg, &dgamma, sum_bound);
                assert_close(&name("dbeta"), db, &dbeta, sum_bound);
            }
        }
    }
}

#[test]
fn the_definition_agrees_with_finite_differences() {
    let shape = (2, 2, 2, 3, 3);
    let x = random(shape, 1);
    let (gamma, beta) = ([0.7, -1.2], [0.05, 0.3]);
    let weights = random(shape, 2);
    let loss =
        |x: &Grid| (&reference::norm_relu(x, &gamma, &beta, EPSILON, SLOPE) * &weights).sum();
    let (dx, ..) = reference::norm_relu_backward(&x, &gamma, &beta, EPSILON, SLOPE, &weights);
    assert_slopes(&x, &dx, loss);
}
