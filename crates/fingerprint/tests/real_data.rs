//! Whole data sets against numpy, scipy and SimpleITK, and against what nnU-Net draws from them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::crop;
use artifact::dataset::Dataset;
use artifact::plan::Intensity;
use fingerprint::measure;
use ndarray::s;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    channels: Vec<Channel>,
}

/// Id, shape, spacing, shape of the crop box, voxels per class.
type Case = (String, [usize; 3], [f64; 3], [usize; 3], Vec<u64>);

#[derive(Deserialize)]
struct Channel {
    voxels: u64,
    #[serde(flatten)]
    intensity: Intensity,
}

fn shared_data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    #[expect(clippy::disallowed_methods, reason = "CI must not skip silently")]
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "{} is missing", folder.display());
    eprintln!("SKIPPED: {} is missing", folder.display());
    None
}

#[test]
fn fingerprints_are_what_numpy_measures() {
    let Some(shared) = shared_data() else { return };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/real_data.json");
    let golden: BTreeMap<String, Golden> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, golden) in golden {
        let folder = shared.join(&name);
        let dataset = Dataset::load(&folder).unwrap();
        let report = measure(&folder, &dataset, || true).unwrap().unwrap();
        assert_eq!(report.problems, [], "{name}");
        let found = report.fingerprint.unwrap();
        assert_eq!(found.cases.len(), golden.cases.len(), "{name}");
        for (case, (id, shape, spacing, cropped, classes)) in found.cases.iter().zip(golden.cases) {
            assert_eq!((&case.id, case.shape, case.cropped_shape), (&id, shape, cropped), "{name}");
            assert_eq!((case.spacing_mm, &case.class_voxels), (spacing, &classes), "{name} {id}");
            let part =
                cropped.iter().product::<usize>() as f64 / shape.iter().product::<usize>() as f64;
            assert_eq!(case.relative_size, part, "{name} {id}");
        }
        for (channel, golden) in found.channels.iter().zip(golden.channels) {
            assert_eq!(channel.voxels, golden.voxels, "{name}");
            let (found, expected) = (channel.per_voxel, golden.intensity);
            assert_eq!((found.min, found.max), (expected.min, expected.max), "{name}");
            // Sums of n f64 terms in another order; the error of random roundings grows as √n, the bound is 10 of those.
            let bound = 10.0 * f64::EPSILON * (golden.voxels as f64).sqrt() * expected.max.abs();
            assert!((found.mean - expected.mean).abs() <= bound, "{name}");
            assert!((found.sd - expected.sd).abs() <= bound, "{name}");
            for (found, expected) in [
                (found.median, expected.median),
                (found.percentile_00_5, expected.percentile_00_5),
                (found.percentile_99_5, expected.percentile_99_5),
            ] {
                // The width of a bucket.
                assert!(
                    (found - expected).abs() <= 2f64.powi(-13) * expected.abs(),
                    "{name}: {found}, {expected}"
                );
            }
        }
    }
}

/// What nnU-Net's extractor finds by drawing `drawn_per_case` foreground voxels from every case.
#[derive(Deserialize)]
struct Drawn {
    cases: usize,
    drawn_per_case: u64,
    channels: Vec<Properties>,
}

#[derive(Deserialize)]
struct Properties {
    mean: f64,
    std: f64,
    min: f64,
    median: f64,
    max: f64,
    percentile_00_5: f64,
    percentile_99_5: f64,
}

/// Foreground values of every channel with their weights, each case's together 1 / cases; in rising order.
fn weighted(dataset: &Dataset) -> Vec<Vec<(f64, f64)>> {
    let mut all = vec![Vec::new(); dataset.channels.len()];
    for case in &dataset.training {
        let images = dataset.read_image(case).unwrap().channels;
        let label = dataset.read_label(case).unwrap().channels;
        let [z, y, x] = crop::bounding_box(&crop::nonzero_mask(images.view()));
        let label = label.slice(s![0, z.clone(), y.clone(), x.clone()]);
        let foreground = label.iter().filter(|v| **v > 0.0).count() as f64;
        let weight = 1.0 / foreground / dataset.training.len() as f64;
        for (channel, all) in images.slice(s![.., z, y, x]).outer_iter().zip(&mut all) {
            let inside = channel.iter().zip(label.iter()).filter(|(_, l)| **l > 0.0);
            all.extend(inside.map(|(v, _)| (f64::from(*v), weight)));
        }
    }
    all.iter_mut().for_each(|values| values.sort_by(|a, b| a.0.total_cmp(&b.0)));
    all
}

/// The smallest value up to which at least this fraction of the weight lies.
fn quantile(sorted: &[(f64, f64)], fraction: f64) -> f64 {
    let mut sum = 0.0;
    let reached = sorted.iter().find(|(_, weight)| {
        sum += weight;
        sum >= fraction
    });
    reached.unwrap_or(&sorted[sorted.len() - 1]).0
}

#[test]
fn intensities_per_case_are_what_nnunet_draws() {
    let Some(shared) = shared_data() else { return };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/nnunet.json");
    let golden: BTreeMap<String, Drawn> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(golden.len(), 9);
    for (name, golden) in golden {
        let folder = shared.join(&name);
        let dataset = Dataset::load(&folder).unwrap();
        let report = measure(&folder, &dataset, || true).unwrap().unwrap();
        let fingerprint = report.fingerprint.unwrap();
        assert_eq!(fingerprint.cases.len(), golden.cases, "{name}");
        let values = weighted(&dataset);
        assert_eq!(
            (values.len(), golden.channels.len()),
            (fingerprint.channels.len(), values.len())
        );
        for ((channel, values), drawn) in
            fingerprint.channels.iter().zip(values).zip(golden.channels)
        {
            let what = format!("{name} {}", channel.name);
            assert_eq!(channel.cases, golden.cases as u64, "{what}");
            check_definition(&what, &channel.per_case, &values);
            let n = (golden.drawn_per_case * channel.cases) as f64;
            check_drawn(&what, &channel.per_case, &values, &drawn, n);
        }
    }
}

fn moment(values: &[(f64, f64)], centre: f64, power: i32) -> f64 {
    values.iter().map(|(v, weight)| (v - centre).powi(power) * weight).sum()
}

/// Our numbers against the weighted definition in f64.
fn check_definition(what: &str, found: &Intensity, values: &[(f64, f64)]) {
    let mean = moment(values, 0.0, 1);
    let sd = moment(values, mean, 2).sqrt();
    let largest = found.min.abs().max(found.max.abs());
    // Sums of n terms with rounded weights: the error of random roundings grows as √n, the bound is 10 of those.
    let bound = 10.0 * f64::EPSILON * (values.len() as f64).sqrt() * largest;
    assert!((found.mean - mean).abs() <= bound, "{what}: mean {}, {mean}", found.mean);
    assert!((found.sd - sd).abs() <= bound, "{what}: sd {}, {sd}", found.sd);
    assert_eq!((found.min, found.max), (values[0].0, values[values.len() - 1].0), "{what}");
    // Weights of n voxels are rounded.
    let slack = f64::EPSILON * values.len() as f64;
    for (found, p) in
        [(found.percentile_00_5, 0.005), (found.median, 0.5), (found.percentile_99_5, 0.995)]
    {
        let (low, high) = (quantile(values, p - slack), quantile(values, p + slack));
        // The width of a bucket.
        let width = 2f64.powi(-13) * low.abs().max(high.abs());
        assert!(
            (low - width..=high + width).contains(&found),
            "{what} {p}: {found}, {low} to {high}"
        );
    }
}

/// Our numbers against nnU-Net's, which are those of `n` voxels drawn with replacement, equally many from each case, and
/// summed up in f32. Six standard deviations are allowed; that drawing from each case by itself varies less than drawing
/// from all is left out of account.
fn check_drawn(what: &str, ours: &Intensity, values: &[(f64, f64)], drawn: &Properties, n: f64) {
    const SIGMAS: f64 = 6.0;
    // numpy adds f32 in pairs: log2(n / 128) levels above blocks of 128, eight sums in turn. And two roundings per term.
    let additions = (n / 128.0).log2() + 16.0 + 3.0 + 2.0;
    let rounding = additions * 2f64.powi(-24);
    let magnitude: f64 = values.iter().map(|(v, weight)| v.abs() * weight).sum();
    let mean = SIGMAS * ours.sd / n.sqrt() + rounding * magnitude;
    assert!((ours.mean - drawn.mean).abs() <= mean, "{what}: mean {}, {}", ours.mean, drawn.mean);
    let spread = (moment(values, ours.mean, 4) - ours.sd.powi(4)).max(0.0).sqrt();
    let sd = SIGMAS * spread / n.sqrt() / (2.0 * ours.sd) + rounding * (ours.sd + magnitude);
    assert!((ours.sd - drawn.std).abs() <= sd, "{what}: sd {}, {}", ours.sd, drawn.std);
    for (ours, drawn, p) in [
        (ours.percentile_00_5, drawn.percentile_00_5, 0.005),
        (ours.median, drawn.median, 0.5),
        (ours.percentile_99_5, drawn.percentile_99_5, 0.995),
    ] {
        // The share of draws below a value varies by √(p (1 − p) / n); of few voxels one more or less may decide.
        let away = SIGMAS * (p * (1.0 - p) / n).sqrt();
        let (low, high) = (quantile(values, p - away), quantile(values, p + away));
        // The width of our bucket; f32 of nnU-Net's number.
        let width = 2f64.powi(-13) * low.abs().max(high.abs());
        for x in [ours, drawn] {
            assert!((low - width..=high + width).contains(&x), "{what} {p}: {x}, {low} to {high}");
        }
    }
    // None of n draws falls below a value once in 10⁹ times, if 20.7 / n of the weight lies there.
    let unseen = 20.7 / n;
    assert!((ours.min..=quantile(values, unseen)).contains(&drawn.min), "{what}: {}", drawn.min);
    assert!(
        (quantile(values, 1.0 - unseen)..=ours.max).contains(&drawn.max),
        "{what}: {}",
        drawn.max
    );
}
