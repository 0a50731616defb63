//! Bytes that change without a raised revision are noticed: each stage's outputs on phantoms are held against
//! `golden/revisions.toml`, which names the revisions that made them.
//!
//! Results in f32 differ in their last bits between kinds of CPU, so bytes can't be compared. Compared are, of each file:
//!
//! - of a record, all texts and whole numbers, exactly, by a hash; its fractions one by one, to 1e-5 of their value;
//! - of an array, its length and eight sums of its values with signs drawn for their places. A value that is off by δ moves
//!   each sum by δ. Sums may be off by 1e-4 of the array's root of its sum of squares: rounding moves them by at most some
//!   1e-6 of it (a network of eight layers and two steps of training included), so its last bits can't be taken for a
//!   change; what moves no sum so far has changed the whole array by less than about that;
//! - of an array of classes or positions the same, off by as much as two flipped voxels move a sum: where a threshold or the
//!   greatest of several sums decides, rounding may decide for another class, for a voxel in a million.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use artifact::npy::Mapped;
use artifact::{Commit, hash_bytes, image, npz};
use e2e::programs::{SMALL_RUN, folder, run, run_all};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");
const CHANGELOG: &str = include_str!("../../crates/CHANGELOG.md");

/// Stages in order, and where their outputs lie. A stage reads those of earlier ones, so the first that differs is the one
/// whose code, or that of a crate it computes with, has changed.
const STAGES: [(&str, &[&str]); 7] = [
    ("fingerprint", &["fingerprint.toml"]),
    ("plan", &["plan.toml", "splits.toml"]),
    ("preprocess", &["cases"]),
    ("augment", &["spool"]),
    ("train", &["model"]),
    ("infer", &["validation", "test"]),
    ("postprocess", &["summary.toml", "postprocess.toml", "final"]),
];

/// Signs drawn for an array's places.
const SUMS: usize = 8;

type Revisions = BTreeMap<String, u32>;

/// What is kept of a stage's outputs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Golden {
    /// Of all code that decides them, earlier stages' left out.
    revisions: Revisions,
    files: BTreeMap<String, Summary>,
}

/// What is kept of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Summary {
    Record { exact: String, fractions: Vec<f64> },
    Array { length: usize, classes: bool, scale: f64, sums: Vec<f64> },
}

fn array(values: impl Iterator<Item = f64>, classes: bool) -> Summary {
    let mut signs = stage::rng(0, &[stage::word("signs")]);
    let (mut length, mut squares, mut greatest) = (0, 0.0, 0f64);
    let mut sums = vec![0.0; SUMS];
    for value in values {
        let drawn: u32 = signs.random();
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += if drawn >> i & 1 == 0 { value } else { -value };
        }
        length += 1;
        squares += value * value;
        greatest = greatest.max(value.abs());
    }
    Summary::Array {
        length,
        classes,
        scale: if classes { greatest } else { f64::sqrt(squares) },
        sums,
    }
}

fn record(path: &Path) -> (Summary, Revisions) {
    let record = artifact::inspect::AnyRecord::load(path).unwrap();
    let mut text = format!("{} {}\n", record.header.kind, record.header.version);
    let mut fractions = Vec::new();
    flatten("", &record.body.into(), &mut text, &mut fractions);
    (Summary::Record { exact: hash_bytes(text.as_bytes()), fractions }, record.provenance.revisions)
}

fn flatten(at: &str, value: &toml::Value, text: &mut String, fractions: &mut Vec<f64>) {
    match value {
        toml::Value::Float(v) => {
            fractions.push(*v);
            *text += &format!("{at}\n");
        }
        toml::Value::Table(table) => {
            table.iter().for_each(|(k, v)| flatten(&format!("{at}.{k}"), v, text, fractions));
        }
        toml::Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(i, v)| flatten(&format!("{at}[{i}]"), v, text, fractions));
        }
        other => *text += &format!("{at} = {other}\n"),
    }
}

/// What is kept of a file; pictures, tables and the state of a training are made of what other files hold.
fn summary(path: &Path) -> Option<Summary> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let classes = ["label.npy", "foreground.npy"].contains(&name);
    if name.starts_with("checkpoint") || name.starts_with('.') {
        None
    } else if name.ends_with(".toml") {
        Some(record(path).0)
    } else if name.ends_with(".npy") {
        let mapped = Mapped::open(path).unwrap();
        Some(array(mapped.values().unwrap(), classes))
    } else if name.ends_with(".npz") {
        let arrays = npz::read(path).unwrap();
        Some(array(arrays.iter().flat_map(|(_, a)| a.iter().map(|&v| f64::from(v))), false))
    } else if name.ends_with(".nii.gz") {
        let volume = image::read(path).unwrap();
        let values: Vec<f64> = volume.channels.iter().map(|&v| f64::from(v)).collect();
        Some(array(values.into_iter(), true))
    } else {
        None
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.into()];
    }
    let mut below: Vec<PathBuf> =
        std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    below.sort();
    below.iter().flat_map(|path| files(path)).collect()
}

/// Runs all stages on phantoms.
fn measured() -> BTreeMap<String, Golden> {
    let (programs, root) = (folder(PHANTOM), tempfile::tempdir().unwrap());
    let cpu = " --device cpu --precision f32 ";
    let lines: Vec<String> = SMALL_RUN
        .iter()
        .filter(|line| !line.contains("describe"))
        .map(|line| match line.split(' ').next().unwrap() {
            "nnu-train" => format!("{line}{cpu}--epochs 1 --iterations 2"),
            "nnu-infer" => format!("{line}{cpu}--probabilities"),
            "nnu-augment" => line.replace("--preview {}/preview.png", "--batches 2 --out {}/spool"),
            _ => (*line).to_string(),
        })
        .collect();
    run_all(&programs, root.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let of_stage = |places: &[&str]| {
        let files = places.iter().flat_map(|place| files(&root.path().join(place)));
        let mut golden = Golden::default();
        for file in files {
            let Some(summary) = summary(&file) else { continue };
            if matches!(summary, Summary::Record { .. }) {
                golden.revisions.extend(record(&file).1);
            }
            let name = file.strip_prefix(root.path()).unwrap().to_str().unwrap().to_string();
            golden.files.insert(name, summary);
        }
        golden
    };
    STAGES.iter().map(|(stage, places)| ((*stage).to_string(), of_stage(places))).collect()
}

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/revisions.toml")
}

fn near(found: f64, expected: f64, tolerance: f64) -> bool {
    (found.is_nan() && expected.is_nan()) || (found - expected).abs() <= tolerance
}

/// Where two summaries of a file differ by more than rounding explains.
fn difference(found: &Summary, expected: &Summary) -> Option<String> {
    match (found, expected) {
        (
            Summary::Record { exact, fractions },
            Summary::Record { exact: exact_before, fractions: before },
        ) => {
            if exact != exact_before || fractions.len() != before.len() {
                return Some("other fields, texts or whole numbers".into());
            }
            let pair =
                fractions.iter().zip(before).find(|(f, b)| !near(**f, **b, 1e-5 * b.abs() + 1e-9));
            pair.map(|(found, before)| format!("{found}, before {before}"))
        }
        (
            Summary::Array { length, classes, scale, sums },
            Summary::Array { length: length_before, scale: scale_before, sums: before, .. },
        ) => {
            let voxels = length.abs_diff(*length_before);
            // A flipped voxel is a row of positions more or fewer.
            if voxels > if *classes { 8 } else { 0 } {
                return Some(format!("{length} values, before {length_before}"));
            }
            // Rows behind a flipped one stand elsewhere; how many there are is compared above.
            if voxels > 0 {
                return None;
            }
            let greatest = scale.max(*scale_before);
            let tolerance = if *classes { 4.0 * greatest } else { 1e-4 * greatest };
            let pair = sums.iter().zip(before).find(|(f, b)| !near(**f, **b, tolerance));
            pair.map(|(found, before)| {
                format!("a sum of values is {found}, before {before}, ± {tolerance}")
            })
        }
        _ => Some("another kind of file".into()),
    }
}

/// The files of a stage that differ.
fn differences(found: &Golden, expected: &Golden) -> Vec<String> {
    let names: BTreeSet<&String> = found.files.keys().chain(expected.files.keys()).collect();
    let compared = names.into_iter().filter_map(|name| {
        let differs = match (found.files.get(name), expected.files.get(name)) {
            (Some(found), Some(expected)) => difference(found, expected),
            (found, _) => Some(if found.is_some() { "is new" } else { "is gone" }.into()),
        };
        differs.map(|what| format!("{name}: {what}"))
    });
    compared.collect()
}

const RENEW: &str = "cargo test -p e2e --test revisions -- --ignored";

#[test]
fn bytes_that_change_raise_a_revision() {
    let text = std::fs::read_to_string(golden_path()).unwrap();
    let golden: BTreeMap<String, Golden> = toml::from_str(&text).unwrap();
    let found = measured();
    for (stage, _) in STAGES {
        let (found, expected) = (&found[stage], &golden[stage]);
        let raised = found.revisions != expected.revisions;
        let differ = differences(found, expected);
        assert!(
            !raised,
            "{stage}: revisions are {:?}, tests/golden/revisions.toml is of {:?}: renew it with `{RENEW}`",
            found.revisions, expected.revisions
        );
        let crates: Vec<&String> = found.revisions.keys().collect();
        assert!(
            differ.is_empty(),
            "nnu-{stage} writes something else than before, under the same revision:\n  {}\n\
             Raise REVISION in crates/…/src/lib.rs of the crate that changed (one of {crates:?}), say what changed in \
             crates/CHANGELOG.md, and renew tests/golden/revisions.toml with `{RENEW}`",
            differ.join("\n  ")
        );
    }
}

#[test]
#[ignore = "renews golden/revisions.toml"]
fn renew() {
    let text = toml::to_string(&measured()).unwrap();
    Commit::file(&golden_path(), text.as_bytes()).unwrap();
}

#[test]
fn a_change_of_one_value_is_noticed_and_rounding_is_not() {
    let values: Vec<f64> = (0..20_000).map(|i| f64::from(i * 37 % 101) / 50.0 - 1.0).collect();
    let of = |values: &[f64], classes| array(values.iter().copied(), classes);
    let rounded: Vec<f64> = values.iter().map(|v| f64::from(*v as f32) * (1.0 + 1e-6)).collect();
    assert_eq!(difference(&of(&rounded, false), &of(&values, false)), None);
    let mut changed = values.clone();
    changed[777] += 0.05;
    assert!(difference(&of(&changed, false), &of(&values, false)).is_some());
    assert!(difference(&of(&values[1..], false), &of(&values, false)).is_some());

    let classes: Vec<f64> = (0..20_000).map(|i| f64::from(i % 3)).collect();
    let mut flipped = classes.clone();
    flipped[100] = 0.0;
    flipped[201] = 2.0;
    assert_eq!(difference(&of(&flipped, true), &of(&classes, true)), None);
    let eroded: Vec<f64> =
        classes.iter().enumerate().map(|(i, v)| if i % 50 == 0 { 0.0 } else { *v }).collect();
    assert!(difference(&of(&eroded, true), &of(&classes, true)).is_some());
}

/// What `--version` says: the commit, and revisions by crate.
fn version(program: &str) -> (String, Revisions) {
    let ended = run(&folder(PHANTOM), Path::new("."), &format!("{program} --version"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let (first, second) = ended.stdout.trim_end().split_once('\n').unwrap();
    let commit = first.strip_prefix(&format!("{program} {} (commit ", env!("CARGO_PKG_VERSION")));
    let revisions = second.strip_prefix("revisions: ").unwrap().split(", ");
    let parse = |text: &str| {
        let (name, revision) = text.split_once(' ').unwrap();
        (name.to_string(), revision.parse().unwrap())
    };
    (commit.unwrap().trim_end_matches(')').into(), revisions.map(parse).collect())
}

#[test]
fn a_program_names_the_revisions_of_all_crates_that_it_computes_with() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let decide: BTreeSet<&str> = STAGES.iter().map(|(stage, _)| *stage).chain(["net"]).collect();
    for name in &decide {
        let mut packages = metadata["packages"].as_array().unwrap().iter();
        let package = packages.find(|p| p["name"] == *name).unwrap();
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let expected: BTreeSet<&str> = dependencies
            .filter(|d| d["kind"].is_null())
            .filter_map(|d| d["name"].as_str())
            .filter(|d| decide.contains(d))
            .chain(["artifact", name])
            .collect();
        let (_, revisions) = version(&format!("nnu-{name}"));
        assert_eq!(
            revisions.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            expected,
            "nnu-{name}"
        );
        for (name, revision) in revisions {
            let section = CHANGELOG.split("\n## ").find(|s| s.starts_with(&format!("{name}\n")));
            let section =
                section.unwrap_or_else(|| panic!("crates/CHANGELOG.md has no section {name}"));
            let newest = section.lines().find_map(|line| line.strip_prefix("### "));
            let newest = newest.and_then(|n| n.parse().ok());
            assert_eq!(newest, Some(revision), "crates/CHANGELOG.md, {name}: the newest revision");
        }
    }
}

#[test]
fn a_program_names_the_commit_it_was_built_from() {
    let git = |arguments: &[&str]| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap().trim().to_string())
    };
    // This package's own program: Cargo has just brought it up to date.
    let (found, _) = version("nnu-phantom");
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => assert!(
            found == commit || found == format!("{commit}, modified"),
            "{found}, HEAD is {commit}"
        ),
        None => assert_eq!(found, "unknown"),
    }
}
