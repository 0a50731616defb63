//! PNG pictures: what Pillow reads from them, two-dimensional data sets, faults.

use artifact::dataset::Dataset;
use artifact::image;
use ndarray::{Array3, array};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/png").join(name)
}

#[test]
fn every_kind_of_picture_reads_as_pillow_reads_it() {
    let text = std::fs::read_to_string(golden("values.json")).unwrap();
    let kinds: BTreeMap<String, Vec<Vec<Vec<f32>>>> = serde_json::from_str(&text).unwrap();
    assert_eq!(kinds.len(), 15);
    for (name, values) in kinds {
        let path = golden(&format!("{name}.png"));
        let volume = image::read(&path).unwrap();
        assert_eq!(volume.channels.dim(), (values.len(), 1, 3, 5), "{name}");
        let expected: Vec<f32> = values.into_iter().flatten().flatten().collect();
        assert_eq!(volume.channels.iter().copied().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(volume.geometry.spacing_mm, [999.0, 1.0, 1.0]);
        let (geometry, channels) = image::read_header(&path).unwrap();
        assert_eq!((geometry, channels), (volume.geometry, volume.channels.dim().0));
    }
}

#[test]
fn label_pictures_come_back_with_8_and_16_bits() {
    let folder = tempfile::tempdir().unwrap();
    for values in [array![[[0, 1, 255], [3, 0, 7]]], array![[[0, 256, 65535], [3, 0, 7]]]] {
        let geometry = image::Geometry::plain([1, 2, 3], [999.0, 1.0, 1.0]);
        let path = folder.path().join("a.png");
        let bytes = image::encode_labels(values.view(), &geometry, ".png").unwrap();
        artifact::Commit::file(&path, &bytes).unwrap();
        let found = image::read(&path).unwrap().channels;
        let expected: Array3<f32> = values.mapv(|v: i32| v as f32);
        assert_eq!(found.index_axis(ndarray::Axis(0), 0), expected);
    }
    let deep = image::Geometry::plain([2, 1, 1], [1.0; 3]);
    let error = image::encode_labels(Array3::<i32>::zeros((2, 1, 1)).view(), &deep, ".png");
    assert!(error.unwrap_err().message.contains("expected one slice"));
}

#[test]
fn a_folder_of_colour_pictures_is_a_data_set_of_depth_1() {
    let folder = tempfile::tempdir().unwrap();
    let put = |from: &str, to: &str| {
        let to = folder.path().join(to);
        artifact::Commit::file(&to, &std::fs::read(golden(from)).unwrap()).unwrap();
    };
    put("rgb.png", "imagesTr/a_0000.png");
    put("bits.png", "labelsTr/a.png");
    let text = r#"{"channel_names": {"0": "R", "1": "G", "2": "B"}, "numTraining": 1,
        "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}"#;
    artifact::Commit::file(&folder.path().join("dataset.json"), text.as_bytes()).unwrap();
    let set = Dataset::load(folder.path()).unwrap();
    assert_eq!((set.file_ending.as_str(), set.training.len()), (".png", 1));
    let case = set.case("a").unwrap();
    assert_eq!(set.read_image(case).unwrap().channels.dim(), (3, 1, 3, 5));
    assert_eq!(set.read_label(case).unwrap().channels.dim(), (1, 1, 3, 5));
}

/// Opacity is a channel where nnU-Net's reader says so; a lone picture is counted, and no other file missed.
#[test]
fn a_lone_picture_is_counted() {
    for (name, declared, found) in [
        ("rgba", 4, None),
        ("rgba", 3, Some("4 channels (colours and opacity), expected 3: c0, c1, c2")),
        ("rgba", 1, Some("4 channels (colours and opacity), expected 1: c0")),
        ("rgb", 3, None),
        ("rgb", 2, Some("3 channels (colours), expected 2: c0, c1")),
        ("rgb_opacity", 3, None),
        ("palette", 3, None),
        ("palette_opacity", 4, Some("3 channels (a palette's colours), expected 4: ")),
        ("grey_alpha", 1, None),
        ("grey_alpha", 2, Some("1 channel (grey; its opacity is none), expected 2: c0, c1")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let put = |to: &str, bytes: &[u8]| {
            artifact::Commit::file(&folder.path().join(to), bytes).unwrap();
        };
        let channels: Vec<String> = (0..declared).map(|c| format!("\"{c}\": \"c{c}\"")).collect();
        let text = format!(
            r#"{{"channel_names": {{{}}}, "labels": {{"background": 0, "a": 1}}, "file_ending": ".png"}}"#,
            channels.join(", ")
        );
        put("dataset.json", text.as_bytes());
        put("imagesTr/a_0000.png", &std::fs::read(golden(&format!("{name}.png"))).unwrap());
        let dataset = Dataset::load(folder.path()).unwrap();
        assert_eq!(dataset.training[0].images.len(), 1, "{name}");
        match (dataset.read_image(&dataset.training[0]), found) {
            (Ok(image), None) => assert_eq!(image.channels.dim().0, declared),
            (Err(error), Some(found)) => {
                let expected = format!("case a has {found}");
                assert!(error.message.starts_with(&expected), "{error}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
}

/// By their ends, or where these are strange by all of them.
#[test]
fn pictures_that_break_off_are_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let check = |bytes: &[u8]| {
        artifact::Commit::file(&path, bytes).unwrap();
        image::Reader::SimpleItk.check_length(&path)
    };
    let whole = std::fs::read(golden("rgb.png")).unwrap();
    assert_eq!(check(&whole), Ok(()));
    assert_eq!(check(&[&whole[..], b"more"].concat()), Ok(()));
    let error = check(&whole[..whole.len() - 20]).unwrap_err();
    assert!(error.message.starts_with("is not a readable PNG: "), "{error}");
    artifact::Commit::file(&path, &whole).unwrap();
    assert!(image::Reader::Nibabel.check_length(&path).is_err());
}

#[test]
fn broken_pictures_are_one_line_errors() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(golden("rgb.png")).unwrap();
    let path = folder.path().join("a.png");
    for keep in [0, 7, 8, 20, 33, 45, whole.len() - 20] {
        artifact::Commit::file(&path, &whole[..keep]).unwrap();
        let error = image::read(&path).unwrap_err();
        let expected =
            if keep == 0 { "is empty, expected a PNG" } else { "is not a readable PNG: " };
        assert!(error.message.starts_with(expected), "{keep}: {error:?}");
        assert!(!error.message.contains('\n'));
    }
    // Width and height of the header, with its checksum corrected: a claim of 40000 pixels each way.
    let mut huge = whole;
    huge[16..24].copy_from_slice(&[0, 0, 0x9c, 0x40, 0, 0, 0x9c, 0x40]);
    let sum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&sum.to_be_bytes());
    artifact::Commit::file(&path, &huge).unwrap();
    let error = image::read(&path).unwrap_err();
    assert!(error.message.contains("pixels, expected at most"), "{error:?}");
}

/// The checksum of PNG chunks, from its definition.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

/// A picture of 2 × 2 pixels of colours 0 and 1.
fn indexed(palette: Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 2, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    let mut writer = encoder.write_header().expect("memory takes it");
    writer.write_image_data(&[0, 1, 1, 0]).expect("memory takes it");
    drop(writer);
    bytes
}

/// PNG's own rule (section 11.2.2 of the standard), which the decoder takes for granted.
#[test]
fn palettes_are_made_of_whole_colours() {
    for length in [0, 1, 2, 4, 5, 20, 767, 769, 771, 3000] {
        let bytes = indexed(vec![7; length]);
        let error = image::decode(Path::new("a.png"), vec![bytes]).unwrap_err();
        let named = ["palette", "PLTE"].iter().any(|name| error.message.contains(name));
        assert!(named, "{length}: {}", error.message);
    }
    for length in [3, 6, 768] {
        assert!(image::decode(Path::new("a.png"), vec![indexed(vec![7; length])]).is_ok());
    }
}

#[test]
fn a_label_picture_with_colours_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = indexed(vec![0, 0, 0, 255, 0, 0]);
    artifact::Commit::file(&folder.path().join("labelsTr/a.png"), &bytes).unwrap();
    let grey = std::fs::read(golden("bits.png")).unwrap();
    artifact::Commit::file(&folder.path().join("imagesTr/a_0000.png"), &grey).unwrap();
    let text = r#"{"channel_names": {"0": "R"}, "numTraining": 1,
        "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}"#;
    artifact::Commit::file(&folder.path().join("dataset.json"), text.as_bytes()).unwrap();
    let set = Dataset::load(folder.path()).unwrap();
    let error = set.read_label(&set.training[0]).unwrap_err();
    assert_eq!(error.message, "label has 3 channels (a palette's colours), expected 1");
    assert!(error.hint.unwrap().contains("grey"));
}
