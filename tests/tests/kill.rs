//! Killed at any moment, the same commands again end with the same bytes. `tests/kill_demo.sh` does this to the demo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::programs::{SMALL_RUN, command, folder, run_all, tree};
use std::io::{BufRead, BufReader, Read};
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
    // Moments all over the run. What an attempt finished stays; once a run got through, the next begins anew.
    let (mut root, mut kills) = (tempfile::tempdir().unwrap(), 0);
    for tenths in [1, 3, 5, 7, 9, 2, 4, 6, 8] {
        if killed(&programs, root.path(), whole * tenths / 10) {
            kills += 1;
        } else {
            root = tempfile::tempdir().unwrap();
        }
    }
    assert!(kills >= 2, "only {kills} attempts were killed before their end");
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
    // Long enough that the signal comes before the end; its handler is there once the log begins.
    let train = SMALL_RUN[4].replace(" -q ", " --iterations 300 ");
    run_all(&programs, undisturbed.path(), &[&train]);

    let mut child = command(&programs, root.path(), &train).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("cases to train on") {
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    log.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75), "{said}");
    assert!(said.contains("the same command continues from here"), "{said}");
    assert!(root.path().join("model/checkpoint.toml").is_file());
    run_all(&programs, root.path(), &[&train]);
    assert_eq!(tree(&undisturbed.path().join("model")), tree(&root.path().join("model")));
}
