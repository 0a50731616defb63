//! Bad input gets one line (file, field, found, expected), the right exit code, and leaves nothing half-written.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use artifact::Commit;
use artifact::nifti::{Geometry, Volume, encode_image, encode_labels, read};
use e2e::programs::{Ended, SMALL_RUN, folder, must_not_skip, run, run_all, tree};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");
const FINGERPRINT: &str = "nnu-fingerprint --dataset {}/data --out {}/again/fingerprint.toml";
const PREPROCESS: &str = "nnu-preprocess --dataset {}/data --plan {}/plan.toml --configuration 3d_fullres --case phantom_000 --out {}/again";
const TRAIN: &str = "nnu-train --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --out {}/again";

/// A finished run up to the cases, made once and copied for each test.
fn prepared() -> tempfile::TempDir {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        run_all(&folder(PHANTOM), root.path(), &SMALL_RUN[..4]);
        root
    });
    let copy = tempfile::tempdir().unwrap();
    for path in tree(made.path()).keys() {
        Commit::file(&copy.path().join(path), &std::fs::read(made.path().join(path)).unwrap())
            .unwrap();
    }
    copy
}

/// Runs a line that must fail: exit code, every fragment on the one error line, no output left.
fn refused(root: &Path, line: &str, code: i32, fragments: &[&str]) -> Ended {
    let ended = run(&folder(PHANTOM), root, line);
    assert_eq!(ended.code, code, "{line}\n{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|l| l.contains("error:")).collect();
    assert!(!errors.is_empty() && !ended.stderr.contains("panicked"), "{}", ended.stderr);
    let found = errors.iter().any(|e| fragments.iter().all(|f| e.contains(f)));
    assert!(found, "expected {fragments:?} on one line of\n{}", ended.stderr);
    if root.join("again").is_dir() {
        let left: Vec<PathBuf> = tree(&root.join("again")).into_keys().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    ended
}

/// A refused data set: the table names the case and the fragments, and nothing is written.
fn reported(root: &Path, fragments: &[&str]) {
    let ended = run(&folder(PHANTOM), root, FINGERPRINT);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let text = format!("{}{}", ended.stdout, ended.stderr);
    for fragment in fragments {
        assert!(text.contains(fragment), "expected {fragment} in\n{text}");
    }
    assert!(!root.join("again/fingerprint.toml").exists());
}

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    Commit::file(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn volume(root: &Path, name: &str) -> (PathBuf, Volume) {
    let path = root.join("data").join(name);
    let volume = read(&path).unwrap();
    (path, volume)
}

#[test]
fn a_truncated_image_is_named_by_fingerprint_and_preprocess() {
    let root = prepared();
    cut(&root.path().join("data/imagesTr/phantom_000.nii.gz"));
    reported(root.path(), &["phantom_000.nii.gz", "unreadable"]);
    refused(root.path(), PREPROCESS, 3, &["phantom_000"]);
}

#[test]
fn a_label_of_another_shape_is_named() {
    let root = prepared();
    let (path, label) = volume(root.path(), "labelsTr/phantom_000.nii.gz");
    let [z, y, x] = label.geometry.shape;
    let other = Geometry::plain([z, y, x + 1], label.geometry.spacing_mm);
    let bytes =
        encode_labels(ndarray::Array3::<u16>::zeros([z, y, x + 1]).view(), &other, true).unwrap();
    Commit::file(&path, &bytes).unwrap();
    reported(root.path(), &["shape", "phantom_000"]);
    refused(root.path(), PREPROCESS, 3, &["phantom_000", "shape"]);
}

#[test]
fn an_undeclared_label_value_is_named() {
    let root = prepared();
    let (path, label) = volume(root.path(), "labelsTr/phantom_000.nii.gz");
    let mut map = label.channels.index_axis(ndarray::Axis(0), 0).mapv(|v| v as u16);
    map[[0, 0, 0]] = 7;
    Commit::file(&path, &encode_labels(map.view(), &label.geometry, true).unwrap()).unwrap();
    reported(root.path(), &["undeclared", "7", "phantom_000"]);
    refused(root.path(), PREPROCESS, 3, &["phantom_000", "7"]);
}

#[test]
fn nan_voxels_are_named() {
    let root = prepared();
    let (path, mut image) = volume(root.path(), "imagesTr/phantom_000.nii.gz");
    image.channels[[0, 1, 1, 1]] = f32::NAN;
    Commit::file(&path, &encode_image(image.channels.view(), &image.geometry, true).unwrap())
        .unwrap();
    reported(root.path(), &["NaN", "phantom_000"]);
}

#[test]
fn a_missing_channel_is_named() {
    let root = prepared();
    let json = root.path().join("data/dataset.json");
    let text = std::fs::read_to_string(&json)
        .unwrap()
        .replace("\"0\": \"MRI\"", "\"0\": \"MRI\", \"1\": \"CT\"");
    Commit::file(&json, text.as_bytes()).unwrap();
    reported(root.path(), &["channel", "phantom_000"]);
}

#[test]
fn a_corrupt_array_stops_the_training_before_it_begins() {
    let root = prepared();
    let ids = ["phantom_000", "phantom_001", "phantom_002"];
    cut(&root.path().join("cases").join(ids[0]).join("image.npy"));
    refused(
        root.path(),
        TRAIN,
        3,
        &["phantom_000/image.npy", "bytes of data, but its header says"],
    );
}

#[test]
fn a_sibling_that_was_changed_is_found_by_verify() {
    let root = prepared();
    let image = root.path().join("cases/phantom_001/image.npy");
    let mut bytes = std::fs::read(&image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    Commit::file(&image, &bytes).unwrap();
    refused(
        root.path(),
        "nnu-artifact verify {}/cases/phantom_001/case.toml",
        3,
        &["image.npy", "hash is b3:"],
    );
}

#[test]
fn a_plan_of_another_version_is_refused_by_every_reader() {
    let root = prepared();
    let plan = root.path().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap().replacen("version = 3", "version = 7", 1);
    Commit::file(&plan, text.as_bytes()).unwrap();
    for line in [PREPROCESS, TRAIN] {
        refused(root.path(), line, 3, &["plan.toml: artifact.version = 7, expected 3"]);
    }
}

#[test]
fn an_unwritable_output_folder_is_refused_before_the_work() {
    let root = prepared();
    // A file where a folder should be can't be written into, whoever asks: root may write anywhere else.
    Commit::file(&root.path().join("file"), b"").unwrap();
    // Trained to its end, this would take hours.
    let train = format!("{TRAIN} --iterations 1000000");
    for line in [FINGERPRINT, PREPROCESS, &train] {
        let line = line.replace("{}/again", "{}/file/again");
        refused(root.path(), &line, 1, &["file/again", "cannot"]);
    }
}

#[test]
fn a_full_disk_ends_with_one_line_and_leaves_nothing() {
    let root = prepared();
    let disk = root.path().join("again");
    std::fs::create_dir(&disk).unwrap();
    let target = disk.display().to_string();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16k", "tmpfs", &target])
        .output();
    if !mount.is_ok_and(|o| o.status.success()) {
        assert!(!must_not_skip(), "a small tmpfs could not be mounted; CI runs as root");
        eprintln!("SKIPPED: mounting a small tmpfs needs root");
        return;
    }
    let ended = run(&folder(PHANTOM), root.path(), PREPROCESS);
    let left: Vec<PathBuf> = tree(&disk).into_keys().collect();
    std::process::Command::new("umount").arg(&target).status().unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn unknown_flags_and_keys_are_usage_errors_with_the_nearest_name() {
    let root = prepared();
    let ended = refused(root.path(), &format!("{TRAIN} --epoch 3"), 2, &["--epoch"]);
    assert!(ended.stderr.contains("--epochs"), "{}", ended.stderr);
    let plan = "nnu-plan --fingerprint {}/fingerprint.toml --out {}/again/plan.toml --set schedule.epoch=3";
    let ended = refused(root.path(), plan, 2, &["schedule.epoch"]);
    assert!(ended.stderr.contains("schedule.epochs"), "{}", ended.stderr);
}
