//! The end of a residual block, and average pooling: values and gradients.

use super::norm::moments_of;
use super::*;
use crate::amx::pool::{average, spread};
use crate::amx::residual::{add, add_backward};
use crate::ops::tests::{assert_close, random, random_vec, sum_tolerance};
use crate::reference;

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

/// The vector kernels' own.
const SHAPES: &[(usize, usize, usize, usize, usize)] =
    &[(2, 30, 5, 4, 7), (1, 33, 1, 17, 16), (2, 16, 3, 2, 8), (1, 1, 2, 9, 40)];

#[test]
fn the_end_of_a_block_matches_its_definition() {
    for parts in all_parts() {
        for &shape in SHAPES {
            check(parts, shape);
        }
    }
}

fn check(parts: Parts, shape: (usize, usize, usize, usize, usize)) {
    let name = |what: &str| format!("block {shape:?} in {parts:?}: {what}");
    let [y, skip, da] = [21, 22, 23].map(|seed| rounded(&random(shape, seed), parts));
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
    let source = tensor_with(&y, [0; 3], parts);
    let skip = tensor(&skip, parts);
    let mut out = empty(shape, parts);
    with_parts!(parts, add(&source, &stats, Some(&skip), 0.01, &mut out));
    assert_stored(&name("a"), &values(&out, parts), &a, parts, bound);
    assert_padding_is_zero(&out, parts);
    let mut in_place = skip;
    with_parts!(parts, add(&source, &stats, None, 0.01, &mut in_place));
    assert_eq!(values(&in_place, parts), values(&out, parts), "{}", name("in place"));

    let (mut gradient, mut inner) = (tensor(&da, parts), empty(shape, parts));
    let (mut dg, mut db) = (vec![f32::NAN; shape.1], vec![f32::NAN; shape.1]);
    let mut sums = vec![[[0.0; BLOCK]; 2]; gradient.grid.blocks() * shape.0 * shape.2];
    // The sign comes from the definition's output, so that a sum near 0 can't be rounded to the other side.
    let out = tensor(&a, parts);
    let (to, dy_to, dg, db) = (&mut gradient, &mut inner, &mut dg[..], &mut db[..]);
    with_parts!(parts, add_backward(&source, &out, &stats, 0.01, &mut sums, to, dy_to, dg, db));
    assert_stored(&name("skip"), &values(&gradient, parts), &g, parts, bound);
    assert_stored(&name("dy"), &values(&inner, parts), &dy, parts, bound);
    assert_padding_is_zero(&inner, parts);
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
        for parts in all_parts() {
            let name = |what: &str| format!("pooling {small:?} in {parts:?}: {what}");
            let x = rounded(&random((n, c, d * sz, h * sy, w * sx), 31), parts);
            let dy = rounded(&random(small, 32), parts);
            let start = rounded(&random(x.dim(), 33), parts);
            let (mut y, mut dx) = (Values::zeros(small), start.clone());
            for ((n, c, z, v, u), value) in x.indexed_iter() {
                y[[n, c, z / sz, v / sy, u / sx]] += share * value;
                dx[[n, c, z, v, u]] += share * dy[[n, c, z / sz, v / sy, u / sx]];
            }
            let (from, mut out) = (tensor(&x, parts), empty(small, parts));
            with_parts!(parts, average(stride, &from, &mut out));
            assert_stored(&name("mean"), &values(&out, parts), &y, parts, sum_tolerance(8));
            assert_padding_is_zero(&out, parts);
            let (from, mut out) = (tensor(&dy, parts), tensor(&start, parts));
            with_parts!(parts, spread(stride, &from, &mut out));
            assert_stored(&name("spread"), &values(&out, parts), &dx, parts, sum_tolerance(2));
            assert_padding_is_zero(&out, parts);
        }
    }
}
