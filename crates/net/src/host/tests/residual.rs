//! The end of a residual block, and average pooling: values and gradients.

use super::norm::moments_of;
use super::*;
use crate::host::pool::{average, spread};
use crate::host::residual::{add, add_backward};
use crate::ops::tests::{assert_close, random, random_vec, sum_tolerance};
use crate::reference;

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

/// Odd sizes, 1 to 33 channels.
const SHAPES: &[(usize, usize, usize, usize, usize)] =
    &[(2, 30, 5, 4, 7), (1, 33, 1, 17, 16), (2, 16, 3, 2, 8), (1, 1, 2, 9, 40)];

#[test]
fn the_end_of_a_block_matches_its_definition() {
    for cpu in Cpu::available() {
        for &shape in SHAPES {
            check(cpu, shape);
        }
    }
}

fn check(cpu: Cpu, shape: (usize, usize, usize, usize, usize)) {
    let name = |what: &str| format!("block {shape:?} on {cpu}: {what}");
    let [y, skip, da] = [21, 22, 23].map(|seed| rounded(&random(shape, seed), cpu));
    let (gamma, beta) = (random_vec(shape.1, 24), random_vec(shape.1, 25));
    // Without the ReLU: a slope of 1.
    let z = reference::norm_relu(&y, &gamma, &beta, EPSILON, 1.0) + &skip;
    let a = z.mapv(|z| if z > 0.0 { z } else { SLOPE * z });
    let mut g = da.clone();
    g.zip_mut_with(&z, |g, z| *g *= if *z > 0.0 { 1.0 } else { SLOPE });
    let (dy, dgamma, dbeta) = reference::norm_relu_backward(&y, &gamma, &beta, EPSILON, 1.0, &g);
    // Uniform values have sd 0.58: h stays below 3, and its error is a few ulps of that (see the norm's test).
    let bound = 64.0 * f64::from(f32::EPSILON);
    let stats = moments_of(&y, &gamma, &beta);
    let source = tensor_with(&y, [0; 3], cpu);
    let skip = tensor(&skip, cpu);
    let mut out = empty(shape, cpu);
    with_vector!(cpu, add(&source, &stats, Some(&skip), 0.01, &mut out));
    assert_stored(&name("a"), &values(&out, cpu), &a, cpu, bound);
    assert_padding_is_zero(&out, cpu);
    let mut in_place = skip;
    with_vector!(cpu, add(&source, &stats, None, 0.01, &mut in_place));
    assert_eq!(values(&in_place, cpu), values(&out, cpu), "{}", name("in place"));

    let (mut gradient, mut inner) = (tensor(&da, cpu), empty(shape, cpu));
    let (mut dg, mut db) = (vec![f32::NAN; shape.1], vec![f32::NAN; shape.1]);
    let mut sums = vec![[[0.0; BLOCK]; 2]; gradient.grid.blocks() * shape.0 * shape.2];
    // The sign comes from the definition's output, so that a sum near 0 can't be rounded to the other side.
    let out = tensor(&a, cpu);
    let (to, dy_to, dg, db) = (&mut gradient, &mut inner, &mut dg[..], &mut db[..]);
    with_vector!(cpu, add_backward(&source, &out, &stats, 0.01, &mut sums, to, dy_to, dg, db));
    assert_stored(&name("skip"), &values(&gradient, cpu), &g, cpu, bound);
    assert_stored(&name("dy"), &values(&inner, cpu), &dy, cpu, bound);
    assert_padding_is_zero(&inner, cpu);
    let sum_bound = ((shape.0 * shape.2 * shape.3 * shape.4) as f64).sqrt() * bound;
    assert_close(&name("dgamma"), dg, &dgamma, sum_bound);
    assert_close(&name("dbeta"), db, &dbeta, sum_bound);
}

#[test]
fn pooling_and_its_gradient_match_their_definition() {
    for (small, stride) in [
        ((2, 33, 2, 3, 5), [2, 2, 2]),
        ((1, 16, 3, 1, 4), [1, 2, 2]),
        ((1, 5, 1, 2, 3), [2, 1, 2]),
        ((2, 3, 2, 2, 2), [1, 1, 1]),
    ] {
        let (n, c, d, h, w) = small;
        let [sz, sy, sx]: [usize; 3] = stride;
        let share = 1.0 / (sz * sy * sx) as f64;
        for cpu in Cpu::available() {
            let name = |what: &str| format!("pooling {small:?} on {cpu}: {what}");
            let x = rounded(&random((n, c, d * sz, h * sy, w * sx), 31), cpu);
            let dy = rounded(&random(small, 32), cpu);
            let start = rounded(&random(x.dim(), 33), cpu);
            let (mut y, mut dx) = (Values::zeros(small), start.clone());
            for ((n, c, z, v, u), value) in x.indexed_iter() {
                y[[n, c, z / sz, v / sy, u / sx]] += share * value;
                dx[[n, c, z, v, u]] += share * dy[[n, c, z / sz, v / sy, u / sx]];
            }
            let (from, mut out) = (tensor(&x, cpu), empty(small, cpu));
            with_vector!(cpu, average(stride, &from, &mut out));
            assert_stored(&name("mean"), &values(&out, cpu), &y, cpu, sum_tolerance(8));
            assert_padding_is_zero(&out, cpu);
            let (from, mut out) = (tensor(&dy, cpu), tensor(&start, cpu));
            with_vector!(cpu, spread(stride, &from, &mut out));
            assert_stored(&name("spread"), &values(&out, cpu), &dx, cpu, sum_tolerance(2));
            assert_padding_is_zero(&out, cpu);
        }
    }
}
