//! `nnu-artifact`, the real binary: what it prints, and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::nifti::{Geometry, encode_labels};
use artifact::{Commit, npy, npz};
use ndarray::{Array3, arr1, arr2};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code, stdout, stderr without the closing line.
fn run(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nnu-artifact"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let stderr = text(output.stderr);
    let lines = stderr.lines().filter(|l| !l.starts_with("nnu-artifact: done in "));
    let stderr = lines.map(|l| format!("{l}\n")).collect();
    (output.status.code().unwrap(), text(output.stdout), stderr)
}

/// The committed record of a kind's present version.
fn golden(kind: &str) -> PathBuf {
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("../artifact/tests/golden/records");
    let of = |version: u32| records.join(format!("{kind}.{version}"));
    (1..100).rev().map(of).find(|path| path.exists()).unwrap()
}

fn copy(kind: &str, to: &Path) {
    for entry in std::fs::read_dir(golden(kind)).unwrap() {
        let path = entry.unwrap().path();
        put(&to.join(path.file_name().unwrap()), &std::fs::read(&path).unwrap());
    }
}

fn put(path: &Path, bytes: &[u8]) {
    Commit::file(path, bytes).unwrap();
}

#[test]
fn show_tells_what_a_record_is_and_what_lies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    copy("case", folder.path());
    let (code, out, _) = run(&["show", "case.toml"], folder.path());
    let key = out.lines().find(|l| l.starts_with("  key")).unwrap().to_string();
    let expected = format!(
        "case.toml
  kind     case 1
{key}
  stage    example 1.0.0
  seed     7
  option   order = 3
  input    --dataset b3:00
  tables   case original
  file     foreground.npy  <i4 [6, 4]  224 B  min 0  max 3  mean 1.375
  file     image.npy  <f4 [1, 2, 3, 4]  224 B  min 0  max 2.875  mean 1.4375
  file     label.npy  <i2 [2, 3, 4]  176 B  min 0  max 1  mean 0.25
"
    );
    assert_eq!((code, out), (0, expected));
    assert_eq!(run(&["show", "none.toml"], folder.path()).0, 3);
    let (code, _, err) = run(&["show", "/dev/zero"], folder.path());
    assert!(code == 3 && err.contains("is a device, expected a regular file"), "{err}");
}

#[test]
fn verify_accepts_every_committed_record_and_names_each_fault() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [
        "fingerprint",
        "plan",
        "splits",
        "case",
        "batch",
        "model",
        "history",
        "prediction",
        "summary",
        "postprocessing",
    ] {
        copy(kind, &folder.path().join(kind));
    }
    // A model brings its plan and its history.
    let (code, _, err) = run(&["verify", "."], folder.path());
    assert_eq!((code, err.as_str()), (0, "nnu-artifact: 12 files are as they should be\n"));
    put(&folder.path().join("case/label.npy"), b"not an array");
    put(&folder.path().join("splits/splits.toml"), b"[artifact]\nkind = \"splits\"\nversion = 9\n");
    put(&folder.path().join("own.toml"), b"[mine]\n");
    put(&folder.path().join("odd.toml"), b"[artifact]\nkind = \"caes\"\nversion = 1\n");
    std::fs::remove_file(folder.path().join("batch/image.npy")).unwrap();
    let (code, out, err) = run(&["verify", "."], folder.path());
    assert_eq!((code, out.as_str()), (3, ""));
    let errors: Vec<&str> = err.lines().filter(|l| l.contains("error: ")).collect();
    assert_eq!(errors.len(), 5, "{err}");
    assert!(
        errors[0].starts_with("nnu-artifact: error: ./batch/image.npy: cannot read: "),
        "{err}"
    );
    assert!(errors[1].starts_with("nnu-artifact: error: ./case/label.npy: hash is b3:"), "{err}");
    assert_eq!(
        errors[2],
        "nnu-artifact: error: ./odd.toml: artifact.kind = \"caes\", expected a kind of the specification"
    );
    assert_eq!(
        errors[3],
        "nnu-artifact: error: ./splits/splits.toml: artifact.version = 9, expected 1"
    );
    assert_eq!(errors[4], "nnu-artifact: error: 4 faults in 13 files");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(run(&["verify", "."], empty.path()).0, 3);
    assert_eq!(run(&["verify"], empty.path()).0, 2);
}

#[test]
fn diff_of_records_names_fields_and_leaves_provenance_out() {
    let folder = tempfile::tempdir().unwrap();
    copy("history", &folder.path().join("a"));
    copy("history", &folder.path().join("b"));
    let path = folder.path().join("b/history.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    put(&path, text.replace("seed = 7", "seed = 8").as_bytes());
    let files = ["diff", "a/history.toml", "b/history.toml"];
    assert_eq!(run(&files, folder.path()).0, 0);
    let (code, out, _) = run(&[&files[..], &["--provenance"]].concat(), folder.path());
    assert_eq!((code, out.as_str()), (1, "history.toml: provenance.seed = 7 | 8\n"));
    put(&path, text.replace("train_loss = 0.9", "train_loss = 0.9001").as_bytes());
    let (code, out, err) = run(&files, folder.path());
    assert_eq!((code, out.as_str()), (1, "history.toml: epochs[0].train_loss = 0.9 | 0.9001\n"));
    assert_eq!(err, "nnu-artifact: error: a/history.toml and b/history.toml differ (1 lines)\n");
    assert_eq!(run(&[&files[..], &["--abs", "1e-3"]].concat(), folder.path()).0, 0);
    assert_eq!(run(&["diff", "a", "none"], folder.path()).0, 3);
    assert_eq!(run(&["diff", "a", "b/history.toml"], folder.path()).0, 2);
}

#[test]
fn diff_of_arrays_counts_and_places_and_knows_tolerances() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let a = arr2(&[[1.0f32, 2.0], [100.0, f32::NAN]]);
    let mut b = a.clone();
    b[[0, 1]] = 2.5;
    b[[1, 0]] = 101.0;
    put(&at("a.npy"), &npy::encode(&a.view()));
    put(&at("b.npy"), &npy::encode(&b.view()));
    put(&at("c.npy"), &npy::encode(&arr1(&[1i32]).view()));
    let diff = |more: &[&str]| run(&[&["diff"], more].concat(), folder.path());
    assert_eq!(diff(&["a.npy", "a.npy"]).0, 0);
    let line = "a.npy: 2 of 4 values differ, most by 1 at [1, 0] (100 | 101)\n";
    assert_eq!(diff(&["a.npy", "b.npy"]).1, line);
    let line = "a.npy: 1 of 4 values differ, most by 0.5 at [0, 1] (2 | 2.5)\n";
    assert_eq!(diff(&["a.npy", "b.npy", "--rel", "0.01"]).1, line);
    assert_eq!(diff(&["a.npy", "b.npy", "--abs", "0.5", "--rel", "0.005"]).0, 0);
    assert_eq!(diff(&["a.npy", "c.npy"]).1, "a.npy: <f4 [2, 2] | <i4 [1]\n");
    let named = |v: f32| vec![("w".to_string(), arr1(&[v]).into_dyn())];
    put(&at("a.npz"), &npz::encode(&named(1.0)));
    let more = [named(2.0), vec![("v".into(), arr1(&[0.0f32]).into_dyn())]].concat();
    put(&at("b.npz"), &npz::encode(&more));
    let lines =
        "a.npz: v only in the second\na.npz: w: 1 of 1 values differ, most by 1 at [0] (1 | 2)\n";
    assert_eq!(diff(&["a.npz", "b.npz"]).1, lines);
}

#[test]
fn diff_of_images_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut map = Array3::<i16>::zeros((2, 3, 4));
    let image = |map: &Array3<i16>, z: f64| {
        encode_labels(map.view(), &Geometry::plain([2, 3, 4], [z, 1.0, 1.0]), true).unwrap()
    };
    put(&at("a/x.nii.gz"), &image(&map, 1.0));
    map[[1, 2, 3]] = 5;
    put(&at("b/x.nii.gz"), &image(&map, 2.0));
    put(&at("a/t.csv"), b"case,dice\na,0.5\n");
    put(&at("b/t.csv"), b"case,dice\na,0.5001\n");
    put(&at("a/only.txt"), b"");
    let (code, out, _) = run(&["diff", "a", "b"], folder.path());
    let expected = "\
only.txt: only in a
t.csv: differs from line 2
x.nii.gz: spacing [1.0, 1.0, 1.0] mm, expected [2.0, 1.0, 1.0] (z, y, x)
x.nii.gz: 1 of 24 values differ, most by 5 at [0, 1, 2, 3] (0 | 5)
";
    assert_eq!((code, out.as_str()), (1, expected));
}

/// A header that says where the image lies by a sheared sform alone, as nnU-Net's nibabel readers take it.
#[test]
fn images_that_only_nibabel_places_are_shown_compared_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let mut geometry = Geometry::plain([2, 3, 4], [3.0, 1.0, 1.0]);
    geometry.header[252..256].copy_from_slice(&[0, 0, 1, 0]);
    geometry.header[284..288].copy_from_slice(&0.5f32.to_le_bytes());
    for (name, value) in [("a.nii", 1i16), ("b.nii", 2)] {
        let mut map = Array3::<i16>::zeros((2, 3, 4));
        map[[1, 2, 3]] = value;
        put(&folder.path().join(name), &encode_labels(map.view(), &geometry, false).unwrap());
    }
    assert!(artifact::image::read(&folder.path().join("a.nii")).is_err());
    let (code, out, err) = run(&["show", "a.nii"], folder.path());
    assert!(code == 0 && out.contains("[1, 2, 3, 4]"), "{out}{err}");
    let (code, out, err) = run(&["diff", "a.nii", "b.nii"], folder.path());
    assert!(code == 1 && out.contains("1 of 24 values differ"), "{code} {out}{err}");
    let (code, _, err) = run(&["verify", "a.nii"], folder.path());
    assert_eq!(code, 0, "{err}");
}
