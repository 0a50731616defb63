//! Probabilities and ranges of every random draw, with the paper's recipe.
//!
//! All seeds are fixed, so a test passes always or never; its bound is where a right program would fail by chance once
//! in a million seeds.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/opened.rs"]
mod opened;
mod support;

use augment::{Aim, Draws, Elastic, Frame, Loader, Mode, Settings};
use opened::{cases, configuration};
use support::recipe;

const DRAWS: usize = 40_000;

/// A count of `n` draws of probability `p`: within 4.9 standard deviations (normal approximation, 1e-6).
fn assert_share(what: &str, count: usize, n: usize, p: f64) {
    let (expected, sd) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    let distance = (count as f64 - expected).abs();
    assert!(
        distance <= 4.9 * sd,
        "{what}: {count} of {n}, expected {expected:.0} ± {:.0}",
        4.9 * sd
    );
}

/// Kolmogorov–Smirnov: the largest distance of the two distributions is below √(ln(2 / 1e-6) / 2n).
fn assert_distribution(what: &str, mut values: Vec<f64>, cdf: impl Fn(f64) -> f64) {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    assert!(n > 100.0, "{what}: only {n} values");
    let distance = values
        .iter()
        .enumerate()
        .map(|(i, &v)| (cdf(v) - i as f64 / n).abs().max((cdf(v) - (i + 1) as f64 / n).abs()))
        .fold(0.0, f64::max);
    let bound = ((2e6f64).ln() / 2.0 / n).sqrt();
    assert!(distance < bound, "{what}: distance {distance:.4}, bound {bound:.4}");
}

fn uniform(low: f64, high: f64) -> impl Fn(f64) -> f64 {
    move |v| ((v - low) / (high - low)).clamp(0.0, 1.0)
}

/// Half of the draws uniform in low..1, half in 1..high.
fn two_sided(low: f64, high: f64) -> impl Fn(f64) -> f64 {
    move |v| 0.5 * uniform(low, 1.0)(v) + 0.5 * uniform(1.0, high)(v)
}

fn draws(patch: [usize; 3], channels: usize) -> Vec<Draws> {
    let settings = Settings::new(&recipe().augmentation, patch);
    let draw = |n| {
        let stream = |what| stage::rng(1, &[n, what as u64]);
        Draws::draw(stream, &settings, channels, 0, &[0, 1, 2])
    };
    (0..DRAWS as u64).map(draw).collect()
}

#[test]
fn transforms_fire_with_the_papers_probabilities() {
    for patch in [[40, 56, 40], [1, 256, 224], [20, 128, 128]] {
        let draws = draws(patch, 1);
        let count = |f: &dyn Fn(&Draws) -> bool| draws.iter().filter(|d| f(d)).count();
        assert_share("rotation", count(&|d| d.angles.is_some()), DRAWS, 0.2);
        assert_share("scaling", count(&|d| d.scale.is_some()), DRAWS, 0.2);
        assert_share("elastic", count(&|d| d.elastic.is_some()), DRAWS, 0.2);
        assert_share("gamma", count(&|d| d.gamma.is_some()), DRAWS, 0.3);
        for flips in 0..8 {
            let wanted = [flips & 1 == 1, flips & 2 == 2, flips & 4 == 4];
            let p = match (patch[0], wanted[0]) {
                (1, true) => 0.0,
                (1, false) => 0.25,
                _ => 0.125,
            };
            assert_share("flips", count(&|d| d.mirror == wanted), DRAWS, p);
        }
        // Independent of each other.
        let spatial = count(&|d| d.angles.is_some() || d.scale.is_some() || d.elastic.is_some());
        assert_share("any spatial transform", spatial, DRAWS, 1.0 - 0.8f64.powi(3));
        let both = count(&|d| d.gamma.is_some() && d.angles.is_some());
        assert_share("gamma with rotation", both, DRAWS, 0.06);
    }
}

#[test]
fn parameters_are_uniform_over_the_papers_3d_ranges() {
    let draws = draws([40, 56, 40], 2);
    let angles: Vec<[f64; 3]> = draws.iter().filter_map(|d| d.angles).collect();
    for axis in 0..3 {
        let degrees = angles.iter().map(|a| a[axis].to_degrees()).collect();
        assert_distribution("angle", degrees, uniform(-15.0, 15.0));
    }
    let difference = angles.iter().filter(|a| a[0] < a[1]).count();
    assert_share("angles are drawn per axis", difference, angles.len(), 0.5);
    let elastic: Vec<Elastic> = draws.iter().filter_map(|d| d.elastic).collect();
    assert_distribution("alpha", elastic.iter().map(|e| e.alpha).collect(), uniform(0.0, 900.0));
    assert_distribution("sigma", elastic.iter().map(|e| e.sigma).collect(), uniform(9.0, 13.0));
    let scale = draws.iter().filter_map(|d| d.scale).collect();
    assert_distribution("scale", scale, two_sided(0.85, 1.25));
    let gamma: Vec<&Vec<f64>> = draws.iter().filter_map(|d| d.gamma.as_ref()).collect();
    for channel in 0..2 {
        let exponents = gamma.iter().map(|g| g[channel]).collect();
        assert_distribution("gamma", exponents, two_sided(0.7, 1.5));
    }
    let difference = gamma.iter().filter(|g| g[0] < g[1]).count();
    assert_share("gammas are drawn per channel", difference, gamma.len(), 0.5);
}

#[test]
fn slices_have_the_2d_ranges_and_one_angle() {
    for (patch, frame, limit) in [
        ([1, 256, 224], Frame::Slices(0), 180.0),
        ([1, 320, 192], Frame::Slices(0), 15.0),
        ([20, 320, 192], Frame::Slices(0), 180.0),
        ([64, 20, 96], Frame::Slices(1), 180.0),
        ([64, 96, 31], Frame::Slices(2), 180.0),
    ] {
        assert_eq!(Settings::new(&recipe().augmentation, patch).frame, frame, "{patch:?}");
        let draws = draws(patch, 1);
        let angles: Vec<[f64; 3]> = draws.iter().filter_map(|d| d.angles).collect();
        assert!(angles.iter().all(|a| a[1] == 0.0 && a[2] == 0.0));
        let degrees = angles.iter().map(|a| a[0].to_degrees()).collect();
        assert_distribution("angle", degrees, uniform(-limit, limit));
        let alphas = draws.iter().filter_map(|d| d.elastic).map(|e| e.alpha).collect();
        assert_distribution("alpha", alphas, uniform(0.0, 200.0));
    }
    assert_eq!(Settings::new(&recipe().augmentation, [40, 80, 40]).frame, Frame::Volume);
}

#[test]
fn elastic_noise_is_uniform_and_differs_by_axis() {
    let elastic = Elastic { alpha: 1.0, sigma: 9.0, noise: 5 };
    let noise = elastic.noise([20, 25, 30], false);
    for component in noise.outer_iter() {
        let values = component.iter().map(|&v| f64::from(v)).collect();
        assert_distribution("noise", values, uniform(-1.0, 1.0));
    }
    let below = noise
        .outer_iter()
        .next()
        .unwrap()
        .iter()
        .zip(noise.outer_iter().nth(1).unwrap())
        .filter(|(a, b)| a < b)
        .count();
    assert_share("components are independent", below, 15_000, 0.5);
    let plane = elastic.noise([20, 25, 30], true);
    assert_eq!(plane.dim(), (3, 1, 25, 30));
    assert!(plane.outer_iter().next().unwrap().iter().all(|&v| v == 0.0));
}

#[test]
fn cases_boxes_and_classes_are_drawn_uniformly() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = [[20, 24, 18], [15, 24, 18], [20, 10, 31]];
    let cases = cases(folder.path(), &shapes, 1, false);
    let patch = [16, 12, 14];
    let loader =
        Loader::new(cases, &configuration(patch, 9, 1), &recipe(), Mode::Training, 3).unwrap();
    let batches = 3000;
    let mut per_case = [0; 3];
    let mut per_class = [0; 3];
    let mut positions = [0; 5];
    for batch in 0..batches {
        for sample in 0..9 {
            let placement = loader.placement(batch, sample);
            per_case[placement.case] += 1;
            // Four are the fewest that are more than a third of nine.
            assert_eq!(placement.aim != Aim::Anywhere, sample >= 5);
            match placement.aim {
                Aim::Foreground(class) => per_class[class] += 1,
                Aim::Annotated => panic!("the data set has no ignore label"),
                Aim::Anywhere if placement.case == 0 => {
                    assert!((0..=12).contains(&placement.lower[1]));
                    positions[usize::try_from(placement.lower[0]).unwrap()] += 1;
                }
                // 15 voxels and a patch of 16: it begins at −1 or 0.
                Aim::Anywhere if placement.case == 1 => {
                    assert!((-1..=0).contains(&placement.lower[0]));
                }
                Aim::Anywhere => assert_eq!(placement.lower[1], -1),
            }
        }
    }
    let samples = usize::try_from(batches).unwrap() * 9;
    for count in per_case {
        assert_share("case", count, samples, 1.0 / 3.0);
    }
    // Class 1 is far smaller than class 2, but as often chosen.
    assert_share("class", per_class[1], samples / 9 * 4, 0.5);
    let free: usize = positions.iter().sum();
    for count in positions {
        assert_share("box", count, free, 0.2);
    }
}

#[test]
fn samples_and_batches_have_independent_streams() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), &[[6, 8, 8]], 1, false);
    let configuration = configuration([1, 8, 8], 40, 1);
    let loader = Loader::new(cases, &configuration, &recipe(), Mode::Training, 0).unwrap();
    let draws: Vec<Vec<Draws>> =
        (0..1000).map(|batch| (0..40).map(|s| loader.draws(0, batch, s)).collect()).collect();
    let rotated = |batch: usize, sample: usize| draws[batch][sample].angles.is_some();
    let count = |f: &dyn Fn(usize, usize) -> bool| {
        (0..999).flat_map(|b| (0..39).map(move |s| (b, s))).filter(|&(b, s)| f(b, s)).count()
    };
    let n = 999 * 39;
    assert_share("rotation", count(&rotated), n, 0.2);
    assert_share(
        "with the next sample",
        count(&|b, s| rotated(b, s) && rotated(b, s + 1)),
        n,
        0.04,
    );
    assert_share("with the next batch", count(&|b, s| rotated(b, s) && rotated(b + 1, s)), n, 0.04);
    let degrees = draws.iter().flatten().filter_map(|d| d.angles).map(|a| a[0].to_degrees());
    assert_distribution("angle", degrees.collect(), uniform(-180.0, 180.0));
}
