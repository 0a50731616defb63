//! Runs the real programs, as built beside the test that asks.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; −1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// The folder of the programs: given the path of one of them.
///
/// # Panics
/// If they haven't been built: `cargo test --workspace` does that, `-p e2e` alone doesn't.
pub fn folder(phantom: &str) -> PathBuf {
    let folder = Path::new(phantom).parent().expect("a program lies in a folder").to_path_buf();
    assert!(
        folder.join("nnu-postprocess").is_file(),
        "the stages aren't built: run `cargo build --workspace` first, or test with `cargo test --workspace`"
    );
    folder
}

/// A stage, such as `nnu-plan`, with arguments split at blanks; `{}` in them is replaced by `root`.
pub fn command(folder: &Path, root: &Path, line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(folder.join(words.next().expect("a program's name")));
    let root = root.display().to_string();
    command.args(words.map(|w| w.replace("{}", &root)));
    command
}

/// Runs a line to its end.
///
/// # Panics
/// If it can't be started.
pub fn run(folder: &Path, root: &Path, line: &str) -> Ended {
    command(folder, root, line).output().unwrap_or_else(|e| panic!("{line}: {e}")).into()
}

/// Runs lines that must succeed.
///
/// # Panics
/// With everything the program said, if one doesn't.
pub fn run_all(folder: &Path, root: &Path, lines: &[&str]) {
    for line in lines {
        let ended = run(folder, root, line);
        assert_eq!(ended.code, 0, "{line}\n{}{}", ended.stdout, ended.stderr);
    }
}

/// Path → hash of every file below `root`, hidden ones and temporaries too.
///
/// # Panics
/// If a file can't be read.
pub fn tree(root: &Path) -> std::collections::BTreeMap<PathBuf, String> {
    let mut files = std::collections::BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = artifact::hash_file(&path).expect("a readable file");
                files.insert(path.strip_prefix(root).expect("below the root").to_path_buf(), hash);
            }
        }
    }
    files
}

/// The stages of a small run, in order, on phantoms in `{}/data`.
pub const SMALL_RUN: [&str; 12] = [
    "nnu-phantom -q --training 6 --test 2 --shape 8,20,20 --spacing 3,1.2,1.2 --out {}/data",
    "nnu-fingerprint -q --dataset {}/data --out {}/fingerprint.toml",
    "nnu-plan -q --fingerprint {}/fingerprint.toml --folds 3 --set planning.base_features=4 \
     --set schedule.epochs=2 --set schedule.iterations_per_epoch=3 --set schedule.validation_iterations=2 \
     --out {}/plan.toml",
    "nnu-preprocess -q --dataset {}/data --plan {}/plan.toml --configuration 3d_fullres --out {}/cases",
    "nnu-train -q --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --out {}/model",
    "nnu-infer -q --model {}/model --cases {}/cases --validation --out {}/validation",
    "nnu-postprocess evaluate -q --predictions {}/validation --labels {}/data/labelsTr --images {}/data/imagesTr \
     --overlays {}/overlays --out {}/summary.toml",
    "nnu-postprocess fit -q --labels {}/data/labelsTr --predictions {}/validation --plan {}/plan.toml \
     --out {}/postprocess.toml",
    "nnu-infer -q --model {}/model --images {}/data/imagesTs --out {}/test",
    "nnu-postprocess apply -q --predictions {}/test --postprocessing {}/postprocess.toml --out {}/final",
    "nnu-augment -q --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --preview {}/preview.png",
    "nnu-net describe -q --plan {}/plan.toml --configuration 3d_fullres",
];

/// Whether a test may not be skipped: CI has everything that the tests need.
pub fn must_not_skip() -> bool {
    #[expect(clippy::disallowed_methods, reason = "tells CI from a user's machine, in tests only")]
    let ci = std::env::var("CI");
    ci.is_ok_and(|v| v == "true")
}
