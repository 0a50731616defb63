//! The arithmetic of batchgeneratorsv2's transforms with the random draw given (`golden/v2/`).
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use artifact::npy::{Element, read};
use artifact::previous::one_hot;
use augment::blur::{blur, kernel};
use augment::intensity::{brightness, contrast, gamma};
use augment::low_resolution::low_resolution;
use augment::previous::{Morphology, Operation, Removal, change, remove};
use augment::resample::{sample_image, sample_label};
use augment::spatial::{Warp, rotation};
use ndarray::{Array, Array3, Array4, ArrayView3, Axis, Dimension, s};
use std::path::Path;

fn golden<T: Element, D: Dimension>(name: &str) -> Array<T, D> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2");
    read(&folder.join(format!("{name}.npy"))).unwrap()
}

/// Every value within `roundings` half units in the last place of the largest value in play.
fn assert_close(
    what: &str,
    found: ArrayView3<'_, f32>,
    expected: ArrayView3<'_, f32>,
    roundings: f32,
) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let largest = found.iter().chain(&expected).fold(0.0f32, |m, v| m.max(v.abs()));
    let tolerance = roundings * f32::EPSILON / 2.0 * largest;
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: differs by {worst:e}, tolerance {tolerance:e}");
    assert!(found.iter().all(|v| v.is_finite()), "{what}");
}

/// The golden channel after `transform`.
fn transformed(transform: impl FnOnce(&mut Array3<f32>)) -> Array3<f32> {
    let mut channel: Array3<f32> = golden("channel");
    let before = channel.clone();
    transform(&mut channel);
    assert!(channel != before, "the transform did nothing");
    channel
}

#[test]
fn blurs() {
    for (i, widths) in [[0.5, 0.75, 1.0], [0.93, 0.51, 0.64]].into_iter().enumerate() {
        let found = transformed(|c| blur(c.view_mut(), widths));
        // 7 weighted terms per axis on either side, rounded weights too.
        assert_close("blur", found.view(), golden(&format!("blur_{i}")).view(), 3.0 * 4.0 * 7.0);
    }
    let lengths = [0.5, 0.58, 0.75, 0.76, 1.0].map(|sigma| kernel(sigma).len());
    assert_eq!(lengths, [3, 3, 5, 5, 7]);
}

#[test]
fn brightness_and_contrast() {
    for factor in [0.77, 1.21] {
        let found = transformed(|c| brightness(c.view_mut(), factor));
        // The factor and the product are rounded, here and there.
        assert_close(
            "brightness",
            found.view(),
            golden(&format!("brightness_{factor}")).view(),
            4.0,
        );
        let found = transformed(|c| contrast(c.view_mut(), factor));
        // Difference, product, sum, here and there; the mean of 1188 values summed in f32 there (by pairs: 11 steps).
        assert_close("contrast", found.view(), golden(&format!("contrast_{factor}")).view(), 32.0);
    }
}

#[test]
fn low_resolutions() {
    for (zoom, except) in [(0.5, None), (0.63, None), (0.71, Some(0)), (0.9, None)] {
        let found = transformed(|c| low_resolution(c.view_mut(), zoom, except));
        // Three linear steps of 3 roundings on either side; positions of up to 12 are rounded to 12 · 2⁻²⁴ and
        // change a value by that part of a difference, which is at most twice the largest value.
        let roundings = 2.0 * 9.0 + 3.0 * 2.0 * 24.0;
        let expected = golden(&format!("low_resolution_{zoom}"));
        assert_close("low resolution", found.view(), expected.view(), roundings);
    }
    let mut channel: Array3<f32> = golden("channel");
    let before = channel.clone();
    low_resolution(channel.view_mut(), 1.0, None);
    assert!(channel == before, "all voxels are left");
    let mut slice = before.slice(s![..1, .., ..]).to_owned();
    low_resolution(slice.view_mut(), 0.5, None);
    assert_eq!(slice.dim(), (1, 12, 11), "a single slice stays one");
}

#[test]
fn gammas() {
    for (exponent, inverted) in [(0.7, false), (1.5, false), (0.83, true), (1.31, true)] {
        let found = transformed(|c| {
            let sign = if inverted { -1.0 } else { 1.0 };
            c.mapv_inplace(|x| sign * x);
            gamma(c.view_mut(), exponent, true);
            c.mapv_inplace(|x| sign * x);
        });
        // As in the test against the formula, on both sides; statistics summed in f32 there.
        let expected = golden(&format!("gamma_{exponent}"));
        assert_close("gamma", found.view(), expected.view(), 2.0 * 32.0);
    }
}

#[test]
fn rotation_and_scaling() {
    for (name, degrees, scale, planes) in [
        ("volume", [23.0, -11.0, 29.0], 0.81, false),
        ("border", [-30.0, 17.0, 8.0], 1.37, false),
        ("slices", [141.0, 0.0, 0.0], 1.12, true),
    ] {
        let image: Array3<f32> = golden(&format!("{name}_case"));
        let label: Array3<i16> = golden(&format!("{name}_label"));
        let expected: Array3<f32> = golden(&format!("{name}_image"));
        let classes: Array3<i16> = golden(&format!("{name}_classes"));
        let (z, y, x) = expected.dim();
        let (cz, cy, cx) = image.dim();
        // Its matrices turn the other way round: the same as negative angles. The range of angles is symmetric.
        let angles = degrees.map(|d: f64| -d.to_radians());
        let mut matrix = rotation(angles).map(|row| row.map(|v| v * scale));
        if planes {
            matrix[0] = [1.0, 0.0, 0.0];
        }
        let centre = [cz, cy, cx].map(|n| 0.5 * (n as f64 - 1.0));
        let warp = Warp { patch: [z, y, x], centre, matrix, displacement: None, planes };
        let mut found = Array3::zeros(expected.dim());
        sample_image(image.view(), &warp, 1, found.view_mut());
        // Its grid is f32 in units of half the image: coordinates of up to 20 are off by a few units in their last
        // place, and values by that times a difference of at most twice the largest value, on three axes.
        assert_close(name, found.view(), expected.view(), 3.0 * 2.0 * 4.0 * 20.0);
        let mut found = Array3::zeros(classes.dim());
        sample_label(label.view(), &warp, 1, found.view_mut());
        // Its weights are half-precision numbers in steps of 1/2000, and near ties go to the nearest voxel there.
        let differ = found.iter().zip(&classes).filter(|(a, b)| a != b).count();
        assert!(differ * 500 <= classes.len(), "{name}: {differ} of {} differ", classes.len());
        assert!(classes.iter().any(|&c| c == -1) && classes.iter().any(|&c| c == 2), "{name}");
    }
}

#[test]
fn morphological_changes() {
    let label: Array3<i16> = golden("morphology_label");
    let expected: Array4<i16> = golden("morphology_classes");
    let mut results = expected.outer_iter();
    for operation in [Operation::Dilate, Operation::Erode, Operation::Open, Operation::Close] {
        for radius in [1, 2, 5, 8] {
            let mut found = label.clone();
            change(&mut found.view_mut(), Morphology { class: 1, operation, radius });
            assert_eq!(found, results.next().unwrap(), "{operation:?}, radius {radius}");
        }
    }
    assert!(results.next().is_none());
}

#[test]
fn removed_components() {
    let label: Array3<i16> = golden("removal_label");
    let expected: Array4<i16> = golden("removal_classes");
    let n = expected.len_of(Axis(0));
    for (k, expected) in expected.outer_iter().enumerate() {
        for part in [0.01, 0.99] {
            let mut found = label.clone();
            let which = (k as f64 + part) / n as f64;
            remove(&mut found.view_mut(), Removal { class: 1, which }, 0.02);
            assert_eq!(found, expected, "component {k} of {n}");
            assert_ne!(found, label);
        }
    }
    // 8 of 1000 voxels: not smaller than 0.8 %.
    let mut cube = Array3::zeros((10, 10, 10));
    cube.slice_mut(s![4..6, 4..6, 4..6]).fill(1i16);
    for (fraction, left) in [(0.008, 8), (0.0081, 0)] {
        let mut found = cube.clone();
        remove(&mut found.view_mut(), Removal { class: 1, which: 0.3 }, fraction);
        assert_eq!(found.iter().filter(|&&c| c == 1).count(), left);
    }
    let mut none = label.clone();
    remove(&mut none.view_mut(), Removal { class: 1, which: 0.5 }, 0.0);
    assert_eq!(none, label, "no component is smaller than nothing");
}

#[test]
fn one_channel_per_foreground_class() {
    let mut label: Array3<i16> = golden("removal_label");
    label[[0, 0, 0]] = -1;
    let (z, y, x) = label.dim();
    let mut channels = Array4::from_elem((2, z, y, x), 7.0f32);
    one_hot(label.view(), &mut channels.view_mut());
    for ((c, z, y, x), &value) in channels.indexed_iter() {
        let here = usize::try_from(label[[z, y, x]]) == Ok(c + 1);
        assert_eq!(value, f32::from(u8::from(here)));
    }
}
