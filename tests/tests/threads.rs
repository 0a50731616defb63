//! Threads that can't be had: one line, or the same bytes with fewer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::programs::{Ended, SMALL_RUN, command, folder, must_not_skip, run, run_all, tree};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

/// A user who has no other process, and whose limits count; those of root don't.
const NOBODY_ELSE: u32 = 61_271;

#[test]
fn more_threads_than_any_machine_has_are_refused_in_one_line() {
    let programs = folder(PHANTOM);
    let line = "nnu-plan --print-recipe --threads";
    for wrong in ["0", "1025", "100000", "18446744073709551615"] {
        let ended = run(&programs, Path::new("."), &format!("{line} {wrong}"));
        let expected = format!("nnu-plan: error: --threads {wrong}, expected 1 to 1024\n");
        assert_eq!((ended.code, ended.stderr), (2, expected));
    }
    assert_eq!(run(&programs, Path::new("."), &format!("{line} 64")).code, 0);
}

/// Longer than any of these lines takes; programs whose threads wait for each other do so for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a line whose process may have `limit` threads in all.
fn limited(programs: &Path, root: &Path, line: &str, limit: usize, user: Option<u32>) -> Ended {
    let stage = command(programs, root, line);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nproc={limit}:{limit}")).arg(stage.get_program()).args(stage.get_args());
    if let Some(user) = user {
        limited.uid(user).gid(user);
    }
    let mut child = limited.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{limit} threads: {line}: hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap().into()
}

/// The programs where any user may run them.
fn for_all(programs: &Path, root: &Path) {
    for name in ["fingerprint", "plan", "preprocess", "augment", "train", "infer", "postprocess"] {
        let name = format!("nnu-{name}");
        std::fs::copy(programs.join(&name), root.join(&name)).unwrap();
    }
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(root, open).unwrap();
}

#[test]
fn where_no_thread_can_be_started_all_stages_give_the_same_bytes() {
    let limits = Command::new("prlimit").args(["--nproc=1:1", "true"]).status();
    if limits.is_err() {
        assert!(!must_not_skip(), "prlimit (util-linux) isn't installed");
        eprintln!("SKIPPED: prlimit (util-linux) isn't installed");
        return;
    }
    let programs = folder(PHANTOM);
    let (free, narrow) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_all(&programs, free.path(), &SMALL_RUN[..1]);
    run_all(&programs, narrow.path(), &SMALL_RUN[..1]);
    let lines: Vec<String> = SMALL_RUN[1..10]
        .iter()
        .map(|line| {
            line.replace(" -q ", " --threads 3 ")
                .replace("--set schedule.epochs=2", "--set schedule.epochs=1")
        })
        .chain([format!(
            "{} --batches 1 --out {{}}/spool",
            SMALL_RUN[10].replace(" -q ", " --threads 3 ")
        )])
        .collect();
    run_all(&programs, free.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());

    let copies = tempfile::tempdir().unwrap();
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let (from, user) = match root {
        true => {
            for_all(&programs, copies.path());
            std::fs::set_permissions(narrow.path(), std::fs::Permissions::from_mode(0o777))
                .unwrap();
            (copies.path(), Some(NOBODY_ELSE))
        }
        false => (programs.as_path(), None),
    };
    // Alone, then with less than is asked for. Another user's own processes leave none in either case.
    for line in &lines {
        let ended = limited(from, narrow.path(), line, 1, user);
        assert_eq!(ended.code, 0, "{line}: {}", ended.stderr);
        let warning = "warning: the system lets 1 of 3 threads start";
        assert!(ended.stderr.contains(warning), "{line}: {}", ended.stderr);
    }
    assert_eq!(tree(free.path()), tree(narrow.path()));
    // One thread beside the first, two, …: of these the pool has at least one, and others work beside it or not at all.
    for limit in [2, 3, 4, 7] {
        for line in &lines {
            let line = line.replace("--threads 3", "--threads 8 --force");
            let ended = limited(from, narrow.path(), &line, limit, user);
            assert_eq!(ended.code, 0, "{limit} threads: {line}: {}", ended.stderr);
        }
        assert_eq!(tree(free.path()), tree(narrow.path()), "{limit} threads");
    }
    let some = limited(
        from,
        narrow.path(),
        &lines[2].replace("--threads 3", "--threads 40 --force"),
        20,
        user,
    );
    assert_eq!(some.code, 0, "{}", some.stderr);
    assert!(some.stderr.contains("of 40 threads start"), "{}", some.stderr);
    assert_eq!(tree(free.path()), tree(narrow.path()));
}
