//! The end of a residual block, and average pooling: values and gradients at every vector level.
use super::*;
use crate::ops::instance_norm::{Moments, moments};
use crate::ops::pool::{average, spread};
use crate::ops::residual::{add, add_backward};
use crate::reference;

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

/// Odd sizes, 1 to 33 channels (three blocks of channels).
const SHAPES: &[(usize, usize, usize, usize, usize)] =
    &[(2, 30, 5, 4, 7), (1, 33, 1, 17, 16), (2, 16, 3, 2, 8), (1, 1, 2, 9, 40)];

#[test]
fn the_end_of_a_block_matches_its_definition() {
    for (i, &shape) in SHAPES.iter().enumerate() {
        let (y, skip, da) = (random(shape, 21), random(shape, 22), random(shape, 23));
        let (gamma, beta) = (random_vec(shape.1, 24), random_vec(shape.1, 25));
        // Without the ReLU: a slope of 1.
        let z = reference::norm_relu(&y, &gamma, &beta, EPSILON, 1.0) + &skip;
        let a = z.mapv(|z| if z > 0.0 { z } else { SLOPE * z });
        let mut g = da.clone();
        g.zip_mut_with(&z, |g, z| *g *= if *z > 0.0 { 1.0 } else { SLOPE });
        let (dy, dgamma, dbeta) =
            reference::norm_relu_backward(&y, &gamma, &beta, EPSILON, 1.0, &g);
        // Uniform values have sd 0.58: h stays below 3, and its error is a few ulps of that (see the norm's test).
        let bound = 64.0 * f64::from(f32::EPSILON);
        for level in levels() {
            let name = |what: &str| format!("block {i} at {level}: {what}");
            let source = tensor(&y);
            let l = source.layout;
            let mut sums = vec![Default::default(); l.planes()];
            let mut stats = vec![Moments::ZERO; l.batch * l.blocks()];
            moments(level, &source, &f32s(&gamma), &f32s(&beta), 1e-5, &mut sums, &mut stats);
            let mut out = empty(shape);
            add(level, &source, &stats, Some(&tensor(&skip)), 0.01, &mut out);
            let expected: Vec<f64> = a.iter().copied().collect();
            assert_close(&name("a"), values(&out).as_slice().unwrap(), &expected, bound);
            assert_padding_is_zero(&out);
            let mut in_place = tensor(&skip);
            add(level, &source, &stats, None, 0.01, &mut in_place);
            assert_eq!(in_place.data, out.data, "{}", name("in place"));

            let (mut gradient, mut inner) = (tensor(&da), empty(shape));
            let (mut dg, mut db) = (vec![0.0; shape.1], vec![0.0; shape.1]);
            // The sign comes from the definition's output, so that a sum near 0 can't be rounded to the other side.
            let out = tensor(&a);
            add_backward(
                level,
                &source,
                &out,
                &stats,
                0.01,
                &mut sums,
                &mut gradient,
                &mut inner,
                &mut dg,
                &mut db,
            );
            let expected: Vec<f64> = g.iter().copied().collect();
            assert_close(&name("skip"), values(&gradient).as_slice().unwrap(), &expected, bound);
            let expected: Vec<f64> = dy.iter().copied().collect();
            assert_close(&name("dy"), values(&inner).as_slice().unwrap(), &expected, bound);
            assert_padding_is_zero(&inner);
            let sum_bound = ((shape.0 * shape.2 * shape.3 * shape.4) as f64).sqrt() * bound;
            assert_close(&name("dgamma"), &dg, &dgamma, sum_bound);
            assert_close(&name("dbeta"), &db, &dbeta, sum_bound);
        }
    }
}

#[test]
fn pooling_and_its_gradient_match_their_definition() {
    for (i, (small, stride)) in [
        ((2, 33, 2, 3, 5), [2, 2, 2]),
        ((1, 16, 3, 1, 4), [1, 2, 2]),
        ((1, 5, 1, 2, 3), [2, 1, 2]),
        ((2, 3, 2, 2, 2), [1, 1, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let (n, c, d, h, w) = small;
        let [sz, sy, sx]: [usize; 3] = stride;
        let (x, dy) = (random((n, c, d * sz, h * sy, w * sx), 31), random(small, 32));
        let start = random(x.dim(), 33);
        let share = 1.0 / (sz * sy * sx) as f64;
        let (mut y, mut dx) = (Grid::zeros(small), start.clone());
        for ((n, c, z, v, u), value) in x.indexed_iter() {
            y[[n, c, z / sz, v / sy, u / sx]] += share * value;
            dx[[n, c, z, v, u]] += share * dy[[n, c, z / sz, v / sy, u / sx]];
        }
        for level in levels() {
            let name = |what: &str| format!("pooling {i} at {level}: {what}");
            let mut out = empty(small);
            average(level, stride, &tensor(&x), &mut out);
            let expected: Vec<f64> = y.iter().copied().collect();
            let found = values(&out);
            assert_close(&name("mean"), found.as_slice().unwrap(), &expected, sum_tolerance(8));
            assert_padding_is_zero(&out);
            let mut out = tensor(&start);
            spread(level, stride, &tensor(&dy), &mut out);
            let expected: Vec<f64> = dx.iter().copied().collect();
            let found = values(&out);
            assert_close(&name("spread"), found.as_slice().unwrap(), &expected, sum_tolerance(2));
            assert_padding_is_zero(&out);
        }
    }
}
