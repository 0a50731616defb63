//! Records and cases that a damaged disk or a careless program may leave: each is refused when it is opened, with one line
//! that says where, instead of ending a later stage by a panic or an allocation.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::case::{Case, OpenCase};
use artifact::{Error, Fault, Kind, Record, inspect, npy};
use ndarray::Array3;
use std::path::{Path, PathBuf};

/// The committed output of a kind in a folder of its own, hashes as in the file.
fn copy(kind: &str, record: &str) -> (tempfile::TempDir, PathBuf) {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/records/{kind}.1"));
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let record = folder.path().join(record);
    (folder, record)
}

#[expect(clippy::disallowed_methods, reason = "tests spoil files on purpose")]
fn spoil(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// Line `at` of the record, from 1.
fn line_number(path: &Path, start: &str) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    1 + text.lines().position(|l| l.starts_with(start)).unwrap()
}

/// Replaces the first line that begins with `start` after the table `table`, and loads the record.
fn changed<T: Kind + std::fmt::Debug>(path: &Path, table: &str, start: &str, line: &str) -> Error {
    let good = std::fs::read_to_string(path).unwrap();
    let from = good.find(table).unwrap();
    let at = from + good[from..].find(&format!("\n{start}")).unwrap() + 1;
    let end = at + good[at..].find('\n').unwrap();
    spoil(path, format!("{}{line}{}", &good[..at], &good[end..]).as_bytes());
    let error = Record::<T>::load(path).unwrap_err();
    spoil(path, good.as_bytes());
    Record::<T>::load(path).unwrap();
    assert_eq!((error.fault, error.path.as_path()), (Fault::Input, path));
    error
}

#[test]
fn a_label_that_is_no_class_is_refused_when_the_case_is_opened() {
    let (folder, record) = copy("case", "case.toml");
    let label = folder.path().join("label.npy");
    for (class, at) in [(2i16, [1, 2, 3]), (9, [0, 1, 2]), (-2, [0, 0, 0]), (i16::MIN, [1, 0, 0])] {
        let mut values = Array3::<i16>::from_elem((2, 3, 4), -1);
        values[[1, 1, 1]] = 1;
        spoil(&label, &npy::encode(&values.view()));
        OpenCase::open(&record).unwrap();
        values[at] = class;
        spoil(&label, &npy::encode(&values.view()));
        let error = OpenCase::open(&record).unwrap_err();
        let expected =
            format!("holds class {class} at voxel {at:?} (z, y, x), expected -1 to 1 (2 classes)");
        assert_eq!(
            (error.fault, error.path, error.message),
            (Fault::Input, label.clone(), expected)
        );
    }
}

#[test]
fn shapes_and_spacings_that_no_image_has_are_refused() {
    let (_folder, record) = copy("case", "case.toml");
    let huge = "[1000000, 1000000, 10000000]";
    for (table, key, value, message) in [
        (
            "[case]",
            "shape",
            huge,
            "case.shape = [1000000, 1000000, 10000000], expected 1 to 2^36 voxels",
        ),
        (
            "[case]",
            "shape",
            "[4096, 4096, 4097]",
            "case.shape = [4096, 4096, 4097], expected 1 to 2^36 voxels",
        ),
        ("[case]", "shape", "[2, 0, 4]", "case.shape = [2, 0, 4], expected 1 to 2^36 voxels"),
        ("[case]", "channels", "0", "case.channels = 0, expected 1 to 32768"),
        ("[case]", "classes", "0", "case.classes = 0, expected 1 to 32768"),
        ("[case]", "classes", "32769", "case.classes = 32769, expected 1 to 32768"),
        (
            "[case]",
            "spacing_mm",
            "[2.0, nan, 1.0]",
            "case.spacing_mm = [2.0, NaN, 1.0], expected positive numbers",
        ),
        (
            "[original.geometry]",
            "shape",
            huge,
            "original.geometry.shape = [1000000, 1000000, 10000000], expected 1 to 2^36 voxels",
        ),
        (
            "[original.geometry]",
            "shape",
            "[9223372036854775807, 4, 8]",
            "original.geometry.shape = [9223372036854775807, 4, 8], expected 1 to 2^36 voxels",
        ),
        (
            "[original.geometry]",
            "spacing_mm",
            "[0.0, 1.0, 1.0]",
            "original.geometry.spacing_mm = [0.0, 1.0, 1.0], expected positive numbers",
        ),
        (
            "[original.geometry]",
            "spacing_mm",
            "[1.0, -1.0, 1.0]",
            "original.geometry.spacing_mm = [1.0, -1.0, 1.0], expected positive numbers",
        ),
        (
            "[original.geometry]",
            "spacing_mm",
            "[1.0, 1.0, inf]",
            "original.geometry.spacing_mm = [1.0, 1.0, inf], expected positive numbers",
        ),
        (
            "[original]",
            "transpose",
            "[0, 1, 3]",
            "original.transpose = [0, 1, 3], expected a permutation of [0, 1, 2]",
        ),
    ] {
        let error = changed::<Case>(&record, table, key, &format!("{key} = {value}"));
        assert_eq!(error.message, message);
    }
}

#[test]
fn a_field_of_the_wrong_type_is_named_with_its_line() {
    let (_folder, record) = copy("case", "case.toml");
    let line = line_number(&record, "spacing_mm");
    let error = changed::<Case>(&record, "[case]", "spacing_mm", "spacing_mm = \"x\"");
    let wanted = "expected an array of length 3";
    assert_eq!(
        error.message,
        format!("line {line} (case.spacing_mm): invalid type: string \"x\", {wanted}")
    );
    let error = changed::<Case>(&record, "[case]", "spacing_mm", "spacing_mm = [1.0, true, 2.0]");
    let start = format!("line {line} (case.spacing_mm[1]): invalid type: boolean `true`, expected");
    assert!(error.message.starts_with(&start), "{error}");
    let line = line_number(&record, "[case]");
    let error = changed::<Case>(&record, "[case]", "labelled", "labeled = true");
    assert_eq!(error.message, format!("line {line} (case): missing field `labelled`"));
    let line = line_number(&record, "[original.geometry]");
    let error = changed::<Case>(&record, "[original.geometry]", "origin_mm", "");
    assert_eq!(
        error.message,
        format!("line {line} (original.geometry): missing field `origin_mm`")
    );
    // A broken line, and headers whose fields have the wrong type.
    let error = changed::<Case>(&record, "[case]", "channels", "channels = = 1");
    let line = line_number(&record, "channels");
    assert!(error.message.starts_with(&format!("line {line}: ")), "{error}");
    let error = changed::<Case>(&record, "[artifact]", "version", "version = \"1\"");
    let line = line_number(&record, "version");
    assert!(error.message.starts_with(&format!("line {line} (artifact.version): ")), "{error}");
    let error = changed::<Case>(&record, "[provenance]", "stage", "stage = 1");
    let line = line_number(&record, "stage");
    assert!(error.message.starts_with(&format!("line {line} (provenance.stage): ")), "{error}");
}

#[test]
fn bytes_that_are_no_text_are_the_files_fault() {
    let (_folder, record) = copy("case", "case.toml");
    spoil(&record, b"[artifact]\nkind = \"\xff\xfe\"\n");
    let error = Record::<Case>::load(&record).unwrap_err();
    assert_eq!((error.fault, error.message.lines().count()), (Fault::Input, 1), "{error}");
    assert_eq!(inspect::verify(&record)[0].fault, Fault::Input);
}
