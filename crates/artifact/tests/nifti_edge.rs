//! The 68 NIfTI files collected from nibabel, nifti-rs and niivue: read as nibabel and ITK read them, or refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::nifti::{self, Volume};
use serde_json::Value;
use std::path::PathBuf;

/// The shared data, if this machine has it.
fn edge_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/nifti_edge");
    if folder.is_dir() {
        return Some(folder);
    }
    #[expect(clippy::disallowed_methods, reason = "CI must not skip silently")]
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "{} is missing", folder.display());
    eprintln!("SKIPPED: {} is missing", folder.display());
    None
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// What no 3D segmentation can use, by the words of the refusal.
fn expected_refusal(name: &str) -> Option<&'static str> {
    Some(match name {
        "nibabel/row_major.dconn.nii" => "at most one axis longer than 1",
        "nifti-rs/complex/complex32.nii" => "complex of two f32",
        "nifti-rs/complex/complex64.nii" => "complex of two f64",
        "nifti-rs/rgb/3D.nii" | "nifti-rs/rgb/4D.nii" | "niivue/ct_perfusion.nii.gz" => "(RGB)",
        "nifti-rs/rgba/4D.nii" => "(RGBA)",
        "nifti-rs/fuzz/crash-1.nii" => "sizeof_hdr = ",
        n if n.starts_with("nifti-rs/fuzz/crash-ed7") => "sizeof_hdr = ",
        _ => return None,
    })
}

/// f32 holds 24 bits; a mean of f32 values is exact to that too.
fn near(found: f64, expected: f64, scale: f64) -> bool {
    (found - expected).abs() <= 2f64.powi(-23) * scale.max(expected.abs())
}

fn compare_values(volume: &Volume, expected: &Value) -> Result<(), String> {
    let (mut low, mut high, mut sum, mut count) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0u64);
    for &v in volume.channels.iter().filter(|v| v.is_finite()) {
        let v = f64::from(v);
        (low, high, sum, count) = (low.min(v), high.max(v), sum + v, count + 1);
    }
    let mean = sum / count as f64;
    let finite = count == volume.channels.len() as u64;
    let scale = low.abs().max(high.abs());
    for (key, found) in [("min", low), ("max", high), ("mean", mean)] {
        let expected = expected[key].as_f64().ok_or(format!("no {key}"))?;
        if !near(found, expected, scale) {
            return Err(format!("{key} = {found}, expected {expected}"));
        }
    }
    if finite != expected["finite"].as_bool().unwrap() {
        return Err(format!("finite = {finite}"));
    }
    Ok(())
}

fn compare_shape(volume: &Volume, shape: &[f64]) -> Result<(), String> {
    let at = |axis: usize| shape.get(axis).map_or(1, |n| *n as usize);
    let channels = shape.iter().skip(3).product::<f64>() as usize;
    let expected = (channels, at(2), at(1), at(0));
    let [z, y, x] = volume.geometry.shape;
    if volume.channels.dim() != expected || (z, y, x) != (expected.1, expected.2, expected.3) {
        return Err(format!("shape {:?}, expected {expected:?}", volume.channels.dim()));
    }
    Ok(())
}

/// ITK's numbers in the file are rounded to six decimals; it computes in f32, whose error grows with the distance.
fn compare_placement(volume: &Volume, itk: &Value) -> Result<(), String> {
    let size = numbers(&itk["size"]).len();
    let axes = size.min(3);
    let spacing = numbers(&itk["spacing"]);
    let origin = numbers(&itk["origin"]);
    let direction = numbers(&itk["direction"]);
    let g = &volume.geometry;
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 + 4.0 * f64::from(f32::EPSILON) * b.abs();
    for i in 0..axes {
        if !close(g.spacing_mm[2 - i], spacing[i]) || !close(g.origin_mm[i], origin[i]) {
            return Err(format!(
                "{:?} {:?}, expected {spacing:?} {origin:?}",
                g.spacing_mm, g.origin_mm
            ));
        }
        for j in 0..axes {
            if !close(g.direction[i][j], direction[i * size + j]) {
                return Err(format!("direction {:?}, expected {direction:?}", g.direction));
            }
        }
    }
    Ok(())
}

/// Reading as nibabel and ITK do; where they differ, ITK's word counts for the place, nibabel's for the values.
fn compare(path: &std::path::Path, expected: &Value) -> Result<(), String> {
    let volume = nifti::read(path).map_err(|e| e.to_string())?;
    let (geometry, channels) = nifti::read_header(path).map_err(|e| e.to_string())?;
    if (geometry, channels) != (volume.geometry.clone(), volume.channels.dim().0) {
        return Err("read_header and read disagree".into());
    }
    let (nibabel, itk) = (&expected["nibabel"], &expected["itk"]);
    if nibabel.is_object() {
        compare_shape(&volume, &numbers(&nibabel["shape"]))?;
        compare_values(&volume, nibabel)?;
    }
    if itk.is_object() {
        compare_shape(&volume, &numbers(&itk["size"]))?;
        compare_placement(&volume, itk)?;
    }
    Ok(())
}

#[test]
fn every_collected_file_is_read_as_expected_or_refused_in_one_line() {
    let Some(folder) = edge_folder() else { return };
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in &expected {
        let path = folder.join(name);
        if let Some(words) = expected_refusal(name) {
            match nifti::read(&path) {
                Ok(_) => wrong.push(format!("{name}: read, expected a refusal")),
                Err(e) if !e.message.contains(words) || e.message.contains('\n') => {
                    wrong.push(format!("{e}"));
                }
                Err(_) => {}
            }
        } else if let Err(difference) = compare(&path, expected) {
            wrong.push(format!("{name}: {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
    assert_eq!(expected.len(), 68);
}
