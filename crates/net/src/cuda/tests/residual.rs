//! The end of a residual block, and average pooling: values and gradients.

use super::norm::moments_of;
use super::{assert_near, contexts, rounded, same_bytes};
use crate::cuda::norm::backward_scratch;
use crate::cuda::pool::{average, spread};
use crate::cuda::residual::{add, add_backward};
use crate::ops::tests::{assert_close, random, random_vec, sum_tolerance};
use crate::reference::{self, Grid};

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

/// Odd sizes, 1 to 33 channels; the last has several ranges a sample.
const SHAPES: &[(usize, usize, usize, usize, usize)] =
    &[(2, 30, 5, 4, 7), (1, 33, 1, 17, 16), (2, 16, 3, 2, 8), (1, 1, 2, 9, 40), (1, 12, 9, 19, 23)];

#[test]
fn the_end_of_a_block_matches_its_definition() {
    for &shape in SHAPES {
        for ctx in contexts() {
            let name = |what: &str| format!("block {shape:?}, {:?}: {what}", ctx.element);
            let [y, skip, da] = [21, 22, 23].map(|seed| rounded(&random(shape, seed), ctx.element));
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
            let stats = moments_of(&ctx, &y, &gamma, &beta);
            let (stats, slope) = (stats.pointer(), SLOPE as f32);
            let source = ctx.tensor(&y, ctx.element);
            let out = ctx.garbage(source.layout, ctx.element);
            add(&ctx, &source, stats, &ctx.tensor(&skip, ctx.element), slope, &out);
            assert_near(&name("a"), &ctx.values(&out), &a, ctx.element, bound);
            let in_place = ctx.tensor(&skip, ctx.element);
            add(&ctx, &source, stats, &in_place, slope, &in_place);
            assert_eq!(ctx.values(&in_place), ctx.values(&out), "{}", name("in place"));

            ctx.reserve(backward_scratch(&source.layout));
            let gradient = ctx.tensor(&da, ctx.element);
            let inner = ctx.garbage(source.layout, ctx.element);
            let (dg, _dg) = ctx.upload(&vec![f32::NAN; shape.1]);
            let (db, _db) = ctx.upload(&vec![f32::NAN; shape.1]);
            // The sign comes from the definition's output, so that a sum near 0 can't be rounded to the other side.
            let out = ctx.tensor(&a, ctx.element);
            add_backward(&ctx, &source, &out, stats, slope, &gradient, &inner, dg, db);
            assert_near(&name("skip"), &ctx.values(&gradient), &g, ctx.element, bound);
            assert_near(&name("dy"), &ctx.values(&inner), &dy, ctx.element, bound);
            let sum_bound = ((shape.0 * shape.2 * shape.3 * shape.4) as f64).sqrt() * bound;
            assert_close(&name("dgamma"), &ctx.floats(dg, shape.1), &dgamma, sum_bound);
            assert_close(&name("dbeta"), &ctx.floats(db, shape.1), &dbeta, sum_bound);
            // dy may take the place of y.
            let gradient = ctx.tensor(&da, ctx.element);
            add_backward(&ctx, &source, &out, stats, slope, &gradient, &source, dg, db);
            assert_eq!(ctx.values(&source), ctx.values(&inner), "{}", name("dy in place of y"));
        }
    }
}

#[test]
fn pooling_and_its_gradient_match_their_definition() {
    for (small, stride) in [
        ((2, 33, 2, 3, 5), [2, 2, 2]),
        ((1, 16, 3, 1, 4), [1, 2, 2]),
        ((1, 5, 1, 2, 3), [2, 1, 2]),
        ((2, 3, 2, 2, 2), [1, 1, 1]),
        ((1, 8, 4, 7, 11), [2, 2, 2]),
    ] {
        let (n, c, d, h, w) = small;
        let [sz, sy, sx]: [usize; 3] = stride;
        let share = 1.0 / (sz * sy * sx) as f64;
        for ctx in contexts() {
            let name = |what: &str| format!("pooling {small:?}, {:?}: {what}", ctx.element);
            let x = rounded(&random((n, c, d * sz, h * sy, w * sx), 31), ctx.element);
            let dy = rounded(&random(small, 32), ctx.element);
            let start = rounded(&random(x.dim(), 33), ctx.element);
            let (mut y, mut dx) = (Grid::zeros(small), start.clone());
            for ((n, c, z, v, u), value) in x.indexed_iter() {
                y[[n, c, z / sz, v / sy, u / sx]] += share * value;
                dx[[n, c, z, v, u]] += share * dy[[n, c, z / sz, v / sy, u / sx]];
            }
            let from = ctx.tensor(&x, ctx.element);
            let out = ctx.tensor(&dy, ctx.element);
            let out = ctx.garbage(out.layout, ctx.element);
            average(&ctx, stride, &from, &out);
            assert_near(&name("mean"), &ctx.values(&out), &y, ctx.element, sum_tolerance(8));
            let out = ctx.tensor(&start, ctx.element);
            spread(&ctx, stride, &ctx.tensor(&dy, ctx.element), &out);
            assert_near(&name("spread"), &ctx.values(&out), &dx, ctx.element, sum_tolerance(2));
        }
    }
}

#[test]
fn the_order_of_threads_changes_nothing() {
    let shape = (1, 12, 9, 19, 23);
    same_bytes(|ctx| {
        let [y, a, da] = [41, 42, 43].map(|seed| random(shape, seed));
        let (gamma, beta) = (random_vec(shape.1, 44), random_vec(shape.1, 45));
        let stats = moments_of(ctx, &y, &gamma, &beta);
        let [y, a, da] = [y, a, da].map(|x| ctx.tensor(&x, ctx.element));
        ctx.reserve(backward_scratch(&y.layout));
        let (dg, _dg) = ctx.upload(&vec![0.0; shape.1]);
        let (db, _db) = ctx.upload(&vec![0.0; shape.1]);
        add_backward(ctx, &y, &a, stats.pointer(), SLOPE as f32, &da, &y, dg, db);
        let mut out: Vec<f32> = ctx.values(&da).iter().map(|v| *v as f32).collect();
        out.extend(ctx.values(&y).iter().map(|v| *v as f32));
        out.extend([ctx.floats(dg, shape.1), ctx.floats(db, shape.1)].concat());
        out
    });
}
