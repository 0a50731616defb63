//! Instance norm with leaky ReLU: forward, in place, and all gradients.

use super::*;
use crate::host::linear::Sums;
use crate::host::norm::{Moments, apply, backward, moments};
use crate::ops::tests::{assert_close, f32s, random, random_vec};
use crate::reference;

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

/// Odd sizes, 1 to 33 channels.
const SHAPES: &[(usize, usize, usize, usize, usize)] =
    &[(1, 1, 1, 1, 1), (2, 30, 5, 4, 7), (1, 33, 1, 17, 16), (2, 16, 3, 1, 2), (1, 3, 2, 9, 40)];

/// h is of order √voxels at most; its error is that of (y − mean), a few ulps of |y| + |mean|,
/// times 1/sd, plus as many ulps of the statistics. `scale` is the largest |y| / sd that the test feeds.
fn tolerance(scale: f64) -> f64 {
    16.0 * f64::from(f32::EPSILON) * scale
}

/// Moments from sums over two units, as a convolution leaves them.
pub(super) fn moments_of(x: &Values, gamma: &[f64], beta: &[f64]) -> Vec<Moments> {
    let (batch, channels, d, h, w) = x.dim();
    let grid = Grid { batch, channels, size: [d, h, w], halo: [0; 3] };
    let (blocks, voxels) = (grid.blocks(), d * h * w);
    let mut sums: Vec<Sums> = vec![[[0.0; BLOCK]; 2]; blocks * batch * 2];
    for (i, v) in x.iter().enumerate() {
        let (channel, voxel) = (i / voxels % channels, i % voxels);
        let sample = i / voxels / channels;
        let place = (channel / BLOCK * batch + sample) * 2 + voxel % 2;
        sums[place][0][channel % BLOCK] += v;
        sums[place][1][channel % BLOCK] += v * v;
    }
    let mut out = vec![Moments::ZERO; batch * blocks];
    moments(&grid, &sums, &f32s(gamma), &f32s(beta), EPSILON as f32, &mut out);
    out
}

#[test]
fn norm_and_relu_match_their_definition() {
    for cpu in Cpu::available() {
        for &shape in SHAPES {
            // A mean far from zero must not cost digits beyond what the inputs lose themselves.
            for offset in [0.0, 30.0] {
                check(cpu, shape, offset);
            }
        }
    }
}

fn check(cpu: Cpu, shape: (usize, usize, usize, usize, usize), offset: f64) {
    let name = |what: &str| format!("norm {shape:?}, offset {offset}, on {cpu}: {what}");
    let x = rounded(&random(shape, 7).mapv(|v| v + offset), cpu);
    let (gamma, beta) = (random_vec(shape.1, 8), random_vec(shape.1, 9));
    let y = reference::norm_relu(&x, &gamma, &beta, EPSILON, SLOPE);
    let da = rounded(&random(shape, 10), cpu);
    let (dx, dgamma, dbeta) = reference::norm_relu_backward(&x, &gamma, &beta, EPSILON, SLOPE, &da);
    // Uniform values have sd 0.58, but two voxels can lie close: then epsilon bounds 1/sd at 316.
    let voxels = (shape.2 * shape.3 * shape.4) as f64;
    let inverse = if voxels < 10.0 { 316.0 } else { 4.0 };
    let scale = (1.0 + offset) * inverse;
    let stats = moments_of(&x, &gamma, &beta);
    // The kept outputs have no halo, activations do.
    let source = tensor_with(&x, [0; 3], cpu);
    let mut a = empty(shape, cpu);
    with_vector!(cpu, apply(Some(&source), &stats, 0.01, &mut a));
    assert_stored(&name("a"), &values(&a, cpu), &y, cpu, tolerance(scale));
    assert_padding_is_zero(&a, cpu);
    let mut in_place = tensor(&x, cpu);
    with_vector!(cpu, apply(None, &stats, 0.01, &mut in_place));
    assert_eq!(values(&in_place, cpu), values(&a, cpu), "{}", name("in place"));

    let mut gradient = tensor(&da, cpu);
    let (mut dg, mut db) = (vec![f32::NAN; shape.1], vec![f32::NAN; shape.1]);
    let mut sums = vec![[[0.0; BLOCK]; 2]; gradient.grid.blocks() * shape.0 * shape.2];
    let (to, dg, db) = (&mut gradient, &mut dg[..], &mut db[..]);
    with_vector!(cpu, backward(&source, &stats, 0.01, &mut sums, to, dg, db));
    // dy carries another factor 1/sd.
    let bound = tolerance(scale) * inverse;
    assert_stored(&name("dx"), &values(&gradient, cpu), &dx, cpu, bound);
    assert_padding_is_zero(&gradient, cpu);
    let sum_bound = (voxels * shape.0 as f64).sqrt() * tolerance(scale);
    assert_close(&name("dgamma"), dg, &dgamma, sum_bound);
    assert_close(&name("dbeta"), db, &dbeta, sum_bound);
}
