//! Files that inputs name are opened in one place, `artifact::file`, which takes regular files only.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// Where a file is opened otherwise, and why it may be.
const ELSEWHERE: [(&str, &str); 9] = [
    ("crates/artifact/src/file.rs", "the place"),
    ("crates/artifact/src/commit.rs", "outputs"),
    ("crates/artifact/src/lock.rs", "locks beside outputs, /proc"),
    ("crates/net/src/bench.rs", "/proc"),
    ("crates/stage/src/memory.rs", "/proc"),
    ("crates/stage/src/run.rs", "/proc"),
    ("kernels/src/bin/check-kernels/sass.rs", "a developer's tool"),
    ("kernels/src/bin/check-kernels/main.rs", "a developer's tool"),
    ("kernels/src/compile/cache.rs", "a cache of its own"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let other = ["tests", "examples", "benches", "target"].contains(&name.as_str());
            if !other {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn only_one_place_opens_what_inputs_name() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut files = Vec::new();
    sources(&root.join("crates"), &mut files);
    sources(&root.join("kernels"), &mut files);
    assert!(files.len() > 100, "found {} sources only", files.len());
    let openings = ["File::open(", "fs::read(", "read_to_string(", "OpenOptions"];
    let mut strange = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if ELSEWHERE.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in own.lines().enumerate() {
            if openings.iter().any(|opening| line.contains(opening)) {
                strange.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(strange.is_empty(), "open these by artifact::file:\n{}", strange.join("\n"));
}
