//! Records on disk: committed files of every kind still load and are written again byte for byte; outputs appear complete
//! or not at all; what is changed, cut off or lies is refused with one line.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::case::OpenCase;
use artifact::fingerprint::Fingerprint;
use artifact::model::{History, Model};
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Prediction;
use artifact::previous::Previous;
use artifact::selection::Selection;
use artifact::splits::{Fold, Splits};
use artifact::summary::Summary;
use artifact::{
    Commit, Fault, Kind, Provenance, Record, batch, case::Case, hash_bytes, inspect, up_to_date,
};
use ndarray::Array1;
use std::path::{Path, PathBuf};

fn golden(kind: &str, version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/records/{kind}.{version}"))
}

#[expect(clippy::disallowed_methods, reason = "tests spoil files on purpose")]
fn spoil(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Reads the committed record of a kind and writes it again.
fn round_trip<T: Kind>(version: u32, record: &str) {
    let folder = golden(T::KIND, version);
    let path = folder.join(record);
    assert_eq!(inspect::verify(&path).iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    let read = Record::<T>::load(&path).unwrap();
    let out = tempfile::tempdir().unwrap();
    let again = out.path().join("new").join(record);
    let mut commit = Commit::begin(&again).unwrap();
    for name in read.header.files.keys() {
        commit.bytes(name, &std::fs::read(folder.join(name)).unwrap()).unwrap();
    }
    commit.finish(&read.provenance, &read.body).unwrap();
    let (old, new) = (std::fs::read_to_string(&path), std::fs::read_to_string(&again));
    assert_eq!(old.unwrap(), new.unwrap(), "{} {version}", T::KIND);
    assert!(up_to_date::<T>(&again, &read.header.key));
    assert!(!up_to_date::<T>(&again, &hash_bytes(b"another")));
}

#[test]
fn committed_records_of_every_kind_are_read_and_written_byte_for_byte() {
    round_trip::<Fingerprint>(2, "fingerprint.toml");
    round_trip::<Plan>(3, "plan.toml");
    round_trip::<Splits>(1, "splits.toml");
    round_trip::<Case>(1, "case.toml");
    round_trip::<batch::Batch>(1, "batch.toml");
    round_trip::<Model>(1, "model.toml");
    round_trip::<History>(1, "history.toml");
    round_trip::<Prediction>(1, "prediction.toml");
    round_trip::<Summary>(1, "summary.toml");
    round_trip::<Postprocessing>(1, "postprocess.toml");
    round_trip::<Previous>(1, "previous.toml");
    round_trip::<Selection>(1, "selection.toml");
}

fn splits() -> Splits {
    let fold = |t: &str, v: &str| Fold { train: vec![t.into()], validation: vec![v.into()] };
    Splits { folds: vec![fold("a", "b"), fold("b", "a")] }
}

/// A record with one array beside it.
fn written(folder: &Path) -> PathBuf {
    let record = folder.join("splits.toml");
    let mut commit = Commit::begin(&record).unwrap();
    commit.npy("x.npy", &Array1::from_vec(vec![1.0f32, 2.0]).view()).unwrap();
    commit.finish(&Provenance::default(), &splits()).unwrap();
    record
}

#[test]
fn an_abandoned_output_leaves_no_file_and_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    let mut commit = Commit::begin(&record).unwrap();
    commit.bytes("x.npy", b"abc").unwrap();
    drop(commit);
    assert_eq!(names(folder.path()), [""; 0]);
    written(folder.path());
    let before = std::fs::read(&record).unwrap();
    let mut commit = Commit::begin(&record).unwrap();
    commit.bytes("x.npy", b"abc").unwrap();
    drop(commit);
    assert_eq!(names(folder.path()), ["splits.toml", "x.npy"]);
    assert_eq!(std::fs::read(&record).unwrap(), before);
    Record::<Splits>::load(&record).unwrap().verify(&record).unwrap();
}

#[test]
fn an_output_that_fails_its_own_checks_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    let mut commit = Commit::begin(&record).unwrap();
    commit.bytes("x.npy", b"abc").unwrap();
    let error = commit.finish(&Provenance::default(), &Splits { folds: vec![] }).unwrap_err();
    assert_eq!(error.message, "folds is empty, expected at least one");
    assert_eq!(names(folder.path()), [""; 0]);
}

/// A folder stands where a sibling should go, so that moving the files into place breaks off after the first.
#[test]
fn an_output_that_breaks_off_between_siblings_and_record_leaves_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let record = written(folder.path());
    std::fs::create_dir_all(folder.path().join("y.npy/in_the_way")).unwrap();
    let mut commit = Commit::begin(&record).unwrap();
    commit.bytes("x.npy", b"new").unwrap();
    commit.bytes("y.npy", b"new").unwrap();
    let error = commit.finish(&Provenance::default(), &splits()).unwrap_err();
    assert_eq!(error.fault, Fault::Io);
    assert!(error.to_string().starts_with(&folder.path().join("y.npy").display().to_string()));
    assert_eq!(names(folder.path()), ["x.npy", "y.npy"]);
    assert!(!up_to_date::<Splits>(&record, &Provenance::default().key::<Splits>()));
}

#[test]
fn what_a_killed_process_left_is_no_output_and_does_not_stop_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let killed = [".splits.toml.0123456789abcdef.partial", ".splits.toml.fedcba9876543210.partial"];
    let leave = || {
        spoil(&folder.path().join(".splits.toml.lock"), b"");
        killed.iter().for_each(|name| spoil(&folder.path().join(name), b"half a rec"));
    };
    leave();
    spoil(&folder.path().join("x.npy"), b"a sibling that was moved already");
    assert!(!up_to_date::<Splits>(&folder.path().join("splits.toml"), ""));
    let record = written(folder.path());
    assert_eq!(names(folder.path()), ["splits.toml", "x.npy"]);
    Record::<Splits>::load(&record).unwrap().verify(&record).unwrap();
    // Killed behind its last rename: the output is up to date, and what is asking tidies up. Others' files stay.
    leave();
    spoil(&folder.path().join(".splits.toml.notes.partial"), b"mine");
    assert!(up_to_date::<Splits>(&record, &Provenance::default().key::<Splits>()));
    assert_eq!(names(folder.path()), [".splits.toml.notes.partial", "splits.toml", "x.npy"]);
}

#[test]
fn a_changed_or_missing_sibling_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let record = written(folder.path());
    let sibling = folder.path().join("x.npy");
    let mut bytes = std::fs::read(&sibling).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    spoil(&sibling, &bytes);
    let faults = inspect::verify(&record);
    assert_eq!(faults.len(), 1);
    let line = faults[0].to_string();
    assert!(line.starts_with(&format!("{}: hash is b3:", sibling.display())), "{line}");
    assert!(line.contains("splits.toml says b3:"), "{line}");
    std::fs::remove_file(&sibling).unwrap();
    let error = Record::<Splits>::load(&record).unwrap_err();
    assert_eq!(error.path, sibling);
    assert_eq!(error.message, format!("missing, but {} lists it", record.display()));
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    for name in ["../secret", "/etc/passwd", "..", "a\\\\b", ""] {
        let text = format!(
            "[artifact]\nkind = \"splits\"\nversion = 1\n[artifact.files]\n\"{name}\" = \"\"\n[[folds]]\ntrain = [\"a\"]\nvalidation = []\n"
        );
        spoil(&record, text.as_bytes());
        let error = Record::<Splits>::load(&record).unwrap_err();
        let shown = name.replace("\\\\", "\\");
        let expected =
            format!("artifact.files names \"{shown}\", expected a file beside the record");
        assert_eq!(error.message, expected);
    }
    let source = golden("prediction", 1).join("prediction.toml");
    let text = std::fs::read_to_string(source).unwrap();
    for (from, to, field) in [
        ("case = \"case_00\"", "case = \"../../case\"", "prediction.case = \"../../case\""),
        (
            "segmentation = \"segmentation.nii.gz\"",
            "segmentation = \"/tmp/x.nii\"",
            "prediction.segmentation = \"/tmp/x.nii\"",
        ),
    ] {
        assert!(text.contains(from));
        spoil(&folder.path().join("prediction.toml"), text.replace(from, to).as_bytes());
        let error = Record::<Prediction>::load(&folder.path().join("prediction.toml")).unwrap_err();
        assert_eq!(error.message, format!("{field}, expected a plain name"));
    }
}

#[test]
fn another_kind_version_or_syntax_is_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    for (text, message) in [
        ("", "is empty, expected a record"),
        (" \n", "is empty, expected a record"),
        ("folds = []", "no [artifact] table, expected one with kind and version"),
        ("[artifact]\nversion = 1", "line 1 (artifact): missing field `kind`"),
        (
            "[artifact]\nkind = \"plan\"\nversion = 2",
            "artifact.kind = \"plan\", expected \"splits\"",
        ),
        ("[artifact]\nkind = \"splits\"\nversion = 2", "artifact.version = 2, expected 1"),
        ("[artifact]\nkind = \"splits\"\nversion = 1", "missing field `folds`"),
    ] {
        spoil(&record, text.as_bytes());
        let error = Record::<Splits>::load(&record).unwrap_err();
        assert_eq!((error.fault, error.message.as_str()), (Fault::Input, message));
    }
    spoil(&record, b"[artifact\n");
    let error = Record::<Splits>::load(&record).unwrap_err();
    assert!(!error.message.contains('\n') && !error.message.is_empty(), "{error}");
    spoil(&record, b"\xff\xfe");
    assert_eq!(Record::<Splits>::load(&record).unwrap_err().message.lines().count(), 1);
}

#[test]
fn verify_finds_what_the_hashes_of_a_foreign_stage_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("case", 1);
    for name in names(&source) {
        std::fs::copy(source.join(&name), folder.path().join(&name)).unwrap();
    }
    let record = folder.path().join("case.toml");
    // As a foreign stage writes it: no hashes.
    let text = std::fs::read_to_string(&record).unwrap();
    let start = text.find("[artifact.files]").unwrap();
    let end = start + text[start..].find("[provenance]").unwrap();
    spoil(&record, format!("{}{}", &text[..start], &text[end..]).as_bytes());
    assert!(inspect::verify(&record).is_empty());
    let label = folder.path().join("label.npy");
    let good = std::fs::read(&label).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 2;
    bad[at..].copy_from_slice(&7i16.to_le_bytes());
    spoil(&label, &bad);
    let faults = inspect::verify(&record);
    assert_eq!(
        faults[0].message,
        "holds class 7 at voxel [1, 2, 3] (z, y, x), expected -1 to 1 (2 classes)"
    );
    spoil(&label, &good);
    let image = folder.path().join("image.npy");
    let mut bad = std::fs::read(&image).unwrap();
    let at = bad.len() - 4;
    bad[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    spoil(&image, &bad);
    let line = "value 23 is NaN or infinite, expected numbers";
    assert_eq!(inspect::verify(&record)[0].message, line);
    // Whoever computes with it asks no verify first.
    let error = OpenCase::open(&record).unwrap_err();
    assert_eq!((error.path, error.message.as_str()), (image, line));
}

/// Root may write anywhere, so permissions don't stop it; a file where the folder should be stops everyone.
#[test]
fn an_unwritable_folder_is_reported_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    spoil(&file, b"");
    let error = Commit::begin(&file.join("splits.toml")).unwrap_err();
    assert_eq!(error.path, file);
    assert!(error.message.starts_with("cannot make this folder: "), "{error}");
    // The kernel's own file system takes no files, not even from root.
    let error = Commit::begin(Path::new("/proc/splits.toml")).unwrap_err();
    assert!(error.message.starts_with("cannot write: "), "{error}");
}

/// A disk of 64 KiB that fills up while the sibling is written.
#[test]
#[expect(clippy::disallowed_methods, reason = "CI runs as root, which may mount")]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(folder.path())
        .output();
    if !mount.is_ok_and(|m| m.status.success()) {
        let ci = std::env::var("CI").is_ok_and(|v| v == "true");
        assert!(!ci, "a full disk needs the right to mount a tmpfs");
        eprintln!("SKIPPED: a full disk needs the right to mount a tmpfs");
        return;
    }
    let record = folder.path().join("splits.toml");
    let mut commit = Commit::begin(&record).unwrap();
    let written = commit.bytes("x.npy", &vec![1; 100_000]);
    drop(commit);
    let left = names(folder.path());
    let unmounted = std::process::Command::new("umount").arg(folder.path()).status();
    assert!(unmounted.is_ok_and(|s| s.success()));
    let error = written.unwrap_err();
    assert_eq!(error.fault, Fault::Io);
    assert!(error.message.starts_with("cannot write: No space left on device"), "{error}");
    assert_eq!(left, [""; 0]);
}
