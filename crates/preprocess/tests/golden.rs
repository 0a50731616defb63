//! Resampling, normalisation and whole cases against scikit-image, scipy and nnU-Net's rules (golden/make_golden.py), label
//! maps against nnU-Net itself (golden/make_label_votes.py).
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use artifact::nifti::{self, Geometry, Volume};
use artifact::npy;
use artifact::plan::{Channel, Intensity, Normalisation, Plan};
use artifact::recipe::{LabelVote, StepOrder};
use ndarray::{Array3, Array4, Axis, Ix1, Ix3, Ix4};
use preprocess::resample::LabelRules;
use preprocess::{preprocess, resample};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Cases {
    image: Vec<Resampling>,
    label: Vec<Resampling>,
}

#[derive(Deserialize)]
struct Resampling {
    name: String,
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    order: u8,
    coarse_order: u8,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn cases() -> Cases {
    toml::from_str(&std::fs::read_to_string(golden("cases.toml")).unwrap()).unwrap()
}

/// Prints the worst miss and their count.
fn assert_close<'a>(
    name: &str,
    found: impl Iterator<Item = (&'a f32, &'a f64)>,
    tolerance: impl Fn(f64) -> f64,
) {
    let miss = |&(&f, &e): &(&f32, &f64)| (f64::from(f) - e).abs() - tolerance(e);
    let misses: Vec<_> =
        found.enumerate().filter(|(_, pair)| miss(pair).is_nan() || miss(pair) > 0.0).collect();
    let worst = misses.iter().max_by(|a, b| miss(&a.1).total_cmp(&miss(&b.1)));
    if let Some((index, (found, expected))) = worst {
        panic!("{name}: {} misses, worst at {index}: {found}, expected {expected}", misses.len());
    }
}

#[test]
fn images_resample_as_scikit_image_to_rounding() {
    for case in cases().image {
        let x: Array3<f32> =
            npy::read::<f32, Ix3>(&golden(&format!("image_{}_in.npy", case.name))).unwrap();
        let expected: Array3<f64> =
            npy::read::<f64, Ix3>(&golden(&format!("image_{}_out.npy", case.name))).unwrap();
        let shape = resample::new_shape(x.dim().into(), case.spacing_mm, case.new_spacing_mm);
        let found = resample::resample(
            x.view(),
            case.spacing_mm,
            case.new_spacing_mm,
            shape,
            case.order,
            case.coarse_order,
            3.0,
        );
        assert_eq!(found.shape(), expected.shape(), "{}", case.name);
        // Half a unit of f32 for the result, and the f64 roundings of both sides: some 20 per axis (filter there and
        // back, four taps), amplified by the prefilter's largest gain, 3 per axis.
        let largest = x.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
        let rounding = 2.0 * 3.0 * 20.0 * 27.0 * f64::EPSILON / 2.0 * largest;
        let half_unit = f64::from(f32::EPSILON) / 2.0;
        assert_close(&case.name, found.iter().zip(&expected), |e| half_unit * e.abs() + rounding);
    }
}

fn rules(order: u8, coarse_order: u8, vote: LabelVote) -> LabelRules {
    LabelRules { order, coarse_order, vote, anisotropy_threshold: 3.0 }
}

#[test]
fn labels_by_half_resample_as_one_hot_scikit_image_exactly() {
    for case in cases().label {
        let x: Array3<i16> =
            npy::read::<i16, Ix3>(&golden(&format!("label_{}_in.npy", case.name))).unwrap();
        let expected: Array3<i16> =
            npy::read::<i16, Ix3>(&golden(&format!("label_{}_out.npy", case.name))).unwrap();
        let found = resample::resample_label(
            x.view(),
            case.spacing_mm,
            case.new_spacing_mm,
            expected.dim().into(),
            rules(case.order, case.coarse_order, LabelVote::Half),
        );
        let misses = found.iter().zip(&expected).filter(|(f, e)| f != e).count();
        assert_eq!(misses, 0, "{}: of {} voxels", case.name, expected.len());
    }
}

#[derive(Deserialize)]
struct Votes {
    label: Vec<Vote>,
}

#[derive(Deserialize)]
struct Vote {
    shape: [usize; 3],
    new_shape: [usize; 3],
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    order: u8,
    coarse_order: u8,
}

/// The next map of a file that holds one after the other.
fn next(rest: &mut Vec<i16>, shape: [usize; 3]) -> Array3<i16> {
    let after = rest.split_off(shape.iter().product());
    Array3::from_shape_vec(shape, std::mem::replace(rest, after)).unwrap()
}

#[test]
fn labels_resample_as_nnunets_exactly() {
    let text = std::fs::read_to_string(golden("labels/cases.toml")).unwrap();
    let cases: Votes = toml::from_str(&text).unwrap();
    let read = |name: &str| npy::read::<i16, Ix1>(&golden(name)).unwrap().to_vec();
    let (mut sources, mut results) = (read("labels/in.npy"), read("labels/out.npy"));
    // Where the vote by halves, as it was once, gives another label.
    let mut otherwise = 0;
    for case in &cases.label {
        let x = next(&mut sources, case.shape);
        let expected = next(&mut results, case.new_shape);
        let found = |vote| {
            let rules = rules(case.order, case.coarse_order, vote);
            let (from, to) = (case.spacing_mm, case.new_spacing_mm);
            resample::resample_label(x.view(), from, to, case.new_shape, rules)
        };
        let misses =
            |found: &Array3<i16>| found.iter().zip(&expected).filter(|(f, e)| f != e).count();
        let (from, to) = (case.spacing_mm, case.new_spacing_mm);
        assert_eq!(resample::new_shape(case.shape, from, to), case.new_shape);
        let by_weight = found(LabelVote::LargestWeight);
        assert_eq!(
            misses(&by_weight),
            0,
            "{:?} to {:?}, {from:?} to {to:?} mm",
            case.shape,
            case.new_shape
        );
        otherwise += misses(&found(LabelVote::Half));
    }
    assert!(sources.is_empty() && results.is_empty());
    assert!(otherwise > 5000, "the maps don't tell the votes apart: {otherwise} voxels");
}

#[derive(Deserialize)]
struct RealLabels {
    label: String,
    new_spacing_mm: [f64; 3],
    shape: [usize; 3],
    moment: i64,
    voxels: BTreeMap<i16, usize>,
}

fn shared_data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    #[expect(clippy::disallowed_methods, reason = "CI must not skip silently")]
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "{} is missing", folder.display());
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    {
        eprintln!("SKIPPED: {} is missing", folder.display());
    }
    None
}

#[test]
fn real_maps_of_many_labels_resample_as_nnunets() {
    let Some(shared) = shared_data() else { return };
    let text = std::fs::read_to_string(golden("real_labels.json")).unwrap();
    for map in serde_json::from_str::<Vec<RealLabels>>(&text).unwrap() {
        let volume = nifti::read(&shared.join(&map.label)).unwrap();
        let x = volume.channels.index_axis(Axis(0), 0).mapv(|v| v as i16);
        let (from, to) = (volume.geometry.spacing_mm, map.new_spacing_mm);
        let shape = resample::new_shape(x.dim().into(), from, to);
        assert_eq!(shape, map.shape, "{}", map.label);
        let rules = rules(1, 0, LabelVote::LargestWeight);
        let found = resample::resample_label(x.view(), from, to, shape, rules);
        let mut voxels = BTreeMap::new();
        found.iter().for_each(|label| *voxels.entry(*label).or_insert(0) += 1);
        assert_eq!(voxels, map.voxels, "{}", map.label);
        let places = (0..65521).cycle();
        let moment: i64 = found.iter().zip(places).map(|(l, place)| i64::from(*l) * place).sum();
        assert_eq!(moment, map.moment, "{}: labels lie elsewhere", map.label);
    }
}

const SCHEMES: [Normalisation; 6] = [
    Normalisation::Ct,
    Normalisation::ZScore,
    Normalisation::ZScoreMasked,
    Normalisation::RescaleTo01,
    Normalisation::RgbTo01,
    Normalisation::None,
];

fn plan(order: StepOrder) -> Plan {
    let mut plan = support::plan();
    let intensity: Intensity = plan.channels[0].intensity;
    plan.channels = SCHEMES
        .iter()
        .map(|&normalisation| Channel { name: "x".into(), normalisation, intensity })
        .collect();
    plan.geometry.transpose = [1, 0, 2];
    plan.recipe.preprocessing.order = order;
    if order == StepOrder::NormaliseThenResample {
        plan.recipe.preprocessing.label_order = 1;
        plan.recipe.preprocessing.label_vote = LabelVote::LargestWeight;
    }
    plan
}

#[test]
fn whole_cases_follow_both_orders_of_steps() {
    for (order, name) in
        [(StepOrder::ResampleThenNormalise, "paper"), (StepOrder::NormaliseThenResample, "v2")]
    {
        let channels: Array4<f32> = npy::read::<f32, Ix4>(&golden("case_image.npy")).unwrap();
        let label: Array3<i16> = npy::read::<i16, Ix3>(&golden("case_label.npy")).unwrap();
        let geometry = Geometry::plain(label.dim().into(), [1.0, 2.5, 1.0]);
        let volume = Volume { geometry, channels };
        let found = preprocess("a", volume, Some(label), &plan(order), "3d_fullres").unwrap();
        let expected: Array4<f64> =
            npy::read::<f64, Ix4>(&golden(&format!("case_{name}_image.npy"))).unwrap();
        let expected_label: Array3<i16> =
            npy::read::<i16, Ix3>(&golden(&format!("case_{name}_label.npy"))).unwrap();
        assert_eq!(found.label.as_ref().unwrap(), &expected_label, "{name}");
        assert_eq!(found.image.shape(), expected.shape());
        let channels = found.image.outer_iter().zip(expected.outer_iter());
        for (scheme, (found, expected)) in SCHEMES.iter().zip(channels) {
            // Values up to 255, divided by at least 31 (the smallest sd) where a scheme divides; f32 rounding of the
            // step between may fall either way, and the spline amplifies it by at most 27 if it comes last.
            let scale = if *scheme == Normalisation::None { 255.0 } else { 255.0 / 31.0 };
            let amplified = if name == "v2" { 27.0 } else { 1.0 };
            let unit = f64::from(f32::EPSILON) / 2.0;
            let label = format!("{name} {scheme:?}");
            assert_close(&label, found.iter().zip(&expected), |e| {
                unit * (e.abs() + 2.0 * amplified * scale)
            });
        }
    }
}
