//! Resampling, normalisation and whole cases against scikit-image, scipy and nnU-Net's rules (golden/make_golden.py).
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use artifact::nifti::{Geometry, Volume};
use artifact::npy;
use artifact::plan::{Channel, Intensity, Normalisation, Plan};
use artifact::recipe::StepOrder;
use ndarray::{Array3, Array4, Ix3, Ix4};
use preprocess::{preprocess, resample};
use serde::Deserialize;
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

#[test]
fn labels_resample_as_one_hot_scikit_image_exactly() {
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
            case.order,
            case.coarse_order,
            3.0,
        );
        let misses = found.iter().zip(&expected).filter(|(f, e)| f != e).count();
        assert_eq!(misses, 0, "{}: of {} voxels", case.name, expected.len());
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
