//! Killed at any moment, the same commands again end with the same bytes. `tests/kill_demo.sh` does this to the demo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::programs::{SMALL_RUN, command, folder, run_all, tree};
use std::process::Stdio;
use std::time::{Duration, Instant};

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

#[test]
fn kills_at_random_moments_change_no_byte_of_the_result() {
    let programs = folder(PHANTOM);
    let undisturbed = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    run_all(&programs, undisturbed.path(), &SMALL_RUN);
    let whole = begun.elapsed();
    // Moments spread over the run: each attempt gets a little further than the one before.
    let root = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for attempt in 1..=8u32 {
        if killed(&programs, root.path(), whole * attempt / 9) {
            kills += 1;
        }
    }
    assert!(kills >= 5, "only {kills} attempts were killed before their end");
    run_all(&programs, root.path(), &SMALL_RUN);
    let (expected, found) = (tree(undisturbed.path()), tree(root.path()));
    assert_eq!(expected, found);
}

/// Runs the stages for at most `limit`, then kills the one that is running. Returns whether one was.
fn killed(programs: &std::path::Path, root: &std::path::Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    for line in SMALL_RUN {
        let mut child = command(programs, root, line)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{line} after a kill: {status}");
                break;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    false
}

#[test]
fn a_training_that_is_asked_to_stop_leaves_a_checkpoint_and_continues_to_the_same_bytes() {
    let programs = folder(PHANTOM);
    let (undisturbed, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&undisturbed, &root] {
        run_all(&programs, folder.path(), &SMALL_RUN[..4]);
    }
    let train = SMALL_RUN[4].replace(" -q ", " --iterations 40 ");
    run_all(&programs, undisturbed.path(), &[&train]);

    let child = command(&programs, root.path(), &train).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended: e2e::programs::Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.code, 75, "{}", ended.stderr);
    assert!(ended.stderr.contains("the same command continues from here"), "{}", ended.stderr);
    assert!(root.path().join("model/checkpoint.toml").is_file());
    run_all(&programs, root.path(), &[&train]);
    assert_eq!(tree(&undisturbed.path().join("model")), tree(&root.path().join("model")));
}
