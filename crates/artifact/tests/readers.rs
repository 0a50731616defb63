//! nnU-Net's four readers: shapes, spacings, every voxel's value and place as its own classes give them, for all orientations.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::image::{Geometry, Reader, Turn, meet};
use artifact::nifti::{ByteVolume, Volume};
use serde_json::Value;
use std::path::{Path, PathBuf};

const READERS: [(&str, Reader); 4] = [
    ("simple_itk", Reader::SimpleItk),
    ("simple_itk_ras", Reader::SimpleItkRas),
    ("nibabel", Reader::Nibabel),
    ("nibabel_ras", Reader::NibabelRas),
];

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/readers/expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The file that `make_golden.py` showed to nnU-Net: voxels are numbered in its order.
fn file(folder: &Path, case: &Value) -> PathBuf {
    let text = case["header"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    let mut bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.extend([0; 4]);
    bytes.extend((0..24i16).flat_map(i16::to_le_bytes));
    let path = folder.join("image.nii");
    artifact::Commit::file(&path, &bytes).unwrap();
    path
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// What is wrong with what a reader gives.
fn check(path: &Path, reader: Reader, expected: &Value) -> Result<(), String> {
    let volume = match (reader.read(path), expected.is_null()) {
        (Err(_), true) => return Ok(()),
        (Err(e), false) => return Err(e.to_string()),
        (Ok(_), true) => return Err("read, though nnU-Net refuses it".into()),
        (Ok(volume), false) => volume,
    };
    if reader.read_header(path).unwrap().0 != volume.geometry {
        return Err("read_header and read disagree".into());
    }
    let turn = reader.turn(&volume.geometry);
    let stored = volume.channels.clone();
    let turned = volume.turned(turn);
    let shape: Vec<f64> = turned.geometry.shape.iter().map(|&n| n as f64).collect();
    if shape != floats(&expected["shape"]) {
        return Err(format!("shape {shape:?}"));
    }
    if turned.geometry.spacing_mm.to_vec() != floats(&expected["spacing"]) {
        return Err(format!("spacing {:?}", turned.geometry.spacing_mm));
    }
    let voxels: Vec<f64> = turned.channels.iter().map(|&v| f64::from(v)).collect();
    let numbers = (0..24).map(f64::from).collect();
    let right = expected.get("voxels").map_or(numbers, floats);
    if voxels != right {
        return Err(format!("voxels {voxels:?}"));
    }
    if turn.inverse().channels(turned.channels.view()) != stored {
        return Err("the way back doesn't lead to the file".into());
    }
    Ok(())
}

#[test]
fn images_are_read_as_nnu_nets_readers_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 48 + 16 + 25 + 32, "too few cases");
    for case in &cases {
        let path = file(folder.path(), case);
        for (name, reader) in READERS {
            let Some(expected) = case.get(name) else { continue };
            if let Err(e) = check(&path, reader, expected) {
                wrong.push(format!("{} by {name}: {e}", case["name"]));
            }
        }
    }
    assert_eq!(wrong, [""; 0], "{}", wrong.join("\n"));
}

/// The axis-aligned ones of the cases, whose names are their codes.
fn oriented() -> Vec<Value> {
    let code = |case: &Value| case["name"].as_str().unwrap().chars().all(|c| "RASLPI".contains(c));
    cases().into_iter().filter(code).collect()
}

#[test]
fn one_image_in_every_orientation_is_one_image_to_readers_that_turn() {
    let folder = tempfile::tempdir().unwrap();
    let all = oriented();
    assert_eq!(all.len(), 48);
    let other = Path::new("other.nii");
    for reader in [Reader::SimpleItkRas, Reader::NibabelRas] {
        for a in &all {
            let path = file(folder.path(), a);
            let image = reader.read(&path).unwrap();
            // The same voxels as some other program would store them.
            for turn in turns() {
                let stored = image.clone().turned(turn);
                let (laid, apart) =
                    reader.lay(other, stored.clone(), (&path, &image.geometry)).unwrap();
                assert_eq!((laid.channels == image.channels, apart), (true, None));
                let as_stored = Reader::SimpleItk.lay(other, stored, (&path, &image.geometry));
                // A turn that keeps the shape leaves the image lying turned; others change it.
                match as_stored {
                    Ok((_, apart)) => assert_eq!(apart.is_some(), turn != Turn::NONE),
                    Err(e) => assert!(e.message.starts_with("shape"), "{e}"),
                }
            }
        }
    }
}

fn turns() -> Vec<Turn> {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let flips = (0..8).map(|bits| [0, 1, 2].map(|axis| bits >> axis & 1 == 1));
    flips.flat_map(|flip| orders.map(|axes| Turn { axes, flip })).collect()
}

#[test]
fn places_that_differ_are_named_with_both_files() {
    let (a, b) = (Path::new("a.nii"), Path::new("b.nii"));
    let geometry = |change: fn(&mut Geometry)| {
        let mut geometry = Geometry::plain([10, 20, 30], [2.0, 1.0, 1.0]);
        change(&mut geometry);
        geometry
    };
    let plain = geometry(|_| {});
    let meets = |change: fn(&mut Geometry)| meet((a, &geometry(change)), (b, &plain));
    assert_eq!(meets(|_| {}).unwrap(), None);
    // Below a tenth of a voxel: roundings of headers.
    assert_eq!(meets(|g| g.origin_mm[0] = 0.09).unwrap(), None);
    let moved = meets(|g| g.origin_mm[1] = -12.5).unwrap().unwrap();
    let expected = "a.nii lies elsewhere than b.nii: corners lie up to 12.500 mm apart: ";
    assert!(!moved.turned && moved.to_string().starts_with(expected), "{moved}");
    let tilted = |g: &mut Geometry| {
        let (sin, cos) = 0.1f64.sin_cos();
        g.direction = [[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]];
    };
    assert!(!meets(tilted).unwrap().unwrap().turned);
    let flips: [fn(&mut Geometry); 2] =
        [|g| g.direction[0][0] = -1.0, |g| g.direction[2][2] = -1.0];
    for flip in flips {
        let turned = meets(flip).unwrap().unwrap();
        assert!(turned.turned && turned.to_string().starts_with("a.nii is turned against b.nii: "));
    }
    // Flipped within the same box: the corners are the same as a set, not voxel by voxel.
    let within = |g: &mut Geometry| (g.direction[0][0], g.origin_mm[0]) = (-1.0, 29.0);
    assert!(meets(within).unwrap().unwrap().turned);
    let changes: [fn(&mut Geometry); 2] = [|g| g.shape[0] = 9, |g| g.spacing_mm[2] = 1.001];
    for change in changes {
        let error = meets(change).unwrap_err();
        assert!(error.path == a && error.message.ends_with("as in b.nii"), "{error}");
    }
}

#[test]
fn readers_are_known_by_nnu_nets_names() {
    for (class, reader) in [
        ("SimpleITKIO", Reader::SimpleItk),
        ("SimpleITKIOWithReorient", Reader::SimpleItkRas),
        ("NibabelIO", Reader::Nibabel),
        ("NibabelIOWithReorient", Reader::NibabelRas),
        ("NaturalImage2DIO", Reader::SimpleItk),
    ] {
        assert_eq!(Reader::of_class("key", class), Ok(reader));
    }
    for (class, reason) in [("Tiff3DIO", "TIFF"), ("MyReader", "no one here knows"), ("", "knows")]
    {
        let error = Reader::of_class("image_reader_writer", class).unwrap_err();
        assert!(error.starts_with(&format!("image_reader_writer = \"{class}\", ")), "{error}");
        assert!(error.contains(reason) && error.contains("NibabelIOWithReorient"), "{error}");
    }
    // A picture has no orientation.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let geometry = Geometry::plain([1, 2, 3], [999.0, 1.0, 1.0]);
    let pixels = ndarray::Array3::<u8>::zeros((1, 2, 3));
    let bytes = artifact::image::encode_labels(pixels.view(), &geometry, ".png").unwrap();
    artifact::Commit::file(&path, &bytes).unwrap();
    assert!(Reader::SimpleItk.read(&path).is_ok());
    assert!(Reader::NibabelRas.read(&path).unwrap_err().message.contains("NibabelIOWithReorient"));
    // And a slice without a third axis can't be turned.
    let flat = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nifti/dims_2d.nii");
    assert!(Reader::Nibabel.read(&flat).is_ok());
    for reader in [Reader::SimpleItkRas, Reader::NibabelRas] {
        assert!(reader.read(&flat).unwrap_err().message.starts_with("has two axes"));
    }
}

/// Endings of nnU-Net's own lists (`supported_file_endings`), and what else its classes read by the same rules.
#[test]
fn classes_read_files_of_their_own_endings_only() {
    let check = |class: &str, ending: &str| {
        let files = format!("file_ending = \"{ending}\"");
        Reader::check_class("key", class, (ending, &files))
    };
    let (pictures, volumes) = ([".png", ".bmp", ".tif"], [".nii.gz", ".nii", ".hdr", ".img.gz"]);
    let itk = [".nrrd", ".mha", ".gipl"];
    for (class, reads) in [
        ("NaturalImage2DIO", [true, false, false]),
        ("SimpleITKIO", [false, true, true]),
        ("SimpleITKIOWithReorient", [false, true, true]),
        ("NibabelIO", [false, true, false]),
        ("NibabelIOWithReorient", [false, true, false]),
    ] {
        for (endings, reads) in [&pictures[..], &volumes, &itk].into_iter().zip(reads) {
            for ending in endings {
                assert_eq!(check(class, ending).is_ok(), reads, "{class} {ending}");
            }
        }
    }
    // nnU-Net asks for small letters.
    assert_eq!(check("NaturalImage2DIO", ".PNG"), Ok(()));
    assert_eq!(
        check("NaturalImage2DIO", ".nii.gz").unwrap_err(),
        "key = \"NaturalImage2DIO\", which reads .png .bmp .tif, but file_ending = \".nii.gz\"; expected a class that \
         does, such as SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient"
    );
    let error = check("NibabelIO", ".jpg").unwrap_err();
    assert!(error.ends_with("but file_ending = \".jpg\""), "{error}");
}

/// Bytes scaled by header fields: either left to the reader of all kinds, or what that one reads.
#[test]
fn volumes_of_bytes_are_scaled_as_the_reader_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes.nii");
    let mut unscaled = Vec::new();
    let cases = cases();
    for case in &cases {
        let case_name = case["name"].as_str().unwrap();
        if !case_name.starts_with("slope") {
            continue;
        }
        let mut bytes = std::fs::read(file(folder.path(), case)).unwrap();
        let (second, start) = (bytes[4] == b'n', bytes.len() - 48);
        let types: [(usize, u8); 2] = if second { [(12, 2), (14, 8)] } else { [(70, 2), (72, 8)] };
        types.into_iter().for_each(|(at, value)| bytes[at] = value);
        bytes.truncate(start);
        bytes.extend(0..24u8);
        artifact::Commit::file(&path, &bytes).unwrap();
        for (name, reader) in READERS {
            let Some(found) = ByteVolume::read_by(reader, &path).unwrap() else { continue };
            let whole = reader.read(&path).unwrap();
            let values = whole.channels.index_axis(ndarray::Axis(0), 0);
            assert_eq!(found.voxels().mapv(f32::from), values, "{case_name} by {name}");
            unscaled.push((case_name, name));
        }
    }
    for name in ["nibabel", "nibabel_ras"] {
        assert!(unscaled.contains(&("slope 0 intercept -1024", name)), "{unscaled:?}");
    }
    assert!(!unscaled.contains(&("slope 0 intercept -1024", "simple_itk")), "{unscaled:?}");
}

#[test]
fn volumes_of_bytes_lie_where_the_reader_says() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let source = file(folder.path(), &case);
        for (_, reader) in READERS {
            let Ok(Volume { geometry, channels }) = reader.read(&source) else { continue };
            let labels = channels.index_axis(ndarray::Axis(0), 0).mapv(|v| v as u8);
            let bytes = artifact::nifti::encode_labels(labels.view(), &geometry, false).unwrap();
            let path = folder.path().join("bytes.nii");
            artifact::Commit::file(&path, &bytes).unwrap();
            let found = ByteVolume::read_by(reader, &path).unwrap().unwrap();
            let whole = reader.read(&path).unwrap();
            assert_eq!(found.geometry, whole.geometry);
            // The header was carried along: the map lies where the image does.
            assert_eq!(whole.geometry.agrees(&geometry), Ok(()));
            assert_eq!(found.voxels(), labels);
        }
    }
}
