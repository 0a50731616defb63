//! Reading against nibabel (values) and ITK (place) on tiny files of every type; writing and reading back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::nifti::{self, ByteVolume, Geometry, Volume};
use ndarray::{Array3, Array4, Axis};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nifti").join(name)
}

fn expectations() -> Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(golden("expected.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn compare_values(volume: &Volume, expected: &Value) -> Result<(), String> {
    let shape: Vec<usize> = numbers(&expected["shape"]).iter().map(|n| *n as usize).collect();
    let at = |axis: usize| shape.get(axis).copied().unwrap_or(1);
    let channels = shape.iter().skip(3).product();
    if volume.channels.dim() != (channels, at(2), at(1), at(0)) {
        return Err(format!("shape {:?}, expected {shape:?}", volume.channels.dim()));
    }
    // nibabel's flat list has x fastest, as ours. Both round once to f32.
    for (i, (&found, expected)) in
        volume.channels.iter().zip(numbers(&expected["values"])).enumerate()
    {
        if found != expected as f32 {
            return Err(format!("value {i} is {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn compare_place(geometry: &Geometry, expected: &Value) -> Result<(), String> {
    let Some(spacing) = expected.get("spacing").map(numbers) else { return Ok(()) };
    let (origin, direction) = (numbers(&expected["origin"]), numbers(&expected["direction"]));
    let axes = spacing.len().min(3);
    // ITK keeps its matrices in f32 and forms each entry from a handful of roundings.
    let close = |a: f64, b: f64| (a - b).abs() <= 4.0 * f64::from(f32::EPSILON) * b.abs().max(1.0);
    for i in 0..axes {
        if !close(geometry.spacing_mm[2 - i], spacing[i])
            || !close(geometry.origin_mm[i], origin[i])
        {
            return Err(format!("{:?} {:?}", geometry.spacing_mm, geometry.origin_mm));
        }
        for j in 0..axes {
            if !close(geometry.direction[i][j], direction[i * spacing.len() + j]) {
                return Err(format!("direction {:?}, expected {direction:?}", geometry.direction));
            }
        }
    }
    Ok(())
}

#[test]
fn every_kind_of_file_is_read_as_nibabel_and_itk_read_it() {
    let expected = expectations();
    let mut wrong = Vec::new();
    for (name, expected) in &expected {
        let check = || -> Result<(), String> {
            let volume = nifti::read(&golden(name)).map_err(|e| e.to_string())?;
            let (geometry, channels) =
                nifti::read_header(&golden(name)).map_err(|e| e.to_string())?;
            assert_eq!((&geometry, channels), (&volume.geometry, volume.channels.len_of(Axis(0))));
            compare_values(&volume, expected)?;
            compare_place(&volume.geometry, expected)
        };
        wrong.extend(check().err().map(|e| format!("{name}: {e}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
    assert!(expected.len() > 45);
}

#[test]
fn volumes_of_bytes_are_read_as_all_volumes_are() {
    let mut bytes = Vec::new();
    for name in expectations().keys() {
        let path = golden(name);
        let Some(found) = ByteVolume::read(&path).unwrap() else { continue };
        let expected = nifti::read(&path).unwrap();
        assert_eq!(found.geometry, expected.geometry, "{name}");
        let voxels = found.voxels().mapv(f32::from).insert_axis(Axis(0));
        assert_eq!(voxels, expected.channels, "{name}");
        bytes.push(name.clone());
    }
    assert!(bytes.iter().any(|name| name == "type_u1.nii"), "{bytes:?}");
    assert!(bytes.len() < expectations().len(), "not all files hold bytes");
}

#[test]
fn a_slice_is_a_volume_of_depth_one_far_from_the_next() {
    let volume = nifti::read(&golden("dims_2d.nii")).unwrap();
    assert_eq!(volume.geometry.shape, [1, 4, 3]);
    assert_eq!(volume.geometry.spacing_mm, [999.0 * 3.0, 3.0, 2.0]);
}

/// A label map with every value up to `most`, of the geometry's shape.
fn labels(geometry: &Geometry, most: i32) -> Array3<i32> {
    Array3::from_shape_fn(geometry.shape, |(z, y, x)| {
        (i64::from(most) * (z + y + x) as i64 % (i64::from(most) + 1)) as i32
    })
}

/// Bytes of a NIfTI-1 header that say where the image lies and what people wrote into it.
const KEPT_1: [std::ops::Range<usize>; 6] = [0..40, 56..68, 74..108, 120..124, 148..344, 348..348];
const KEPT_2: [std::ops::Range<usize>; 4] = [0..4, 80..168, 240..504, 508..540];

#[test]
fn predictions_carry_the_source_header_byte_for_byte_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for name in expectations().keys() {
        let geometry = nifti::read(&golden(name)).unwrap().geometry;
        for (most, gzip) in [(255, true), (256, false), (65536, true)] {
            let labels = labels(&geometry, most);
            let bytes = nifti::encode_labels(labels.view(), &geometry, gzip).unwrap();
            assert_eq!(
                bytes,
                nifti::encode_labels(labels.view(), &geometry, gzip).unwrap(),
                "same input, same bytes"
            );
            let path = folder.path().join(if gzip { "case.1.nii.gz" } else { "case.1.nii" });
            write(&path, &bytes);
            let back = nifti::read(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(back.channels.index_axis(Axis(0), 0), labels.mapv(|v| v as f32), "{name}");
            let (old, new) = (&geometry.header, &back.geometry.header);
            let kept: &[_] = if old.len() == 348 { &KEPT_1 } else { &KEPT_2 };
            for range in kept {
                assert_eq!(old[range.clone()], new[range.clone()], "{name}: bytes {range:?}");
            }
            assert_eq!(Geometry { header: old.clone(), ..back.geometry }, geometry, "{name}");
        }
    }
}

#[test]
fn label_maps_take_the_smallest_type_that_holds_them() {
    let geometry = Geometry::plain([2, 2, 2], [3.0, 2.0, 1.0]);
    for (most, low, size) in [(255, 0, 1), (256, 0, 2), (65535, 0, 2), (65536, 0, 4), (1, -1, 4)] {
        let mut labels = Array3::from_elem((2, 2, 2), most);
        labels[[0, 0, 0]] = low;
        let bytes = nifti::encode_labels(labels.view(), &geometry, false).unwrap();
        assert_eq!(bytes.len(), 352 + 8 * size, "most {most}, least {low}");
    }
}

#[test]
fn images_keep_channels_values_and_spacing() {
    let folder = tempfile::tempdir().unwrap();
    let geometry = Geometry::plain([2, 3, 4], [2.5, 0.75, 0.5]);
    for channels in [1, 3] {
        let image = Array4::from_shape_fn((channels, 2, 3, 4), |(c, z, y, x)| {
            (c * 1000 + z * 100 + y * 10 + x) as f32 - 0.5
        });
        let path = folder.path().join("image.nii.gz");
        write(&path, &nifti::encode_image(image.view(), &geometry, true).unwrap());
        let back = nifti::read(&path).unwrap();
        assert_eq!(back.channels, image);
        back.geometry.agrees(&geometry).unwrap();
        assert_eq!(
            (back.geometry.origin_mm, back.geometry.direction),
            (geometry.origin_mm, geometry.direction)
        );
    }
    let wrong = Array3::<i32>::zeros((2, 3, 5));
    let error = nifti::encode_labels(wrong.view(), &geometry, true).unwrap_err();
    assert_eq!(error.message, "array has shape [2, 3, 5], expected the geometry's [2, 3, 4]");
}

#[test]
fn geometries_agree_up_to_what_rounding_does() {
    let a = nifti::read(&golden("place_q.nii")).unwrap().geometry;
    let s = nifti::read(&golden("place_s.nii")).unwrap().geometry;
    a.agrees(&s).unwrap();
    let mut b = a.clone();
    b.shape[2] += 1;
    assert_eq!(a.agrees(&b).unwrap_err(), "shape [2, 4, 3], expected [2, 4, 4] (z, y, x)");
    let mut b = a.clone();
    b.spacing_mm[0] = 4.001;
    assert!(
        a.agrees(&b)
            .unwrap_err()
            .starts_with("spacing [4.0, 3.0, 2.0] mm, expected [4.001, 3.0, 2.0]")
    );
    b.spacing_mm[0] = 4.0001;
    a.agrees(&b).unwrap();
    let mut b = a.clone();
    b.origin_mm[1] += 0.25;
    assert!(a.same_grid(&b).is_ok());
    assert!(a.agrees(&b).unwrap_err().starts_with("corners lie up to 0.250 mm apart"));
    b.origin_mm[1] -= 0.1;
    a.agrees(&b).unwrap();
}

#[test]
fn geometry_survives_a_record() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Body {
        geometry: Geometry,
    }
    let geometry = nifti::read(&golden("place_q.nii")).unwrap().geometry;
    let text = toml::to_string(&Body { geometry: geometry.clone() }).unwrap();
    assert!(text.contains("header = \"5c010000"), "{text}");
    assert_eq!(toml::from_str::<Body>(&text).unwrap().geometry, geometry);
    let broken = text.replace("header = \"5c", "header = \"5x");
    assert!(toml::from_str::<Body>(&broken).is_err());
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}
