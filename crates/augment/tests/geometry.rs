//! The coordinate map, the interpolation, the elastic field and gamma against SciPy and NumPy (`golden/`).
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use artifact::npy::{Element, read};
use augment::elastic::displacements;
use augment::intensity::gamma;
use augment::resample::{sample_image, sample_label};
use augment::spatial::{Warp, rotation};
use ndarray::{Array, Array3, Array4, ArrayView, Dimension, Ix3};
use std::path::Path;

fn golden<T: Element, D: Dimension>(name: &str) -> Array<T, D> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    read(&folder.join(format!("{name}.npy"))).unwrap()
}

/// One warp of `make_golden.py`: name, centre, degrees, scale, planes.
type Case = (&'static str, [f64; 3], [f64; 3], f64, bool);

const CASES: [Case; 6] = [
    ("volume", [8.5, 7.25, 6.5], [11.0, -14.0, 7.0], 0.87, false),
    ("border", [2.0, 10.0, 5.5], [-15.0, 15.0, 15.0], 1.25, false),
    ("elastic", [8.0, 8.5, 7.0], [5.0, 9.0, -12.0], 1.1, false),
    ("inner", [35.25, 5.5, 5.0], [-6.0, 3.0, 10.0], 0.95, false),
    ("planes", [1.5, 10.5, 8.5], [133.0, 0.0, 0.0], 1.2, true),
    ("flat", [0.0, 4.0, 0.5], [-60.0, 0.0, 0.0], 0.9, true),
];

/// The warp as the library composes it; the displacement is SciPy's, rounded to f32.
fn warp((name, centre, degrees, scale, planes): Case) -> Warp {
    let expected: Array4<f64> = golden(&format!("{name}_coordinates"));
    let (_, z, y, x) = expected.dim();
    let mut matrix = rotation(degrees.map(f64::to_radians)).map(|row| row.map(|v| v * scale));
    if planes {
        matrix[0] = [1.0, 0.0, 0.0];
    }
    let displaced = matches!(name, "elastic" | "planes");
    let displacement = displaced
        .then(|| golden::<f64, _>(&format!("{name}_displacement")).mapv(|d: f64| d as f32));
    Warp { patch: [z, y, x], centre, matrix, displacement, planes }
}

fn assert_close<D: Dimension>(
    what: &str,
    found: ArrayView<'_, f64, D>,
    expected: ArrayView<'_, f64, D>,
    tolerance: f64,
) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let far = |a: &f64, b: &f64| (a - b).abs() > tolerance || a.is_nan();
    let misses = found.iter().zip(&expected).filter(|(a, b)| far(a, b)).count();
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert_eq!(
        misses,
        0,
        "{what}: {misses} of {} differ by more than {tolerance:e}, worst {worst:e}",
        found.len()
    );
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f64 {
    values.into_iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

#[test]
fn the_composed_map_is_batchgenerators_one() {
    for case in CASES {
        let expected: Array4<f64> = golden(&format!("{}_coordinates", case.0));
        // Displacements are f32: half an ulp of at most 8 voxels, on three axes, scaled by at most 1.25.
        let tolerance = 1.25 * 3.0 * 8.0 * f64::from(f32::EPSILON) / 2.0;
        assert_close(case.0, warp(case).coordinates().view(), expected.view(), tolerance);
    }
}

#[test]
fn images_are_resampled_as_map_coordinates_does() {
    for case in CASES {
        let warp = warp(case);
        let image: Array3<f32> = golden(&format!("{}_case", case.0));
        for order in [0, 1, 3] {
            let expected: Array3<f64> = golden(&format!("{}_order{order}", case.0));
            let mut found = Array3::zeros(expected.dim());
            sample_image(image.view(), &warp, order, found.view_mut());
            // Cubic coefficients are at most 3 times the samples per axis (the filter's gain at the highest
            // frequency); 8 roundings in sequence per axis; the map's own rounding moves a value by less.
            let gain: f64 = if order == 3 { 27.0 } else { 1.0 };
            let tolerance = gain * 8.0 * f64::from(f32::EPSILON) * largest(&image);
            let what = format!("{} order {order}", case.0);
            assert_close(&what, found.mapv(f64::from).view(), expected.view(), tolerance);
            assert!(found.iter().any(|&v| v != 0.0), "{what} is empty");
        }
    }
}

#[test]
fn labels_take_the_class_of_the_largest_weight() {
    for case in CASES {
        let label: Array3<i16> = golden(&format!("{}_label", case.0));
        let expected: Array3<i16> = golden(&format!("{}_classes", case.0));
        let mut found = Array3::zeros(expected.dim());
        sample_label(label.view(), &warp(case), 1, found.view_mut());
        assert_eq!(found, expected, "{}", case.0);
    }
}

#[test]
fn nearest_labels_are_the_nearest_voxels_classes() {
    for case in CASES {
        let warp = warp(case);
        let label: Array3<i16> = golden(&format!("{}_label", case.0));
        let mut found = Array3::zeros(warp.patch);
        sample_label(label.view(), &warp, 0, found.view_mut());
        let (nz, ny, nx) = label.dim();
        for ((z, y, x), &class) in found.indexed_iter() {
            let p = warp.at(z, y, x);
            let [i, j, k] = p.map(|v| (v + 0.5).floor() as i64);
            // Half a voxel belongs to the outermost voxels on their outer side as well.
            let inside = [i, j, k].iter().zip([nz, ny, nx]).all(|(&v, n)| v >= 0 && v < n as i64);
            let expected = if inside { label[[i as usize, j as usize, k as usize]] } else { -1 };
            assert_eq!(class, expected, "{}", case.0);
        }
    }
}

#[test]
fn the_elastic_field_is_gaussian_filtered_noise() {
    for (name, axes, alpha, sigma) in
        [("elastic", &[0, 1, 2][..], 160.0, 2.25), ("planes", &[1, 2][..], 90.0, 3.0)]
    {
        let noise: Array4<f32> = golden(&format!("{name}_noise"));
        let expected: Array4<f64> = golden(&format!("{name}_displacement"));
        let found = displacements(noise, axes, alpha, sigma);
        // A sum of up to 25 terms of at most 1 whose weights add up to 1, per axis.
        let terms = axes.len() as f64 * 25.0;
        let tolerance = f64::from(alpha) * terms * f64::from(f32::EPSILON) / 2.0;
        assert_close(name, found.mapv(f64::from).view(), expected.view(), tolerance);
    }
}

#[test]
fn gamma_is_the_formula_and_keeps_statistics_when_asked() {
    let channel: Array3<f32> = golden("gamma_channel");
    for exponent in [0.7, 1.5] {
        for (suffix, retain) in [("plain", false), ("kept", true)] {
            let expected: Array<f64, Ix3> = golden(&format!("gamma_{exponent}_{suffix}"));
            let mut found = channel.clone();
            gamma(found.view_mut(), exponent, retain);
            // Subtraction, division, power (its exponent at most 1.5, 2 ulp), product, sum; then three more.
            let tolerance = 16.0 * f64::from(f32::EPSILON) * largest(&channel);
            let what = format!("gamma {exponent} {suffix}");
            assert_close(&what, found.mapv(f64::from).view(), expected.view(), tolerance);
        }
    }
}

#[test]
fn gamma_leaves_a_channel_of_one_value_alone() {
    let mut channel = Array3::from_elem((2, 3, 4), -1.5f32);
    gamma(channel.view_mut(), 0.7, true);
    assert!(channel.iter().all(|&v| v == -1.5));
}
