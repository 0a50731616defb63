//! Both layouts of data sets, and each fault of `dataset.json` with its line.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::dataset::{Dataset, DatasetCase};
use artifact::nifti::{Geometry, encode_image, encode_labels};
use ndarray::{Array3, Array4};
use std::path::Path;
use tempfile::TempDir;

#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn folder_with(description: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "dataset.json", description);
    folder
}

fn geometry() -> Geometry {
    Geometry::plain([2, 3, 4], [3.0, 1.0, 1.0])
}

/// Channel `c` is `value + c` everywhere.
fn image(channels: usize, value: f32) -> Vec<u8> {
    let image = Array4::from_shape_fn((channels, 2, 3, 4), |(c, ..)| value + c as f32);
    encode_image(image.view(), &geometry(), true).unwrap()
}

fn label() -> Vec<u8> {
    encode_labels(Array3::from_elem((2, 3, 4), 1).view(), &geometry(), true).unwrap()
}

fn names(cases: &[DatasetCase]) -> Vec<&str> {
    cases.iter().map(|c| c.id.as_str()).collect()
}

#[test]
fn regions_keep_their_order_and_the_ignore_label_is_no_class() {
    let folder = folder_with(
        r#"{"channel_names": {"0": "FLAIR"}, "numTraining": 1, "file_ending": ".nii.gz",
            "labels": {"background": 0, "whole": [2, 1, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
            "regions_class_order": [1, 2, 3]}"#,
    );
    write(folder.path(), "imagesTr/a_0000.nii.gz", image(1, 5.0));
    write(folder.path(), "labelsTr/a.nii.gz", label());
    let d = Dataset::load(folder.path()).unwrap();
    let labels: Vec<_> = d.labels.iter().map(|l| (l.name.as_str(), l.value)).collect();
    // Values that only occur inside regions have no name of their own.
    let expected = [("background", 0), ("label 1", 1), ("label 2", 2), ("enhancing", 3)];
    assert_eq!(labels, expected);
    let regions: Vec<_> =
        d.regions.iter().map(|r| (r.name.as_str(), &r.values[..], r.value)).collect();
    let expected: [(&str, &[i32], i32); 3] =
        [("whole", &[2, 1, 3], 1), ("core", &[2, 3], 2), ("enhancing", &[3], 3)];
    assert_eq!(regions, expected);
    assert_eq!(d.ignore.map(|l| l.value), Some(4));
}

const DECATHLON: &str = r#"{
    "name": "Brain", "modality": {"1": "T2", "0": "T1"}, "numTraining": 3,
    "labels": {"0": "background", "2": "edema", "1": "core"},
    "training": [{"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
                 {"image": "./imagesTr/._a.nii.gz", "label": "./labelsTr/._a.nii.gz"},
                 ["imagesTr/B.nii.gz", "labelsTr/B.nii.gz"],
                 {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
                 {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    "test": ["./imagesTs/z.nii.gz", "./imagesTs/._z.nii.gz"]}"#;

#[test]
fn the_decathlon_layout_is_read() {
    let folder = folder_with(DECATHLON);
    let at = folder.path();
    write(at, "imagesTr/a.nii.gz", image(2, 5.0));
    write(at, "labelsTr/a.nii.gz", label());
    let d = Dataset::load(at).unwrap();
    assert_eq!((d.name.as_str(), d.file_ending.as_str()), ("Brain", ".nii.gz"));
    assert_eq!(d.channels, ["T1", "T2"]);
    let labels: Vec<_> = d.labels.iter().map(|l| (l.name.as_str(), l.value)).collect();
    assert_eq!(labels, [("background", 0), ("core", 1), ("edema", 2)]);
    // As Python sorts: capitals first.
    assert_eq!((names(&d.training), names(&d.test)), (vec!["B", "a", "b"], vec!["z"]));
    assert_eq!(
        (d.duplicate_ids.as_slice(), d.declared_training),
        (&["a".to_string()][..], Some(3))
    );
    let case = d.case("a").unwrap();
    assert_eq!(case.images, [at.join("imagesTr/a.nii.gz")]);
    let volume = d.read_image(case).unwrap();
    assert_eq!((volume.channels[[0, 0, 0, 0]], volume.channels[[1, 1, 2, 3]]), (5.0, 6.0));
    assert_eq!(d.read_label(case).unwrap().channels.sum(), 24.0);
    assert_eq!(d.case("z").unwrap().label, None);
    assert!(d.case("q").is_none());
    assert_eq!(
        d.read_image(d.case("b").unwrap()).unwrap_err().message,
        "cannot read: No such file or directory (os error 2)"
    );
}

const NNUNET: &str = r#"{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "tumour": 7},
    "numTraining": 2, "file_ending": ".nii.gz"}"#;

#[test]
fn the_nnunet_layout_is_read() {
    let folder = folder_with(NNUNET);
    let at = folder.path();
    for (case, value) in [("p_10", 1.0), ("p_2", 2.0)] {
        write(at, &format!("imagesTr/{case}_0000.nii.gz"), image(1, value));
        write(at, &format!("imagesTr/{case}_0001.nii.gz"), image(1, 10.0 * value));
        write(at, &format!("labelsTr/{case}.nii.gz"), label());
    }
    write(at, "imagesTr/._p_2_0000.nii.gz", "junk");
    write(at, "imagesTr/notes.txt", "junk");
    write(at, "labelsTr/lost.nii.gz", label());
    write(at, "imagesTs/t_0000.nii.gz", image(1, 3.0));
    write(at, "imagesTs/four_0000.nii.gz", image(2, 3.0));
    let d = Dataset::load(at).unwrap();
    assert_eq!(d.name, at.file_name().unwrap().to_string_lossy());
    assert_eq!(
        (names(&d.training), names(&d.test)),
        (vec!["lost", "p_10", "p_2"], vec!["four", "t"])
    );
    let volume = d.read_image(d.case("p_2").unwrap()).unwrap();
    assert_eq!((volume.channels[[0, 0, 0, 0]], volume.channels[[1, 1, 2, 3]]), (2.0, 20.0));
    // A missing image is listed where it should be; a missing second channel too.
    assert_eq!(d.case("lost").unwrap().images[1], at.join("imagesTr/lost_0001.nii.gz"));
    assert_eq!(d.case("t").unwrap().images.len(), 2);
    // A lone file that holds all channels needs no second.
    assert_eq!(d.case("four").unwrap().images, [at.join("imagesTs/four_0000.nii.gz")]);
    assert_eq!(d.read_image(d.case("four").unwrap()).unwrap().channels.dim().0, 2);
}

#[test]
fn an_explicit_table_of_files_is_read() {
    let folder = folder_with(
        r#"{"channel_names": {"0": "a", "1": "b"}, "labels": {"background": "0", "x": 1.0},
            "dataset": {"two": {"images": ["x/1.nii", "y/2.nii"], "label": "z/3.nii"},
                        "one": {"images": ["/abs/1.nii"], "label": "l.nii"}}}"#,
    );
    let d = Dataset::load(folder.path()).unwrap();
    assert_eq!((names(&d.training), d.file_ending.as_str()), (vec!["one", "two"], ".nii"));
    assert_eq!(d.case("two").unwrap().images[1], folder.path().join("y/2.nii"));
    assert_eq!(d.case("one").unwrap().images, [Path::new("/abs/1.nii")]);
}

#[test]
fn listed_images_may_be_split_into_channel_files() {
    let folder = folder_with(&DECATHLON.replace("B.nii.gz", "c.nii.gz"));
    let at = folder.path();
    write(at, "imagesTr/c_0000.nii.gz", image(1, 1.0));
    write(at, "imagesTr/c_0001.nii.gz", image(1, 2.0));
    let d = Dataset::load(at).unwrap();
    assert_eq!(d.read_image(d.case("c").unwrap()).unwrap().channels[[1, 0, 0, 0]], 2.0);
}

#[test]
fn channels_that_do_not_fit_are_refused() {
    let folder = folder_with(NNUNET);
    let at = folder.path();
    let wide = Geometry::plain([2, 3, 4], [3.0, 1.0, 1.5]);
    write(at, "imagesTr/a_0000.nii.gz", image(1, 1.0));
    write(
        at,
        "imagesTr/a_0001.nii.gz",
        encode_image(Array4::zeros((1, 2, 3, 4)).view(), &wide, true).unwrap(),
    );
    for channel in 0..3 {
        write(at, &format!("imagesTr/b_000{channel}.nii.gz"), image(1, 1.0));
    }
    write(at, "imagesTr/c_0000.nii.gz", image(1, 1.0));
    write(at, "imagesTr/c_0001.nii.gz", image(2, 1.0));
    write(at, "labelsTr/a.nii.gz", image(2, 1.0));
    let d = Dataset::load(at).unwrap();
    let fault = |id: &str| d.read_image(d.case(id).unwrap()).unwrap_err();
    let found = fault("a");
    assert_eq!(found.path, at.join("imagesTr/a_0001.nii.gz"));
    let first = at.join("imagesTr/a_0000.nii.gz");
    let expected = "spacing [3.0, 1.0, 1.5] mm, expected [3.0, 1.0, 1.0] (z, y, x) as in";
    assert_eq!(found.message, format!("{expected} {}", first.display()));
    assert_eq!(fault("b").message, "case b has 3 channels, expected 2: CT, PET");
    assert_eq!(fault("c").message, "case c has 3 channels, expected 2: CT, PET");
    assert_eq!(
        d.read_label(d.case("a").unwrap()).unwrap_err().message,
        "label has 2 channels, expected 1"
    );
}

#[test]
fn faults_of_the_description_are_named() {
    let label = r#""labels": {"background": 0, "x": 1}"#;
    let channel = r#""channel_names": {"0": "CT"}"#;
    let cases: &[(String, &str)] = &[
        ("[]".into(), "is [], expected an object"),
        ("{".into(), "is not JSON: EOF while parsing an object at line 1 column 1"),
        (
            format!("{{{label}}}"),
            r#"channel_names (or modality) is missing, expected {"0": "CT", …}"#,
        ),
        (
            format!(r#"{{"modality": ["CT"], {label}}}"#),
            r#"modality = ["CT"], expected {"0": "CT", …}"#,
        ),
        (
            format!(r#"{{"modality": {{"CT": "0"}}, {label}}}"#),
            r#"modality has the key "CT", expected channel numbers from 0"#,
        ),
        (
            format!(r#"{{"modality": {{"0": 1}}, {label}}}"#),
            "modality.0 = 1, expected a channel's name",
        ),
        (
            format!(r#"{{"modality": {{"0": "a", "2": "b"}}, {label}}}"#),
            "modality has channels [0, 2], expected 0, 1, 2, … without gaps",
        ),
        (
            format!("{{{channel}}}"),
            r#"labels is missing, expected {"background": 0, "NAME": 1, …}"#,
        ),
        (
            format!(r#"{{{channel}, "labels": [0, 1]}}"#),
            r#"labels = [0,1], expected {"background": 0, "NAME": 1, …}"#,
        ),
        (
            format!(r#"{{{channel}, "labels": {{"background": 0, "x": 1.5}}}}"#),
            "labels.x = 1.5, expected a whole number",
        ),
        (
            format!(r#"{{{channel}, "labels": {{"background": 0, "whole": [1, 2], "core": 1}}}}"#),
            "regions_class_order is missing, expected the values in which the 2 regions are written",
        ),
        (
            format!(
                r#"{{{channel}, "labels": {{"background": 0, "whole": [1, 2]}}, "regions_class_order": [1, 2]}}"#
            ),
            "regions_class_order = [1,2], expected the values in which the 1 regions are written",
        ),
        (
            format!(
                r#"{{{channel}, "labels": {{"background": 0, "whole": [1, 2]}}, "regions_class_order": [3]}}"#
            ),
            "labels: region whole is written as 3, expected the value of a label",
        ),
        (
            format!(r#"{{{channel}, "labels": {{"background": 0, "x": 2, "ignore": 1}}}}"#),
            "labels: ignore has value 1, expected a value above every other label's, at most 32767",
        ),
        (
            format!(r#"{{{channel}, {label}, "file_ending": ".jpg"}}"#),
            r#"file_ending = ".jpg", expected one of .nii.gz .nii .hdr.gz .hdr .img.gz .img .png"#,
        ),
        (
            format!(r#"{{{channel}, {label}, "numTraining": "3"}}"#),
            r#"numTraining = "3", expected a count"#,
        ),
        (
            format!(r#"{{{channel}, {label}, "training": {{}}}}"#),
            "training = {}, expected a list of cases; or leave training out: then cases are the files in imagesTr and labelsTr",
        ),
        (
            format!(r#"{{{channel}, {label}, "training": null}}"#),
            "training = null, expected a list of cases; or leave training out: then cases are the files in imagesTr and labelsTr",
        ),
        (
            format!(r#"{{{channel}, {label}, "test": null}}"#),
            "test = null, expected a list of cases; or leave test out",
        ),
        (
            format!(r#"{{{channel}, {label}, "dataset": null}}"#),
            r#"dataset = null, expected {CASE: {"images": [FILE, …], "label": FILE}}; or leave dataset out: then cases are the files in imagesTr and labelsTr"#,
        ),
        (
            format!(r#"{{{channel}, {label}, "training": [{{"image": "a.nii", "label": 3}}]}}"#),
            r#"training[0] = {"image":"a.nii","label":3}, expected {"image": FILE, "label": FILE}"#,
        ),
        (
            format!(r#"{{{channel}, {label}, "dataset": {{"a": {{"images": []}}}}}}"#),
            r#"dataset.a = {"images":[]}, expected {"image": FILE, "label": FILE}"#,
        ),
    ];
    for (text, expected) in cases {
        let folder = folder_with(text);
        let error = Dataset::load(folder.path()).expect_err(text);
        assert_eq!(error.message, *expected);
        assert_eq!(error.path, folder.path().join("dataset.json"));
    }
    for labels in [
        r#"{"background": 0}"#,
        r#"{"a": 1, "b": 2}"#,
        r#"{"background": 0, "a": 1, "b": 1}"#,
        r#"{"background": 0, "a": -1}"#,
    ] {
        let folder = folder_with(&format!(r#"{{{channel}, "labels": {labels}}}"#));
        let message = Dataset::load(folder.path()).expect_err(labels).message;
        assert!(message.starts_with("label"), "{message}");
    }
}

#[test]
fn classes_that_do_not_read_the_files_are_refused() {
    let text = |class: &str, more: &str| {
        format!(
            r#"{{"channel_names": {{"0": "CT"}}, "labels": {{"background": 0, "x": 1}}, "overwrite_image_reader_writer": "{class}"{more}}}"#
        )
    };
    let list = |ending: &str| {
        format!(r#", "training": [{{"image": "i/a{ending}", "label": "l/a{ending}"}}]"#)
    };
    let table = |image: &str, label: &str| {
        format!(r#", "dataset": {{"a": {{"images": ["i/a{image}"], "label": "l/a{label}"}}}}"#)
    };
    let ending = |ending: &str| format!(r#", "file_ending": "{ending}""#);
    let refused = |class: &str, more: &str, found: &str| {
        let folder = folder_with(&text(class, more));
        let error = Dataset::load(folder.path()).expect_err(more);
        let expected = format!("overwrite_image_reader_writer = \"{class}\", which reads .");
        assert!(error.message.starts_with(&expected), "{error}");
        assert!(error.message.contains(&format!(", but {found}; expected ")), "{error}");
        assert_eq!(error.path, folder.path().join("dataset.json"));
    };
    refused("NaturalImage2DIO", &ending(".nii.gz"), "file_ending = \".nii.gz\"");
    for class in ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"] {
        refused(class, &ending(".png"), "file_ending = \".png\"");
        refused(class, &list(".png"), "an image is a.png");
    }
    // Without the key, or beside it, by the files that are listed.
    refused("NaturalImage2DIO", &list(".nii"), "an image is a.nii");
    let mixed = format!("{}{}", ending(".png"), table(".png", ".nii.gz"));
    refused("NaturalImage2DIO", &mixed, "an image is a.nii.gz");
    for (class, fits) in
        [("NaturalImage2DIO", ".png"), ("SimpleITKIO", ".nii"), ("NibabelIO", ".nii.gz")]
    {
        for more in [list(fits), table(fits, fits)] {
            let folder = folder_with(&text(class, &more));
            assert_eq!(Dataset::load(folder.path()).unwrap().file_ending, fits);
        }
    }
    // And by those that are found.
    let folder = folder_with(&text("NaturalImage2DIO", ""));
    write(folder.path(), "imagesTr/a_0000.nii.gz", image(1, 1.0));
    let error = Dataset::load(folder.path()).unwrap_err();
    assert!(error.message.contains("but an image is a_0000.nii.gz"), "{error}");
}

#[test]
fn folders_without_data_set_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = Dataset::load(folder.path()).unwrap_err();
    assert_eq!(
        error.message,
        "cannot read this description of the data set: No such file or directory (os error 2)"
    );
    assert_eq!(
        error.hint.unwrap(),
        "give the folder that holds dataset.json, imagesTr and labelsTr"
    );
    write(folder.path(), "dataset.json", NNUNET);
    let error = Dataset::load(folder.path()).unwrap_err();
    assert_eq!(error.path, folder.path().join("imagesTr"));
    assert_eq!(error.message, "is not there, and dataset.json lists no cases");
    std::fs::create_dir(folder.path().join("imagesTr")).unwrap();
    let error = Dataset::load(folder.path()).unwrap_err();
    assert_eq!(error.message, "is empty, and dataset.json lists no cases");
    write(folder.path(), "imagesTr/a.nii.gz", image(1, 1.0));
    let error = Dataset::load(folder.path()).unwrap_err();
    assert_eq!(error.message, "has 1 files, such as a.nii.gz, but none that ends in _NNNN.nii.gz");
    // An empty list isn't the absence of files.
    for (key, list) in [("training", "[]"), ("dataset", "{}")] {
        let text = NNUNET.trim_end().strip_suffix('}').unwrap();
        write(folder.path(), "dataset.json", format!("{text}, \"{key}\": {list}}}"));
        let error = Dataset::load(folder.path()).unwrap_err();
        assert_eq!(error.path, folder.path().join("dataset.json"));
        assert_eq!(error.message, format!("{key} lists no cases, expected at least one"));
        assert!(error.hint.unwrap().starts_with(&format!("leave {key} out")));
    }
}

#[test]
fn a_lone_first_channel_that_cannot_be_read_is_blamed_itself() {
    let folder = folder_with(NNUNET);
    let at = folder.path();
    write(at, "imagesTr/a_0000.nii.gz", b"version https://git-lfs.github.com/spec/v1\n");
    write(at, "labelsTr/a.nii.gz", label());
    let d = Dataset::load(at).unwrap();
    let error = d.read_image(&d.training[0]).unwrap_err();
    assert_eq!(error.path, at.join("imagesTr/a_0000.nii.gz"));
    assert!(error.message.starts_with("is a git-lfs pointer"), "{error}");
    // No other file is said to be missing.
    assert_eq!(d.training[0].images, [error.path]);
}

#[test]
fn label_maps_that_nobody_lists_have_no_twins_either() {
    let folder = folder_with(DECATHLON);
    let at = folder.path();
    for name in ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "imagesTr/B.nii.gz"] {
        write(at, name, image(2, 5.0));
    }
    for name in ["a.nii.gz", "b.nii.gz", "B.nii.gz", "stray.nii.gz"] {
        write(at, &format!("labelsTr/{name}"), label());
    }
    Dataset::load(at).unwrap();
    write(at, "labelsTr/stray.nii", label());
    let error = Dataset::load(at).unwrap_err();
    assert_eq!(error.path, at.join("labelsTr/stray.nii"));
    assert!(error.message.contains("stray.nii.gz"), "{error}");
}

/// Names of any bytes are no ids, and no other file's name either; other cases don't mind.
#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_faults_under_their_own_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1},
        "numTraining": 1, "file_ending": ".nii"}"#;
    let put = |name: &str, bytes: &[u8]| {
        artifact::Commit::file(&folder.path().join(name), bytes).unwrap();
    };
    put("dataset.json", text.as_bytes());
    let named = |bytes: &[u8]| Path::new(std::ffi::OsStr::from_bytes(bytes)).to_path_buf();
    for part in ["imagesTr", "labelsTr"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
    }
    let golden =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nifti").join(name);
    let volume = std::fs::read(golden("type_little_f8.nii")).unwrap();
    put("imagesTr/a_0000.nii", &volume);
    put("labelsTr/a.nii", &volume);
    // Hidden files are nobody's.
    std::fs::copy(
        folder.path().join("labelsTr/a.nii"),
        folder.path().join(named(b"imagesTr/.\xff")),
    )
    .unwrap();
    assert_eq!(Dataset::load(folder.path()).unwrap().training.len(), 1);
    let odd = folder.path().join(named(b"imagesTr/b\xff_0000.nii"));
    std::fs::copy(folder.path().join("labelsTr/a.nii"), &odd).unwrap();
    let copy = |to: &[u8]| {
        std::fs::copy(folder.path().join("labelsTr/a.nii"), folder.path().join(named(to))).unwrap();
    };
    // One case, whose label map is no second; a label map without image; one that is no case's.
    copy(b"imagesTr/b\xff_0001.nii");
    copy(b"labelsTr/b\xff.nii");
    copy(b"labelsTr/c\xfe.nii");
    copy(b"imagesTr/notes\xff.txt");
    std::fs::create_dir(folder.path().join("imagesTs")).unwrap();
    copy(b"imagesTs/t\xff_0000.nii");
    let dataset = Dataset::load(folder.path()).unwrap();
    assert_eq!((names(&dataset.training), dataset.test.len()), (vec!["a"], 0));
    let label = folder.path().join(named(b"labelsTr/c\xfe.nii"));
    let test = folder.path().join(named(b"imagesTs/t\xff_0000.nii"));
    for (faults, expected) in
        [(&dataset.faults, vec![odd.clone(), label]), (&dataset.test_faults, vec![test])]
    {
        let paths: Vec<_> = faults.iter().map(|e| e.path.clone()).collect();
        assert_eq!(paths, expected);
        assert!(faults.iter().all(|e| e.message.starts_with("has a name that is not UTF-8")));
    }
    // Nothing else is left.
    for file in ["imagesTr/a_0000.nii", "labelsTr/a.nii"] {
        let bytes = std::fs::read(folder.path().join(file)).unwrap();
        artifact::Commit::file(&folder.path().join("kept.nii"), &bytes).unwrap();
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let error = Dataset::load(folder.path()).unwrap_err();
    assert_eq!(error, dataset.faults[0]);
    std::fs::copy(folder.path().join("kept.nii"), folder.path().join("labelsTr/a.nii")).unwrap();
    // By its path it is read like any other, pairs included.
    assert_eq!(
        artifact::nifti::read(&odd).unwrap(),
        artifact::nifti::read(&folder.path().join("labelsTr/a.nii")).unwrap()
    );
    let pair = [(b"p\xff.hdr".as_slice(), "pair.hdr"), (b"p\xff.img", "pair.img")];
    for (to, from) in pair {
        std::fs::copy(golden(from), folder.path().join(named(to))).unwrap();
    }
    let read = artifact::nifti::read(&folder.path().join(named(b"p\xff.img"))).unwrap();
    assert_eq!(read, artifact::nifti::read(&golden("pair.hdr")).unwrap());
}
