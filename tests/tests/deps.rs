//! The crates' dependencies on each other are the ones that the README's map shows.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Packages of tests, which may depend on everything.
const TESTS: [&str; 2] = ["e2e", "fuzz"];

#[test]
fn stages_depend_on_each_other_only_where_the_map_says_so() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let served = ["artifact", "stage"];
    let apart = ["artifact", "stage", "version"];
    let allowed = BTreeMap::from([
        ("artifact", vec![]),
        ("version", vec![]),
        ("stage", vec!["artifact", "version"]),
        ("fingerprint", vec![]),
        ("plan", vec![]),
        ("preprocess", vec![]),
        ("kernels", vec![]),
        ("augment", vec!["kernels"]),
        ("net", vec!["kernels"]),
        ("train", vec!["net", "augment", "kernels"]),
        ("infer", vec!["net", "preprocess", "postprocess"]),
        ("postprocess", vec![]),
    ]);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        if TESTS.contains(&name) {
            continue;
        }
        let mut expected: BTreeSet<&str> = allowed[name].iter().copied().collect();
        if !apart.contains(&name) {
            expected.extend(served);
        }
        let found: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["kind"].is_null())
            .map(|d| d["name"].as_str().unwrap())
            .filter(|d| names.contains(d))
            .collect();
        assert!(
            found.is_subset(&expected),
            "{name} depends on {found:?}, allowed are {expected:?}"
        );
    }
    assert_eq!(
        names.len(),
        allowed.len() + TESTS.len(),
        "a crate is missing in this test's map: {names:?}"
    );
}
