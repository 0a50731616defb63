//! Pooled statistics against numpy.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::plan::Intensity;
use fingerprint::distribution::{Histogram, Moments, intensity};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    values: Vec<f32>,
    #[serde(flatten)]
    expected: Intensity,
}

fn golden() -> BTreeMap<String, Golden> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/statistics.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn histogram(values: &[f32]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|v| histogram.add(*v));
    histogram
}

fn of(values: &[f32]) -> Intensity {
    intensity(&histogram(values), Moments::of(values.iter().copied()))
}

#[test]
fn statistics_are_those_of_numpy() {
    for (name, Golden { values, expected }) in golden() {
        let found = of(&values);
        assert_eq!((found.min, found.max), (expected.min, expected.max), "{name}");
        // n additions, each rounded once to the sum of magnitudes.
        let n = values.len() as f64;
        let size = values.iter().map(|v| f64::from(v.abs())).sum::<f64>() / n;
        let spread = expected.max - expected.min;
        assert!((found.mean - expected.mean).abs() <= n * f64::EPSILON * size, "{name} mean");
        assert!(
            (found.sd - expected.sd).abs() <= n * f64::EPSILON * (size + spread),
            "{name} sd {} {}",
            found.sd,
            expected.sd
        );
        let whole = values.iter().all(|v| v.fract() == 0.0 && v.abs() < 16384.0);
        let percentiles = [
            (found.median, expected.median),
            (found.percentile_00_5, expected.percentile_00_5),
            (found.percentile_99_5, expected.percentile_99_5),
        ];
        for (found, expected) in percentiles {
            // The width of a bucket, and numpy's and our own last rounding.
            let bucket = if whole { 0.0 } else { 2f64.powi(-13) };
            let bound =
                (bucket + 4.0 * f64::EPSILON) * expected.abs() + f64::from(f32::MIN_POSITIVE);
            assert!((found - expected).abs() <= bound, "{name}: {found}, expected {expected}");
        }
    }
}

#[test]
fn every_percentile_of_whole_numbers_is_exact() {
    // The coarsest whole numbers that have a bucket each, unevenly often.
    let coarse: Vec<f32> = (0..2000).map(|i| (16383 - i * i % 500) as f32).collect();
    for values in [&golden()["ct"].values, &coarse] {
        let histogram = histogram(values);
        let mut sorted: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        sorted.sort_by(f64::total_cmp);
        for rank in 0..sorted.len() {
            let p = 100.0 * rank as f64 / (sorted.len() - 1) as f64;
            let found = histogram.percentile(p);
            // The rank is rounded: by a few of its last bits, times the gap to the neighbour.
            let bound =
                4.0 * f64::EPSILON * sorted.len() as f64 * (sorted[sorted.len() - 1] - sorted[0]);
            assert!((found - sorted[rank]).abs() <= bound, "{p}: {found}, not {}", sorted[rank]);
        }
    }
}

#[test]
fn merging_parts_gives_the_whole_in_any_order() {
    for (name, Golden { values, .. }) in golden() {
        let whole = of(&values);
        let parts: Vec<&[f32]> = values.chunks(97).collect();
        let moments = parts.iter().map(|p| Moments::of(p.iter().copied()));
        let moments = moments.fold(Moments::default(), Moments::merge);
        for turn in 0..3 {
            let mut merged = Histogram::default();
            let mut order = parts.clone();
            order.rotate_left(turn % parts.len());
            order.iter().for_each(|p| merged.merge(histogram(p)));
            assert_eq!(merged.count(), values.len() as u64);
            let found = intensity(&merged, moments);
            assert_eq!(found.median, whole.median, "{name}");
            assert_eq!(found.percentile_99_5, whole.percentile_99_5, "{name}");
            let bound = values.len() as f64 * f64::EPSILON * whole.min.abs().max(whole.max.abs());
            assert!((found.mean - whole.mean).abs() <= bound, "{name}");
            assert!((found.sd - whole.sd).abs() <= bound, "{name}");
        }
    }
}

#[test]
fn nothing_has_no_statistics() {
    assert!(Histogram::default().percentile(50.0).is_nan());
    let empty = Moments::of(std::iter::empty());
    let one = Moments::of([2.0f32].into_iter());
    assert_eq!((empty.merge(one), one.merge(empty)), (one, one));
}
