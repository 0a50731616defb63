//! `ensemble`: the mean, what is written, what is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use artifact::prediction::Prediction;
use artifact::{Commit, Record, inspect, nifti, npy};
use half::f16;
use ndarray::{Array4, Axis, Ix4};
use world::{configuration, fails, probabilities, run, succeeds, truth, world, write_prediction};

const A: &str = "--predictions predictions/3d_fullres/fold_0";
const B: &str = "--predictions predictions/2d/fold_0";

fn line(more: &str) -> String {
    format!("ensemble {A} {B} --out mean {more}")
}

fn members() -> tempfile::TempDir {
    let folder = world();
    configuration(folder.path(), "3d_fullres", 2, 2);
    configuration(folder.path(), "2d", 1, 1);
    folder
}

#[test]
fn the_mean_is_written_with_its_segmentation_and_on_demand_its_probabilities() {
    let data = members();
    succeeds(&line("--probabilities"), data.path());
    let half = |maps: Array4<f32>| maps.mapv(|p| f16::from_f32(p).to_f32());
    let sum = half(probabilities(2, 2)) + half(probabilities(1, 1));
    let expected = sum.mapv(|p| f16::from_f32(p / 2.0).to_f32());
    for case in ["a", "b"] {
        let folder = data.path().join("mean").join(case);
        let faults = inspect::verify(&folder.join("prediction.toml"));
        assert!(faults.is_empty(), "{faults:?}");
        let found = npy::read_f16::<Ix4>(&folder.join("probabilities.npy")).unwrap();
        assert_eq!(found, expected);
        let map = nifti::read(&folder.join("segmentation.nii.gz")).unwrap();
        let mut right = truth();
        right[[0, 11, 9]] = 1;
        assert_eq!(map.channels.index_axis(Axis(0), 0), right.mapv(f32::from));
        assert_eq!(map.geometry.spacing_mm, [3.0, 1.0, 1.0]);
    }
    let record = data.path().join("mean/a/prediction.toml");
    let before = std::fs::read(&record).unwrap();
    let body = Record::<Prediction>::load(&record).unwrap().body;
    assert_eq!(body.prediction.class_voxels, [437, 25, 18]);
    let again = run(&line("--probabilities").split(' ').collect::<Vec<_>>(), data.path());
    assert_eq!(String::from_utf8_lossy(&again.stderr).matches("is up to date").count(), 2);
    succeeds(&line("--probabilities --force --threads 1"), data.path());
    assert!(std::fs::read(&record).unwrap() == before);
    // Without them the old ones go too, and the segmentation is the same.
    succeeds(&line(""), data.path());
    assert!(!data.path().join("mean/a/probabilities.npy").exists());
    assert!(inspect::verify(&record).is_empty());
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_fails_alone() {
    use std::os::unix::ffi::OsStrExt;
    let data = members();
    for member in ["3d_fullres", "2d"] {
        let folder = data.path().join(format!("predictions/{member}/fold_0"));
        let map = folder.join("a/segmentation.nii.gz");
        std::fs::copy(map, folder.join(std::ffi::OsStr::from_bytes(b"c\xff.nii.gz"))).unwrap();
    }
    let output = run(&line("").split_whitespace().collect::<Vec<_>>(), data.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    for member in ["3d_fullres", "2d"] {
        let named = format!("error: predictions/{member}/fold_0/c\u{fffd}.nii.gz: has a name that");
        assert!(said.contains(&named), "{said}");
    }
    assert!(said.ends_with("nnu-postprocess: error: 2 of 4 cases failed\n"), "{said}");
    for case in ["a", "b"] {
        assert!(data.path().join(format!("mean/{case}/prediction.toml")).is_file());
    }
}

#[test]
fn members_that_do_not_fit_are_refused_in_one_line() {
    let data = members();
    let at = |path: &str| data.path().join(path);
    let check = |line: &str, code: i32, expected: &str| {
        let (found, text) = fails(line, data.path());
        assert_eq!((found, text.lines().next().unwrap()), (code, expected));
    };
    let alone = format!("ensemble {A} --out mean");
    check(&alone, 2, "--predictions is given once, expected at least two folders");
    let same = line("").replace("--out mean", "--out predictions/2d/fold_0");
    check(
        &same,
        2,
        "--out predictions/2d/fold_0: is --predictions predictions/2d/fold_0, which is read; expected another path",
    );
    std::os::unix::fs::symlink(at("predictions/2d/fold_0/a"), at("predictions/a")).unwrap();
    check(
        &line("").replace("--out mean", "--out predictions"),
        2,
        "predictions/2d/fold_0/a/segmentation.nii.gz: would be written for --out, and is read for --predictions",
    );
    let other = "--predictions predictions/2d/fold_1";
    check(
        &format!("ensemble {A} {other} --out mean"),
        3,
        "predictions/2d/fold_1: no prediction of a, which predictions/3d_fullres/fold_0 has",
    );
    check(
        &format!("ensemble {A} --predictions labels --out mean"),
        3,
        "predictions/3d_fullres/fold_0: no prediction of c, which labels has",
    );
    std::fs::remove_dir_all(at("predictions/2d/fold_0/b")).unwrap();
    std::fs::remove_dir_all(at("predictions/3d_fullres/fold_0/b")).unwrap();
    let member = at("predictions/2d/fold_0/a/prediction.toml");
    let text = std::fs::read_to_string(&member).unwrap();
    Commit::file(&member, text.replace("\"cube\"", "\"block\"").as_bytes()).unwrap();
    check(
        &line(""),
        3,
        "case a: predictions/2d/fold_0/a/prediction.toml: labels are background = 0, sphere = 1, block = 2, but predictions/3d_fullres/fold_0/a/prediction.toml says background = 0, sphere = 1, cube = 2",
    );
    write_prediction(
        &at("predictions/2d/fold_0"),
        "a",
        &probabilities(1, 1).slice(ndarray::s![.., ..3, .., ..]).to_owned(),
        "w",
    );
    check(
        &line(""),
        3,
        "case a: predictions/2d/fold_0/a/segmentation.nii.gz: shape [3, 12, 10], expected [4, 12, 10] (z, y, x) as in predictions/3d_fullres/fold_0/a/segmentation.nii.gz",
    );
    write_prediction(&at("predictions/2d/fold_0"), "a", &probabilities(1, 1), "w");
    let logits = probabilities(1, 1).mapv(|p| f16::from_f32(4.0 * p));
    let path = at("predictions/2d/fold_0/a/probabilities.npy");
    Commit::file(&path, &npy::encode(&logits.view())).unwrap();
    let (code, text) = fails(&line(""), data.path());
    assert_eq!(code, 3);
    assert!(
        text.starts_with("case a: predictions/2d/fold_0/a/probabilities.npy: holds 3."),
        "{text}"
    );
    Commit::file(&path, &npy::encode(&probabilities(1, 1).view())).unwrap();
    check(
        &line(""),
        3,
        "case a: predictions/2d/fold_0/a/probabilities.npy: holds <f4, expected <f2 (f16)",
    );
    let two = logits.slice(ndarray::s![..2, .., .., ..]);
    Commit::file(&path, &npy::encode(&two)).unwrap();
    check(
        &line(""),
        3,
        "case a: predictions/2d/fold_0/a/probabilities.npy: has shape [2, 4, 12, 10], expected [3, 4, 12, 10] (output, z, y, x)",
    );
    std::fs::remove_file(&path).unwrap();
    let (code, text) = fails(&line(""), data.path());
    assert_eq!(code, 3);
    assert!(text.contains("predictions/2d/fold_0/a/probabilities.npy: missing, but"), "{text}");
    Commit::file(&member, without_files(&std::fs::read_to_string(&member).unwrap()).as_bytes())
        .unwrap();
    let expected = "case a: predictions/2d/fold_0/a/prediction.toml: no probabilities, expected probabilities.npy beside it\n  hint: predict with probabilities: nnu-infer --probabilities";
    assert_eq!(fails(&line(""), data.path()), (3, expected.into()));
}

/// A record as a foreign stage writes it: no hashes.
fn without_files(text: &str) -> String {
    let mut table: toml::Table = text.parse().unwrap();
    table["artifact"].as_table_mut().unwrap().remove("files");
    toml::to_string(&table).unwrap()
}
