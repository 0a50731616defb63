//! Headers that are wrong in a field or two, against what SimpleITK makes of them (`golden/nifti/make_repairs.py`).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::nifti::{self, Volume};
use serde_json::Value;
use std::path::Path;

fn bytes(hex: &Value) -> Vec<u8> {
    let text = hex.as_str().unwrap();
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Where these programs don't do as SimpleITK does, and why.
fn departure(name: &str) -> Option<&'static str> {
    Some(match name {
        // SimpleITK takes them for the legacy format without placement, whose voxels are in another file.
        _ if name.starts_with("magic ") => "only the format's own magic is taken",
        "intent_code 1005" => "what voxels mean changes nothing",
        _ => return None,
    })
}

fn compare(found: &Volume, expected: &Value) -> Result<(), String> {
    let mut shape = vec![1.0; 3];
    let listed = numbers(&expected["shape"]);
    shape[3 - listed.len()..].copy_from_slice(&listed);
    let voxels = match &expected["voxels"] {
        Value::Null => (1..=60).map(f64::from).collect(),
        listed => numbers(listed),
    };
    let geometry = &found.geometry;
    if geometry.shape.map(|n| n as f64) != shape[..] {
        return Err(format!("shape {:?}, expected {shape:?}", geometry.shape));
    }
    // ITK scales in f32: a product and a sum, each rounded, of numbers up to 1024 times larger than their difference.
    let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1024.0 * f64::from(f32::EPSILON);
    if voxels.len() != found.channels.len()
        || !found.channels.iter().zip(&voxels).all(|(&a, &b)| near(a, b))
    {
        return Err(format!("voxels {:?}, expected {voxels:?}", found.channels));
    }
    let (spacing, origin) = (numbers(&expected["spacing"]), numbers(&expected["origin"]));
    let direction = numbers(&expected["direction"]);
    let axes = spacing.len();
    // ITK keeps its matrices in f32 and forms each entry from a handful of roundings.
    let close = |a: f64, b: f64| (a - b).abs() <= 4.0 * f64::from(f32::EPSILON) * b.abs().max(1.0);
    for i in 0..axes {
        let row = |j: usize| (geometry.direction[i][j], direction[i * axes + j]);
        if !close(geometry.spacing_mm[2 - i], spacing[i])
            || !close(geometry.origin_mm[i], origin[i])
            || !(0..axes).map(row).all(|(a, b)| close(a, b))
        {
            return Err(format!(
                "spacing {:?}, origin {:?}, direction {:?}, expected {spacing:?}, {origin:?}, {direction:?}",
                geometry.spacing_mm, geometry.origin_mm, geometry.direction
            ));
        }
    }
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn headers_are_repaired_as_itk_repairs_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nifti/repairs.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let sound = bytes(&golden["sound"]);
    let cases = golden["cases"].as_object().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (mut wrong, mut read, mut refused) = (Vec::new(), 0, 0);
    for (name, case) in cases.iter().filter(|(name, _)| departure(name).is_none()) {
        let mut content = sound.clone();
        for patch in case["patches"].as_array().unwrap() {
            let at = usize::try_from(patch[0].as_u64().unwrap()).unwrap();
            let patch = bytes(&patch[1]);
            content[at..at + patch.len()].copy_from_slice(&patch);
        }
        let path = folder.path().join("case.nii");
        std::fs::write(&path, &content).unwrap();
        let found = nifti::read(&path);
        if case["itk"] == "not finite" {
            // ITK places it nowhere: refused, or placed by the qform if that's sound.
            let placed = |v: &Volume| v.geometry.origin_mm.iter().all(|mm| mm.is_finite());
            if found.as_ref().is_ok_and(|volume| !placed(volume)) {
                wrong.push(format!("{name}: placed at no number"));
            }
            continue;
        }
        let verdict = match (&found, case["itk"].is_object()) {
            (Ok(volume), true) => {
                read += 1;
                compare(volume, &case["itk"])
            }
            (Err(e), true) => Err(format!("refused: {e}")),
            (Ok(_), false) => Err("read, expected to be refused".into()),
            (Err(_), false) => {
                refused += 1;
                Ok(())
            }
        };
        wrong.extend(verdict.err().map(|e| format!("{name}: {e}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(read > 300 && refused > 15, "{read} read, {refused} refused");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn pairs_and_the_second_version_are_repaired_alike() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let mut header = vec![0; 540];
    header[..4].copy_from_slice(&540i32.to_le_bytes());
    header[4..12].copy_from_slice(b"n+2\0\r\n\x1a\n");
    header[12..14].copy_from_slice(&2i16.to_le_bytes());
    header[14..16].copy_from_slice(&8i16.to_le_bytes());
    for (axis, n) in [4i64, 3, 4, 5, 0, -1, 0, 0].into_iter().enumerate() {
        header[16 + 8 * axis..24 + 8 * axis].copy_from_slice(&n.to_le_bytes());
    }
    for (at, value) in [(176, f64::NAN), (184, f64::INFINITY), (112, 2.0), (120, 3.0), (128, 4.0)] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let voxels: Vec<u8> = (1..=60).collect();
    let expected: Vec<f32> = (1u8..=60).map(f32::from).collect();
    let check = |name: &str| {
        let volume = nifti::read(&folder.path().join(name)).unwrap();
        assert_eq!(volume.channels.dim(), (1, 5, 4, 3), "{name}");
        assert_eq!(volume.channels.iter().copied().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(volume.geometry.spacing_mm, [4.0, 3.0, 2.0], "{name}");
    };
    file("two.nii", &[&header[..], &voxels].concat());
    check("two.nii");
    header[4..8].copy_from_slice(b"ni2\0");
    file("pair.hdr", &header);
    file("pair.img", &voxels);
    check("pair.hdr");
}
