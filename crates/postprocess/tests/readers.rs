//! Label maps are read as their data set's images are, also where no plan is given: by the records of the predictions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use artifact::image::Reader;
use artifact::nifti::{Geometry, encode_labels};
use artifact::prediction::Prediction;
use artifact::summary::Summary;
use artifact::{Commit, Record, inspect};
use std::path::Path;
use world::{SHAPE, fails, labels, plan, probabilities, run, succeeds, truth, write_placed};

/// The header says where the image lies by a sheared sform alone: nibabel takes it, ITK refuses it.
fn sheared() -> Geometry {
    let mut geometry = Geometry::plain(SHAPE, [3.0, 1.0, 1.0]);
    let mut put = |at: usize, bytes: &[u8]| {
        geometry.header[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(252, &[0, 0, 1, 0]);
    let rows = [[1.0f32, 0.08, 0.0, 5.0], [0.0, 1.0, 0.0, 3.0], [0.0, 0.05, 3.0, 4.0]];
    for (row, values) in rows.iter().enumerate() {
        put(280 + 16 * row, &values.map(f32::to_le_bytes).concat());
    }
    geometry
}

/// x runs the other way, and so the first voxel is the other side's.
fn flipped() -> Geometry {
    let direction = [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    Geometry::placed(SHAPE, [3.0, 1.0, 1.0], [9.0, 0.0, 0.0], direction)
}

/// `labels/`, `plan.toml`, and two models' predictions `one/`, `two/`.
fn data(reader: Reader, geometry: &Geometry) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let name = toml::Value::try_from(reader).unwrap();
    let text = plan("paper", "").replacen("[dataset]", &format!("[dataset]\nreader = {name}"), 1);
    Commit::file(&at("plan.toml"), text.as_bytes()).unwrap();
    for case in ["a", "b"] {
        let bytes = encode_labels(truth().view(), geometry, true).unwrap();
        Commit::file(&at(&format!("labels/{case}.nii.gz")), &bytes).unwrap();
        for (model, weak) in [("one", 1), ("two", 2)] {
            write_placed(&at(model), case, &probabilities(weak, 1), model, (geometry, reader));
        }
    }
    folder
}

fn edit(record: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(record).unwrap();
    assert!(text.contains(from), "{text}");
    Commit::file(record, text.replacen(from, to, 1).as_bytes()).unwrap();
}

const EVALUATE: &str = "evaluate --labels labels --out s.toml --force --predictions";
const APPLY: &str = "apply --predictions one --postprocessing rules.toml --out clean";
const ENSEMBLE: &str = "ensemble --predictions one --predictions two --out mean";
const FIT: &str = "fit --labels labels --predictions one --plan plan.toml --out rules.toml";

fn summary(line: &str, folder: &Path) -> Summary {
    succeeds(line, folder);
    Record::load(&folder.join("s.toml")).unwrap().body
}

#[test]
fn images_that_only_nibabel_places_go_through_every_task_without_a_plan() {
    let data = data(Reader::Nibabel, &sheared());
    let at = |path: &str| data.path().join(path);
    assert!(Reader::SimpleItk.read(&at("labels/a.nii.gz")).is_err());
    let planned = summary(&format!("{EVALUATE} one --plan plan.toml"), data.path());
    assert_eq!(summary(&format!("{EVALUATE} one"), data.path()), planned);
    for line in [FIT, APPLY, ENSEMBLE] {
        succeeds(line, data.path());
    }
    for record in ["clean/a/prediction.toml", "mean/b/prediction.toml"] {
        let faults = inspect::verify(&at(record));
        assert!(faults.is_empty(), "{faults:?}");
        let body = Record::<Prediction>::load(&at(record)).unwrap().body;
        assert_eq!((body.prediction.reader, body.labels), (Reader::Nibabel, labels()));
    }
    // What they wrote can be worked on in turn.
    summary(&format!("{EVALUATE} clean"), data.path());
    summary(&format!("{EVALUATE} mean"), data.path());
}

#[test]
fn records_of_different_readers_are_refused_and_failed_cases_leave_nothing() {
    let data = data(Reader::Nibabel, &sheared());
    let at = |path: &str| data.path().join(path);
    succeeds(FIT, data.path());
    let check = |line: &str, expected: &str| {
        let (code, text) = fails(line, data.path());
        assert_eq!((code, text.lines().next().unwrap()), (3, expected), "{line}");
        text
    };
    let line = "reader = \"nibabel\"\n";
    edit(&at("two/a/prediction.toml"), line, "");
    check(
        &format!("{ENSEMBLE} --threads 1"),
        "case a: two/a/prediction.toml: is read by SimpleITKIO, but one/a/prediction.toml says NibabelIO",
    );
    // The other case had one reader.
    assert!(at("mean/b/prediction.toml").is_file() && !at("mean/a").exists());
    std::fs::remove_dir_all(at("mean")).unwrap();
    edit(&at("one/b/prediction.toml"), line, "reader = \"simple_itk_ras\"\n");
    let mixed = "one/b/prediction.toml: is read by SimpleITKIOWithReorient, but one/a/prediction.toml says NibabelIO";
    check(APPLY, mixed);
    check(&format!("{EVALUATE} one"), mixed);
    check(FIT, mixed);
    edit(&at("one/a/prediction.toml"), line, "reader = \"simple_itk_ras\"\n");
    let other =
        "one/a/prediction.toml: is read by SimpleITKIOWithReorient, but plan.toml says NibabelIO";
    check(FIT, other);
    check(&format!("{EVALUATE} one --plan plan.toml"), other);
    // Records that name no reader: read as ever, which fails here; a plan helps.
    for case in ["a", "b"] {
        let record = at(&format!("one/{case}/prediction.toml"));
        edit(&record, "reader = \"simple_itk_ras\"\n", "");
    }
    edit(&at("two/b/prediction.toml"), line, "");
    for (line, out) in [(APPLY, "clean"), (ENSEMBLE, "mean")] {
        let (code, text) = fails(line, data.path());
        assert!(code == 3 && text.contains("not a rotation"), "{text}");
        assert!(!at(out).exists(), "{line}");
    }
    let (code, text) = fails(&format!("{EVALUATE} one"), data.path());
    assert!(code == 3 && text.contains("hint: ") && text.contains("give --plan"), "{text}");
    summary(&format!("{EVALUATE} one --plan plan.toml"), data.path());
    // Probabilities cut short: known before the output's folder is made.
    edit(&at("two/a/prediction.toml"), "case = \"a\"\n", "case = \"a\"\nreader = \"nibabel\"\n");
    edit(&at("one/a/prediction.toml"), "case = \"a\"\n", "case = \"a\"\nreader = \"nibabel\"\n");
    Commit::file(&at("two/a/probabilities.npy"), b"no array").unwrap();
    assert_eq!(fails(ENSEMBLE, data.path()).0, 3);
    assert!(!at("mean/a").exists());
}

#[test]
fn maps_of_a_reader_that_turns_are_laid_as_it_says_without_a_plan() {
    let data = data(Reader::NibabelRas, &Geometry::plain(SHAPE, [3.0, 1.0, 1.0]));
    let at = |path: &str| data.path().join(path);
    let right = summary(&format!("{EVALUATE} one"), data.path());
    assert!(right.mean.foreground_dice > 0.8, "{right:?}");
    // The same labels as another program stores them.
    for case in ["a", "b"] {
        let turned = truth().slice(ndarray::s![.., .., ..;-1]).to_owned();
        let bytes = encode_labels(turned.view(), &flipped(), true).unwrap();
        Commit::file(&at(&format!("labels/{case}.nii.gz")), &bytes).unwrap();
    }
    assert_eq!(summary(&format!("{EVALUATE} one"), data.path()), right);
    // Without records nobody knows: compared as stored, with a warning that says what would help.
    for case in ["a", "b"] {
        let map = std::fs::read(at(&format!("one/{case}/segmentation.nii.gz"))).unwrap();
        Commit::file(&at(&format!("plain/{case}.nii.gz")), &map).unwrap();
    }
    let said = |line: &str| {
        let output = run(&line.split(' ').collect::<Vec<_>>(), data.path());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let line = format!("{EVALUATE} plain");
    let warned = said(&line);
    assert!(warned.contains("is turned against") && warned.contains("give --plan"), "{warned}");
    assert!(!said(&format!("{line} --plan plan.toml")).contains("warning"));
}
