//! Instance norm with leaky ReLU: statistics, forward, in place, and all gradients.

use super::{assert_near, contexts, rounded, same_bytes};
use crate::cuda::Context;
use crate::cuda::norm::{apply, backward, backward_scratch, moments, moments_bytes};
use crate::cuda::tensor::Layout;
use crate::ops::tests::{assert_close, f32s, random, random_vec};
use crate::reference::{self, Grid};
use kernels::Buffer;

const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.01;

/// Those of the CPU engine's test, and one of several ranges a sample.
const SHAPES: &[(usize, usize, usize, usize, usize)] = &[
    (1, 1, 1, 1, 1),
    (2, 30, 5, 4, 7),
    (1, 33, 1, 17, 16),
    (2, 16, 3, 1, 2),
    (1, 3, 2, 9, 40),
    (2, 20, 7, 19, 23),
];

/// What the convolution's epilogue writes for tiles of so many voxels: count, mean, Σ (v − mean)².
pub(super) fn tile_statistics(y: &Grid, tile: usize) -> (usize, Vec<f32>) {
    let (n, c, d, h, w) = y.dim();
    let (voxels, pitch) = (d * h * w, c.next_multiple_of(8));
    let tiles = voxels.div_ceil(tile);
    let mut partials = vec![0.0; n * tiles * 3 * pitch];
    for (i, channel) in y.as_slice().unwrap().chunks_exact(voxels).enumerate() {
        for (t, values) in channel.chunks(tile).enumerate() {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let at = ((i / c * tiles) + t) * 3 * pitch + i % c;
            for (row, value) in [values.len() as f64, mean, squares].into_iter().enumerate() {
                partials[at + row * pitch] = value as f32;
            }
        }
    }
    (tiles, partials)
}

/// Moments of `y` by tiles of an odd size.
pub(super) fn moments_of(ctx: &Context, y: &Grid, gamma: &[f64], beta: &[f64]) -> Buffer {
    let (batch, channels, d, h, w) = y.dim();
    let layout = Layout { batch, channels, size: [d, h, w] };
    let (tiles, partials) = tile_statistics(y, 37);
    let (partials, _partials) = ctx.upload(&partials);
    let (gamma, _gamma) = ctx.upload(&f32s(gamma));
    let (beta, _beta) = ctx.upload(&f32s(beta));
    let out = ctx.gpu.buffer(moments_bytes(&layout)).unwrap();
    moments(ctx, partials, tiles, &layout, gamma, beta, EPSILON as f32, out.pointer());
    ctx.stream.synchronise().unwrap();
    out
}

/// As for the CPU engine: h is of order √voxels at most; its error is that of (y − mean), a few ulps of |y| + |mean|,
/// times 1/sd, plus as many ulps of the statistics. `scale` is the largest |y| / sd that the test feeds.
fn tolerance(scale: f64) -> f64 {
    16.0 * f64::from(f32::EPSILON) * scale
}

#[test]
fn norm_and_relu_match_their_definition() {
    for &shape in SHAPES {
        // A mean far from zero must not cost digits beyond what the inputs lose themselves.
        for offset in [0.0, 30.0] {
            for ctx in contexts() {
                check(&ctx, shape, offset);
            }
        }
    }
}

fn check(ctx: &Context, shape: (usize, usize, usize, usize, usize), offset: f64) {
    let name = |what: &str| format!("norm {shape:?}, offset {offset}, {:?}: {what}", ctx.element);
    let x = rounded(&random(shape, 7).mapv(|v| v + offset), ctx.element);
    let (gamma, beta) = (random_vec(shape.1, 8), random_vec(shape.1, 9));
    let y = reference::norm_relu(&x, &gamma, &beta, EPSILON, SLOPE);
    let da = rounded(&random(shape, 10), ctx.element);
    let (dx, dgamma, dbeta) = reference::norm_relu_backward(&x, &gamma, &beta, EPSILON, SLOPE, &da);
    // Uniform values have sd 0.58, but two voxels can lie close: then epsilon bounds 1/sd at 316.
    let voxels = (shape.2 * shape.3 * shape.4) as f64;
    let inverse = if voxels < 10.0 { 316.0 } else { 4.0 };
    let scale = (1.0 + offset) * inverse;

    let stats = moments_of(ctx, &x, &gamma, &beta);
    let source = ctx.tensor(&x, ctx.element);
    let a = ctx.garbage(source.layout, ctx.element);
    apply(ctx, &source, stats.pointer(), SLOPE as f32, &a);
    assert_near(&name("a"), &ctx.values(&a), &y, ctx.element, tolerance(scale));
    let in_place = ctx.tensor(&x, ctx.element);
    apply(ctx, &in_place, stats.pointer(), SLOPE as f32, &in_place);
    assert_eq!(ctx.values(&in_place), ctx.values(&a), "{}", name("in place"));

    ctx.reserve(backward_scratch(&source.layout));
    let gradient = ctx.tensor(&da, ctx.element);
    let (dg, _dg) = ctx.upload(&vec![f32::NAN; shape.1]);
    let (db, _db) = ctx.upload(&vec![f32::NAN; shape.1]);
    backward(ctx, &source, stats.pointer(), SLOPE as f32, &gradient, dg, db);
    // dy carries another factor 1/sd.
    let bound = tolerance(scale) * inverse;
    assert_near(&name("dx"), &ctx.values(&gradient), &dx, ctx.element, bound);
    let sum_bound = (voxels * shape.0 as f64).sqrt() * tolerance(scale);
    assert_close(&name("dgamma"), &ctx.floats(dg, shape.1), &dgamma, sum_bound);
    assert_close(&name("dbeta"), &ctx.floats(db, shape.1), &dbeta, sum_bound);
}

#[test]
fn statistics_of_many_tiles_lose_nothing_to_a_large_mean() {
    // More tiles than threads add them, of 1 to 40 voxels; a sum of squares would cancel eight digits.
    let (tiles, channels) = (300, 9);
    let counts: Vec<usize> = (0..tiles).map(|t| 1 + t * 7 % 40).collect();
    let voxels: usize = counts.iter().sum();
    let y = random((2, channels, 1, 1, voxels), 3).mapv(|v| f64::from((v + 1e4) as f32));
    let layout = Layout { batch: 2, channels, size: [1, 1, voxels] };
    let pitch = layout.pitch();
    let mut partials = vec![0.0; 2 * tiles * 3 * pitch];
    for (i, channel) in y.as_slice().unwrap().chunks_exact(voxels).enumerate() {
        let mut from = 0;
        for (t, count) in counts.iter().enumerate() {
            let (_, tile) = tile_statistics(
                &Grid::from_shape_vec((1, 1, 1, 1, *count), channel[from..from + count].to_vec())
                    .unwrap(),
                *count,
            );
            for row in 0..3 {
                partials[((i / channels * tiles + t) * 3 + row) * pitch + i % channels] =
                    tile[row * 8];
            }
            from += count;
        }
    }
    for ctx in contexts() {
        let (partials, _partials) = ctx.upload(&partials);
        let (gamma, _gamma) = ctx.upload(&vec![2.0; channels]);
        let (beta, _beta) = ctx.upload(&vec![3.0; channels]);
        let out = ctx.gpu.buffer(moments_bytes(&layout)).unwrap();
        moments(&ctx, partials, tiles, &layout, gamma, beta, 1e-5, out.pointer());
        let found = ctx.floats(out.pointer(), 2 * pitch * 4);
        for (i, found) in found.chunks_exact(4).enumerate() {
            let channel = i % pitch;
            if channel >= channels {
                assert_eq!(found, [0.0; 4], "padding");
                continue;
            }
            let values = y.slice(ndarray::s![i / pitch, channel, 0, 0, ..]);
            let mean = values.sum() / voxels as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / voxels as f64;
            let expected = [mean, 1.0 / (variance + 1e-5).sqrt(), 2.0, 3.0];
            // Tiles' means come as f32 (half an ulp of 1e4 each, of random sign), which moves the variance 0.33 by
            // about that times 2 sd / √tiles; the rest is f64.
            for (found, expected) in found.iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs() / expected;
                assert!(error < 4e-4, "channel {channel}: {found} != {expected}");
            }
            assert!((f64::from(found[0]) - mean).abs() < 1e-3, "{} != {mean}", found[0]);
        }
    }
}

#[test]
fn the_order_of_threads_changes_nothing() {
    let shape = (2, 20, 7, 19, 23);
    same_bytes(|ctx| {
        let x = random(shape, 1);
        let (gamma, beta) = (random_vec(shape.1, 2), random_vec(shape.1, 3));
        let stats = moments_of(ctx, &x, &gamma, &beta);
        let (y, da) = (ctx.tensor(&x, ctx.element), ctx.tensor(&random(shape, 4), ctx.element));
        ctx.reserve(backward_scratch(&y.layout));
        let (dg, _dg) = ctx.upload(&vec![0.0; shape.1]);
        let (db, _db) = ctx.upload(&vec![0.0; shape.1]);
        backward(ctx, &y, stats.pointer(), SLOPE as f32, &da, dg, db);
        let mut out = ctx.floats(stats.pointer(), 2 * 24 * 4);
        out.extend(ctx.values(&da).iter().map(|v| *v as f32));
        out.extend([ctx.floats(dg, shape.1), ctx.floats(db, shape.1)].concat());
        out
    });
}
