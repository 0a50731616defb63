//! Stages are replaced by programs that aren't ours: they only write the files that `crates/artifact/README.md` describes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::programs::{SMALL_RUN, folder, must_not_skip, run, run_all};
use std::path::Path;
use std::process::Command;

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/swap");

/// Runs a script with the run's folder as its argument.
fn script(interpreter: &str, name: &str, root: &Path) {
    let output =
        Command::new(interpreter).arg(Path::new(SCRIPTS).join(name)).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_plan_written_by_a_shell_script_carries_the_pipeline_to_the_end() {
    let root = tempfile::tempdir().unwrap();
    let programs = folder(PHANTOM);
    run_all(&programs, root.path(), &SMALL_RUN[..2]);
    script("sh", "plan.sh", root.path());
    run_all(&programs, root.path(), &SMALL_RUN[3..]);
    assert!(root.path().join("final/phantom_006/prediction.toml").is_file());
}

#[test]
fn a_spool_written_by_ten_lines_of_numpy_trains_a_network() {
    let has_numpy = Command::new("python3")
        .args(["-c", "import numpy, tomllib"])
        .output()
        .is_ok_and(|o| o.status.success());
    if !has_numpy {
        assert!(!must_not_skip(), "python3.11 with numpy is missing; CI installs it");
        eprintln!("SKIPPED: python3 of at least 3.11 with numpy is not installed");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let programs = folder(PHANTOM);
    run_all(&programs, root.path(), &SMALL_RUN[..4]);
    script("python3", "spool.py", root.path());
    let train = SMALL_RUN[4].replace("--fold 0", "--fold 0 --batches {}/batches");
    run_all(&programs, root.path(), &[&train]);
    run_all(&programs, root.path(), &SMALL_RUN[5..]);
    assert!(root.path().join("final/phantom_006/prediction.toml").is_file());
    let verified = run(&programs, root.path(), "nnu-artifact verify {}/batches");
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}
