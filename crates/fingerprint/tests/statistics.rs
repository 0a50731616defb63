//! Statistics against numpy, and against their definition.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::plan::Intensity;
use fingerprint::distribution::{Histogram, Moments, Pool};
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

fn pool<'a>(cases: impl IntoIterator<Item = &'a [f32]>) -> Pool {
    let mut pool = Pool::default();
    cases.into_iter().for_each(|case| pool.add(histogram(case)));
    pool
}

fn of(values: &[f32]) -> Intensity {
    pool([values]).per_voxel(Moments::of(values.iter().copied()))
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
            let mut order = parts.clone();
            order.rotate_left(turn % parts.len());
            let merged = pool(order);
            assert_eq!((merged.count(), merged.cases()), (values.len() as u64, parts.len() as u64));
            let found = merged.per_voxel(moments);
            assert_eq!(found.median, whole.median, "{name}");
            assert_eq!(found.percentile_99_5, whole.percentile_99_5, "{name}");
            let bound = values.len() as f64 * f64::EPSILON * whole.min.abs().max(whole.max.abs());
            assert!((found.mean - whole.mean).abs() <= bound, "{name}");
            assert!((found.sd - whole.sd).abs() <= bound, "{name}");
        }
    }
}

/// Made-up cases whose sizes divide 24.
fn unequal_cases() -> BTreeMap<&'static str, Vec<Vec<f32>>> {
    let golden = golden();
    let cut = |name: &str, sizes: &[usize]| {
        let mut values = golden[name].values.iter().copied();
        sizes.iter().map(|&n| values.by_ref().take(n).collect()).collect()
    };
    BTreeMap::from([
        ("ct", cut("ct", &[24, 1, 12, 3, 8, 2, 24, 6])),
        ("with an empty one", cut("ct", &[24, 0, 1, 0])),
        ("skewed", cut("skewed", &[1, 24, 24, 2, 12])),
        ("ties", cut("ties", &[24, 1, 3, 8])),
        ("both zeros", cut("zeros_of_both_signs", &[3, 2])),
        ("single", vec![vec![7.5]]),
        // One half of the weight ends exactly with a value.
        ("two values", vec![vec![-1.5], vec![7.125]]),
        ("two cases apart", vec![(0..24).map(|i| i as f32).collect(), vec![100.0, 200.0, 300.0]]),
    ])
}

/// The definition: every case is repeated until all have equally many values, and so many that the percentiles asked for
/// lie between two ranks; then numpy's linear percentile.
fn repeated(cases: &[Vec<f32>]) -> Vec<f64> {
    let mut all = Vec::new();
    for case in cases.iter().filter(|c| !c.is_empty()) {
        for _ in 0..24 * 200 / case.len() {
            all.extend(case.iter().map(|v| f64::from(*v)));
        }
    }
    all.sort_by(f64::total_cmp);
    all
}

fn numpy_percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = p / 100.0 * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

#[test]
fn cases_count_the_same_whatever_their_sizes() {
    for (name, cases) in unequal_cases() {
        let all = repeated(&cases);
        let n = all.len() as f64;
        let mean = all.iter().sum::<f64>() / n;
        let sd = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        let moments = cases.iter().map(|c| Moments::of(c.iter().copied()).as_one());
        let moments = moments.fold(Moments::default(), Moments::merge);
        for turn in 0..cases.len() {
            let mut order: Vec<&[f32]> = cases.iter().map(Vec::as_slice).collect();
            order.rotate_left(turn);
            let pool = pool(order);
            let found = pool.per_case(moments);
            assert_eq!((found.min, found.max), (all[0], all[all.len() - 1]), "{name}");
            // n additions, each rounded once to the largest magnitude.
            let bound = n * f64::EPSILON * found.min.abs().max(found.max.abs());
            assert!((found.mean - mean).abs() <= bound, "{name}: {}, {mean}", found.mean);
            assert!((found.sd - sd).abs() <= bound, "{name}: {}, {sd}", found.sd);
            for p in [0.5, 50.0, 99.5, 12.5, 25.0, 75.0, 99.0] {
                let (found, expected) = (pool.case_percentile(p), numpy_percentile(&all, p));
                let whole = all.iter().all(|v| v.fract() == 0.0 && v.abs() < 16384.0);
                let bucket = if whole { 0.0 } else { 2f64.powi(-13) };
                // The width of a bucket, and the rounding of a rank among n times the whole range.
                let bound = bucket * expected.abs()
                    + 4.0 * n * f64::EPSILON * (all[all.len() - 1] - all[0])
                    + f64::from(f32::MIN_POSITIVE);
                assert!((found - expected).abs() <= bound, "{name} {p}: {found}, not {expected}");
            }
            assert_eq!(found.median, pool.case_percentile(50.0));
        }
    }
}

#[test]
fn nothing_has_no_statistics() {
    assert!(Histogram::default().percentile(50.0).is_nan());
    assert!(pool([[].as_slice()]).case_percentile(50.0).is_nan());
    assert_eq!(Moments::default().as_one(), Moments::default());
    let empty = Moments::of(std::iter::empty());
    let one = Moments::of([2.0f32].into_iter());
    assert_eq!((empty.merge(one), one.merge(empty)), (one, one));
}
