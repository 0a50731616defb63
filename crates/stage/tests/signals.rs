//! Signals end a program whatever it is doing: `examples/stuck.rs` never comes to its next unit of work.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the system and a busy machine may take to end a process that was told to.
const AT_ONCE: Duration = Duration::from_secs(5);

fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.parent().unwrap().with_file_name("examples").join("stuck");
    assert!(path.is_file(), "run `cargo test -p stage`, which also builds examples/stuck.rs");
    path
}

/// A stuck program, of which `log` is what it says.
struct Stuck {
    child: Child,
}

impl Stuck {
    fn new(how: &str) -> Self {
        let mut child = Command::new(program())
            .args([how, "--threads", "2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child }
    }

    fn send(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Whether the process ends on its own within this time.
    fn ends_within(&mut self, time: Duration) -> bool {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if begun.elapsed() > time {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Exit code and what was said.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let status = self.child.wait().unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_second_signal_ends_a_program_at_once_whatever_it_is_doing() {
    for how in ["loop", "read", "join", "pool", "save"] {
        for [first, second] in
            [["-INT", "-INT"], ["-INT", "-TERM"], ["-TERM", "-INT"], ["-TERM", "-TERM"]]
        {
            let mut stuck = Stuck::new(how);
            stuck.send(first);
            // Two equal signals that are both still to be delivered are one.
            assert!(
                !stuck.ends_within(Duration::from_millis(200)),
                "{how}: {first} alone ended it"
            );
            stuck.send(second);
            assert!(stuck.ends_within(AT_ONCE), "{how}: {first} {second}");
            assert_eq!(stuck.child.wait().unwrap().code(), Some(130), "{how}: {first} {second}");
        }
    }
}

#[test]
fn the_first_signal_is_noticed_between_two_units() {
    for signal in ["-INT", "-TERM"] {
        let mut stuck = Stuck::new("units");
        stuck.send(signal);
        assert!(stuck.ends_within(AT_ONCE), "{signal}");
        let (code, said) = stuck.ended();
        assert_eq!(
            (code, said.as_str()),
            (Some(130), "nnu-stuck: stopped: interrupted; nothing half-written is left\n")
        );
    }
}

#[test]
fn a_long_unit_is_ended_ten_seconds_after_the_first_signal_but_not_a_stage_that_saves() {
    let mut stuck: Vec<Stuck> = ["loop", "read", "join", "save"].map(Stuck::new).into();
    stuck.iter().for_each(|s| s.send("-TERM"));
    assert!(stuck.iter_mut().all(|s| !s.ends_within(Duration::from_secs(2))), "too early");
    let saving = stuck.pop().unwrap();
    for mut s in stuck {
        assert!(s.ends_within(Duration::from_secs(10) + AT_ONCE));
        let (code, said) = s.ended();
        assert_eq!(code, Some(130));
        assert!(said.contains("stopped: interrupted within a long unit of work"), "{said}");
    }
    let (code, said) = saving.ended();
    assert_eq!((code, said.as_str()), (Some(75), "nnu-stuck: stopped: saved\n"));
}
