//! All stages on phantoms: complete outputs, nothing redone, the same bytes for any number of threads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::programs::{SMALL_RUN, folder, run, run_all, tree};

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

#[test]
fn eight_programs_hand_files_to_each_other_and_a_second_run_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let programs = folder(PHANTOM);
    run_all(&programs, root.path(), &SMALL_RUN);
    let made = tree(root.path());
    for file in [
        "summary.toml",
        "summary.csv",
        "postprocess.toml",
        "model/weights.npz",
        "model/progress.png",
    ] {
        assert!(
            made.contains_key(std::path::Path::new(file)),
            "{file} is missing in {:#?}",
            made.keys()
        );
    }
    for case in ["phantom_006", "phantom_007"] {
        assert!(root.path().join("final").join(case).join("segmentation.nii.gz").is_file());
    }
    let stamps = modified(root.path());
    run_all(&programs, root.path(), &SMALL_RUN[1..]);
    assert_eq!(made, tree(root.path()));
    let again = modified(root.path());
    let redone: Vec<_> =
        stamps.iter().filter(|(path, time)| again[*path] != **time).map(|(p, _)| p).collect();
    assert!(redone.is_empty(), "written again: {redone:#?}");
    let verified = run(&programs, root.path(), "nnu-artifact verify {}");
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}

#[test]
fn one_thread_and_three_give_the_same_bytes() {
    let programs = folder(PHANTOM);
    let trees = ["1", "3"].map(|threads| {
        let root = tempfile::tempdir().unwrap();
        for line in SMALL_RUN {
            run_all(&programs, root.path(), &[&format!("{line} --threads {threads}")]);
        }
        tree(root.path())
    });
    assert_eq!(trees[0], trees[1]);
}

/// Modification time of every file below `root`.
fn modified(
    root: &std::path::Path,
) -> std::collections::BTreeMap<std::path::PathBuf, std::time::SystemTime> {
    let time = |path: &std::path::PathBuf| root.join(path).metadata().unwrap().modified().unwrap();
    tree(root)
        .into_keys()
        .map(|path| {
            let t = time(&path);
            (path, t)
        })
        .collect()
}
