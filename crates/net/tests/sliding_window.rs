//! Sliding-window prediction against scipy's Gaussian, numpy's positions, and a naive f64 definition.

use artifact::recipe::Averaged;
use ndarray::{
    Array2, Array3, Array4, ArrayD, ArrayView4, ArrayView5, ArrayViewMut5, Axis, Zip, s,
};
use net::sliding_window::{Accumulator, Activation, Window, gaussian, positions, predict, views};
use serde::Deserialize;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sliding_window").join(name)
}

#[derive(Deserialize)]
struct Positions {
    axis: Vec<AxisPositions>,
}

#[derive(Deserialize)]
struct AxisPositions {
    image: usize,
    tile: usize,
    step: f64,
    at: Vec<usize>,
}

#[test]
fn tiles_lie_where_numpy_puts_them() {
    let text = std::fs::read_to_string(golden("positions.toml")).unwrap();
    let golden: Positions = toml::from_str(&text).unwrap();
    assert!(golden.axis.len() > 50);
    for a in golden.axis {
        let found = positions(a.image, a.tile, a.step);
        assert_eq!(found, a.at, "image {}, tile {}, step {}", a.image, a.tile, a.step);
    }
}

#[test]
fn slices_and_small_images_have_their_own_tiles() {
    assert_eq!(positions(4, 1, 0.5), [0, 1, 2, 3]);
    assert_eq!(positions(7, 2, 0.1), [0, 1, 2, 3, 4, 5]);
    assert_eq!(positions(3, 8, 0.5), [0]);
    assert_eq!(positions(8, 8, 0.5), [0]);
}

#[test]
fn the_gaussian_is_scipys() {
    let mut compared = 0;
    for (name, expected) in artifact::npz::read(&golden("gaussian.npz")).unwrap() {
        let mut parts = name.split('_');
        let edges: Vec<usize> =
            parts.next().unwrap().split('x').map(|e| e.parse().unwrap()).collect();
        let patch = [edges[0], edges[1], edges[2]];
        let sigma: f64 = parts.next().unwrap().parse().unwrap();
        let weight = gaussian(patch, sigma);
        let [z, y, x] = patch.map(|edge| edge / 2);
        let found: ArrayD<f32> = match parts.next() {
            None => weight.into_dyn(),
            Some("z") => weight.slice(s![.., y, x]).to_owned().into_dyn(),
            Some("y") => weight.slice(s![z, .., x]).to_owned().into_dyn(),
            Some("x") => weight.slice(s![z, y, ..]).to_owned().into_dyn(),
            Some(_) => (0..*edges.iter().min().unwrap())
                .map(|i| weight[[i, i, i]])
                .collect::<ndarray::Array1<f32>>()
                .into_dyn(),
        };
        assert_eq!(found.shape(), expected.shape(), "{name}");
        for ((at, f), e) in found.indexed_iter().zip(&expected) {
            // Both are f64 results rounded to f32 once: the same number or its neighbour.
            assert!((f - e).abs() <= f32::EPSILON * e, "{name} at {at:?}: {f}, expected {e}");
            compared += 1;
        }
    }
    assert!(compared > 2000, "{compared}");
}

/// A network's stand-in that sees everything a network could: value, neighbour, place in the patch. `[c, z, y, x]` to
/// `[k, z, y, x]`.
fn lopsided(patch: ArrayView4<'_, f64>, classes: usize) -> Array4<f64> {
    let (_, depth, height, width) = patch.dim();
    Array4::from_shape_fn((classes, depth, height, width), |(k, z, y, x)| {
        let here: f64 = patch.slice(s![.., z, y, x]).sum();
        let back = [z.saturating_sub(1), y.saturating_sub(1), x.saturating_sub(1)];
        let neighbour = patch[[0, back[0], back[1], back[2]]];
        let place = (z + 2 * y + 3 * x) as f64 / (depth + height + width) as f64;
        k as f64 * here + (0.3 - 0.2 * k as f64) * neighbour + (k % 2) as f64 * place
    })
}

fn random(shape: [usize; 4], seed: u64) -> Array4<f32> {
    let mut state = seed;
    Array4::from_shape_simple_fn(shape, || {
        // Knuth's MMIX generator; its high bits are good enough for voxels.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn softmax(scores: &Array4<f64>) -> Array4<f64> {
    let exp = scores.mapv(f64::exp);
    let sum = exp.sum_axis(Axis(0));
    exp / sum
}

fn activated(scores: &Array4<f64>, activation: Activation) -> Array4<f64> {
    match activation {
        Activation::Softmax => softmax(scores),
        Activation::Sigmoid => scores.mapv(|s| 1.0 / (1.0 + (-s).exp())),
    }
}

/// The definition, on a copy of the image surrounded by zeros; every tile, every flip, one at a time, in f64.
fn naive(image: &Array4<f32>, classes: usize, window: &Window) -> Array4<f64> {
    let (channels, z, y, x) = image.dim();
    let shape = [z, y, x];
    let padded: [usize; 3] = std::array::from_fn(|a| shape[a].max(window.patch[a]));
    let before: [usize; 3] = std::array::from_fn(|a| (padded[a] - shape[a]) / 2);
    let inner =
        s![.., before[0]..before[0] + z, before[1]..before[1] + y, before[2]..before[2] + x];
    let mut volume = Array4::<f64>::zeros((channels, padded[0], padded[1], padded[2]));
    volume.slice_mut(inner).assign(&image.mapv(f64::from));
    let weight = gaussian(window.patch, window.gaussian_sigma).mapv(f64::from);
    let mut sums = Array4::<f64>::zeros((classes, padded[0], padded[1], padded[2]));
    let mut weights = Array3::<f64>::zeros(padded);
    let subsets = (0..8usize)
        .filter(|subset| (0..3).all(|a| subset >> a & 1 == 0 || window.mirror_axes.contains(&a)));
    let flips: Vec<usize> = subsets.collect();
    let at = |a: usize| positions(padded[a], window.patch[a], window.step);
    let [pz, py, px] = window.patch;
    for z in at(0) {
        for y in at(1) {
            for x in at(2) {
                for &flip in &flips {
                    let tile = s![.., z..z + pz, y..y + py, x..x + px];
                    let mut patch = volume.slice(tile).to_owned();
                    let turn = |array: &mut Array4<f64>| {
                        (0..3).filter(|a| flip >> a & 1 == 1).for_each(|a| {
                            array.invert_axis(Axis(a + 1));
                        });
                    };
                    turn(&mut patch);
                    let mut scores = lopsided(patch.view(), classes);
                    turn(&mut scores);
                    if window.averaged == Averaged::Probabilities {
                        scores = activated(&scores, window.activation);
                    }
                    let mut target = sums.slice_mut(tile);
                    target += &(scores * &weight);
                    let mut target = weights.slice_mut(s![z..z + pz, y..y + py, x..x + px]);
                    target += &weight;
                }
            }
        }
    }
    let mean = sums / weights;
    let late = window.averaged == Averaged::Logits;
    let mean = if late { activated(&mean, window.activation) } else { mean };
    mean.slice(inner).to_owned()
}

fn lopsided_forward(x: ArrayView5<'_, f32>, mut out: ArrayViewMut5<'_, f32>) -> Result<(), String> {
    let classes = out.dim().1;
    for (patch, mut out) in x.outer_iter().zip(out.outer_iter_mut()) {
        let scores = lopsided(patch.mapv(f64::from).view(), classes);
        Zip::from(&mut out).and(&scores).for_each(|o, s| *o = *s as f32);
    }
    Ok(())
}

/// Image, patch, step, mirror axes, views at once: 2D, exact fit, smaller than the patch on some or all axes, odd
/// overhang, a batch that doesn't divide the views.
fn table() -> Vec<([usize; 3], Window)> {
    type Row = ([usize; 3], [usize; 3], f64, &'static [usize], usize);
    let rows: [Row; 9] = [
        ([6, 7, 8], [6, 7, 8], 0.5, &[], 1),
        ([6, 7, 8], [6, 7, 8], 0.5, &[0, 1, 2], 3),
        ([11, 9, 13], [4, 6, 8], 0.5, &[0, 2], 1),
        ([11, 9, 13], [5, 4, 7], 0.3, &[1], 5),
        ([3, 12, 5], [8, 6, 8], 0.5, &[0, 1, 2], 3),
        ([2, 3, 1], [4, 8, 6], 0.5, &[2], 64),
        ([5, 9, 10], [1, 8, 4], 0.5, &[1, 2], 4),
        ([1, 1, 1], [1, 1, 1], 1.0, &[], 1),
        ([16, 5, 6], [4, 4, 4], 1.0, &[], 7),
    ];
    let mut table = Vec::new();
    for (image, patch, step, mirrors, tile_batch) in rows {
        for averaged in [Averaged::Probabilities, Averaged::Logits] {
            for activation in [Activation::Softmax, Activation::Sigmoid] {
                let window = Window {
                    patch,
                    step,
                    gaussian_sigma: 0.125,
                    mirror_axes: mirrors.into(),
                    averaged,
                    activation,
                    tile_batch,
                };
                table.push((image, window));
            }
        }
    }
    table
}

#[test]
fn prediction_follows_the_definition() {
    for (i, (shape, window)) in table().into_iter().enumerate() {
        for (channels, classes) in [(1, 2), (2, 4)] {
            let [z, y, x] = shape;
            let image = random([channels, z, y, x], i as u64);
            let mut seen = 0;
            let found = predict(image.view(), classes, &window, &mut lopsided_forward, &mut |n| {
                seen += n;
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, views(shape, &window), "{window:?}");
            let expected = naive(&image, classes, &window);
            // Each of the `views` terms is rounded as a logit of size ≤ 12, as exp, as product and as sum; far below
            // the peak the Gaussian's own rounding cancels between numerator and denominator.
            let tolerance = (seen as f64 + 4.0 * 12.0) * f64::from(f32::EPSILON);
            let worst = found
                .indexed_iter()
                .zip(&expected)
                .map(|((at, f), e)| ((f64::from(*f) - e).abs(), at))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap();
            assert!(worst.0 <= tolerance, "{worst:?} above {tolerance:e}: {shape:?} {window:?}");
        }
    }
}

#[test]
fn a_network_that_looks_at_single_voxels_is_reproduced_on_any_grid() {
    let slopes = Array2::from_shape_fn((3, 2), |(k, c)| (k as f32 - 1.0) * (c as f32 + 0.5));
    let mut forward = |x: ArrayView5<'_, f32>, mut out: ArrayViewMut5<'_, f32>| {
        for (patch, mut out) in x.outer_iter().zip(out.outer_iter_mut()) {
            for k in 0..3 {
                let sum = &patch.index_axis(Axis(0), 0) * slopes[[k, 0]]
                    + &patch.index_axis(Axis(0), 1) * slopes[[k, 1]];
                out.index_axis_mut(Axis(0), k).assign(&sum);
            }
        }
        Ok::<(), ()>(())
    };
    for (i, (shape, window)) in table().into_iter().enumerate() {
        let [z, y, x] = shape;
        let image = random([2, z, y, x], 100 + i as u64);
        let found = predict(image.view(), 3, &window, &mut forward, &mut |_| Ok(())).unwrap();
        let logits = Array4::from_shape_fn((3, z, y, x), |(k, z, y, x)| {
            (0..2).map(|c| f64::from(slopes[[k, c]] * image[[c, z, y, x]])).sum()
        });
        let expected = activated(&logits, window.activation);
        // A weighted mean of equal numbers: one rounding per view above and below the fraction line, a few for exp.
        let tolerance = (2 * views(shape, &window) + 16) as f64 * f64::from(f32::EPSILON);
        for ((at, f), e) in found.indexed_iter().zip(&expected) {
            assert!((f64::from(*f) - e).abs() <= tolerance, "{shape:?} {at:?}: {f}, expected {e}");
        }
    }
}

#[test]
fn mirroring_averages_a_shift_to_both_sides() {
    // A network that answers with the voxel before, along x.
    let mut shift = |x: ArrayView5<'_, f32>, mut out: ArrayViewMut5<'_, f32>| {
        out.fill(0.0);
        out.slice_mut(s![.., 1, .., .., 1..]).assign(&x.slice(s![.., 0, .., .., ..-1]));
        Ok::<(), ()>(())
    };
    let window = Window {
        patch: [1, 2, 6],
        step: 0.5,
        gaussian_sigma: 0.125,
        mirror_axes: vec![0, 1, 2],
        averaged: Averaged::Logits,
        activation: Activation::Softmax,
        tile_batch: 4,
    };
    let image = random([1, 1, 2, 6], 9);
    assert_eq!(views([1, 2, 6], &window), 4, "flipping an axis of one voxel is no new view");
    let found = predict(image.view(), 2, &window, &mut shift, &mut |_| Ok(())).unwrap();
    for ((_, z, y, x), _) in image.indexed_iter() {
        let at = |x: Option<usize>| x.filter(|x| *x < 6).map_or(0.0, |x| image[[0, 0, y, x]]);
        let mean = f64::from(at(x.checked_sub(1)) + at(Some(x + 1))) / 2.0;
        let expected = 1.0 / (1.0 + (-mean).exp());
        let p = f64::from(found[[1, z, y, x]]);
        assert!((p - expected).abs() <= 8.0 * f64::from(f32::EPSILON), "{x}: {p}, {expected}");
    }
}

#[test]
fn models_are_averaged_as_the_recipe_says() {
    let image = random([1, 4, 5, 6], 3);
    let constant = |logit: f32| {
        move |_: ArrayView5<'_, f32>, mut out: ArrayViewMut5<'_, f32>| {
            out.fill(0.0);
            out.index_axis_mut(Axis(1), 1).fill(logit);
            Ok::<(), ()>(())
        }
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (averaged, expected) in [
        (Averaged::Probabilities, (sigmoid(3.0) + sigmoid(-1.0)) / 2.0),
        (Averaged::Logits, sigmoid(1.0)),
    ] {
        let window = Window {
            patch: [4, 4, 4],
            step: 0.5,
            gaussian_sigma: 0.125,
            mirror_axes: vec![],
            averaged,
            activation: Activation::Softmax,
            tile_batch: 1,
        };
        let sums = || {
            let mut accumulator = Accumulator::new([4, 5, 6], 2, &window);
            for logit in [3.0, -1.0] {
                accumulator.add(image.view(), &mut constant(logit), &mut |_| Ok(())).unwrap();
            }
            accumulator
        };
        let kept = if averaged == Averaged::Logits { 1.0 } else { expected };
        for mean in sums().means().index_axis(Axis(0), 1) {
            assert!((f64::from(*mean) - kept).abs() <= 32.0 * f64::from(f32::EPSILON), "{mean}");
        }
        for p in sums().finish().index_axis(Axis(0), 1) {
            // 2 models × 4 tiles, as above.
            assert!((f64::from(*p) - expected).abs() <= 32.0 * f64::from(f32::EPSILON), "{p}");
        }
    }
}

#[test]
fn thread_count_changes_no_bit() {
    let image = random([2, 9, 17, 13], 5);
    let window = Window {
        patch: [4, 8, 8],
        step: 0.5,
        gaussian_sigma: 0.125,
        mirror_axes: vec![0, 1, 2],
        averaged: Averaged::Probabilities,
        activation: Activation::Softmax,
        tile_batch: 2,
    };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            predict(image.view(), 3, &window, &mut lopsided_forward, &mut |_| Ok(())).unwrap()
        })
    };
    let one = with(1);
    assert!([2, 5].map(with).iter().all(|other| *other == one));
}

#[test]
fn an_error_of_network_or_tick_ends_the_prediction() {
    let image = random([1, 8, 8, 8], 1);
    let window = Window {
        patch: [4, 4, 4],
        step: 0.5,
        gaussian_sigma: 0.125,
        mirror_axes: vec![],
        averaged: Averaged::Probabilities,
        activation: Activation::Softmax,
        tile_batch: 2,
    };
    let mut ticks = 0;
    let ended = predict(image.view(), 2, &window, &mut lopsided_forward, &mut |n| {
        ticks += n;
        if ticks < 6 { Ok(()) } else { Err("stop".into()) }
    });
    assert_eq!((ended.unwrap_err(), ticks), ("stop".into(), 6));
    let failed = predict(image.view(), 2, &window, &mut |_, _| Err("broken"), &mut |_| Ok(()));
    assert_eq!(failed.unwrap_err(), "broken");
}
