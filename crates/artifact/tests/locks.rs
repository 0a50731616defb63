//! Two programs and one output; links under the names that outputs, temporaries and locks have; what a record vouches for
//! while it is replaced.
//!
//! Locks of one process stand for those of two: `flock` belongs to the open file, not to the process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::splits::{Fold, Splits};
use artifact::{Commit, Fault, Provenance, Record, check_replaceable, hash_file, summary::Summary};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn splits() -> Splits {
    Splits { folds: vec![Fold { train: vec!["a".into()], validation: vec!["b".into()] }] }
}

fn made(by: &str) -> Provenance {
    Provenance { stage: by.into(), ..Provenance::default() }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}

fn write(record: &Path, by: &str, sibling: &[u8]) -> artifact::Result<()> {
    let mut commit = Commit::begin(record)?;
    commit.bytes("x.npy", sibling)?;
    commit.finish(&made(by), &splits())
}

#[test]
fn many_writers_of_one_output_leave_what_one_of_them_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("new/splits.toml");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let record = &record;
            scope.spawn(move || {
                for turn in 0..5u8 {
                    write(record, &format!("{writer} {turn}"), &[writer, turn]).unwrap();
                }
            });
        }
    });
    let found = Record::<Splits>::load(&record).unwrap();
    found.verify(&record).unwrap();
    let bytes = fs::read(record.with_file_name("x.npy")).unwrap();
    assert_eq!(found.provenance.stage, format!("{} {}", bytes[0], bytes[1]));
    assert_eq!(names(&folder.path().join("new")), ["splits.toml", "x.npy"]);
}

#[test]
fn the_second_waits_for_the_first_or_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    let first = Commit::begin(&record).unwrap();
    assert!(!first.waited());
    let error = Commit::begin_unless_held(&record).unwrap_err();
    assert_eq!((error.fault, &error.path), (Fault::Busy, &record));
    assert!(error.message.ends_with("is at work on this output"), "{error}");
    let pid = format!("(process {})", std::process::id());
    assert!(error.message.contains(&pid), "{error}");
    // Another output in the same folder is free.
    drop(Commit::begin_unless_held(&folder.path().join("plan.toml")).unwrap());
    let begun = Instant::now();
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| Commit::begin(&record).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        first.finish(&made("first"), &splits()).unwrap();
        second.join().unwrap()
    });
    assert!(second.waited() && begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(Record::<Splits>::load(&record).unwrap().provenance.stage, "first");
    drop(second);
    assert_eq!(names(folder.path()), ["splits.toml"]);
}

#[test]
fn one_lock_covers_what_is_written_beside_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    let commit = Commit::begin(&record).unwrap();
    commit.beside("other.toml").finish(&made("beside"), &splits()).unwrap();
    commit.file_beside("table.csv", b"1,2").unwrap();
    let guard = commit.lock();
    commit.finish(&made("record"), &splits()).unwrap();
    assert_eq!(Commit::begin_unless_held(&record).unwrap_err().fault, Fault::Busy);
    drop(guard);
    drop(Commit::begin_unless_held(&record).unwrap());
    assert_eq!(names(folder.path()), ["other.toml", "splits.toml", "table.csv"]);
}

/// A temporary is its program's until the lock is free: a reader, a second output and a waiting program leave it.
#[test]
fn temporaries_of_the_living_stay() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    let mut commit = Commit::begin(&record).unwrap();
    commit.bytes("x.npy", b"abc").unwrap();
    let before = names(folder.path());
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(Commit::begin_unless_held(&record).is_err());
    Commit::file(&folder.path().join("splits.toml.csv"), b"1").unwrap();
    assert!(!artifact::up_to_date::<Splits>(&record, ""));
    for name in &before {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    commit.finish(&made("living"), &splits()).unwrap();
    assert_eq!(names(folder.path()), ["splits.toml", "splits.toml.csv", "x.npy"]);
}

#[test]
fn links_are_replaced_and_never_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    Commit::file(&at("victim"), b"precious").unwrap();
    fs::create_dir(at("out")).unwrap();
    let planted = ["splits.toml", "x.npy", "y.csv", ".splits.toml.lock", ".y.csv.lock"];
    let foreseen = [".splits.toml.partial", ".x.npy.partial", ".y.csv.partial"];
    for name in planted.iter().chain(&foreseen) {
        let to: PathBuf = if name.contains("toml") { at("victim") } else { at("nowhere") };
        symlink(to, at("out").join(name)).unwrap();
    }
    // A record's name that leads to something else than a record is refused, as the file itself would be.
    assert_eq!(write(&at("out/splits.toml"), "new", b"abc").unwrap_err().fault, Fault::Input);
    fs::remove_file(at("out/splits.toml")).unwrap();
    symlink(at("nowhere"), at("out/splits.toml")).unwrap();
    write(&at("out/splits.toml"), "new", b"abc").unwrap();
    Commit::file(&at("out/y.csv"), b"1,2").unwrap();
    assert_eq!(fs::read(at("victim")).unwrap(), b"precious");
    assert!(!at("nowhere").exists());
    for name in ["splits.toml", "x.npy", "y.csv"] {
        assert!(fs::symlink_metadata(at("out").join(name)).unwrap().is_file(), "{name}");
    }
    for name in [".splits.toml.lock", ".y.csv.lock"] {
        assert!(fs::symlink_metadata(at("out").join(name)).is_err(), "{name}");
    }
    // A file for people that already reads as it should, but through a link.
    Commit::file(&at("same"), b"1,2").unwrap();
    fs::remove_file(at("out/y.csv")).unwrap();
    symlink(at("same"), at("out/y.csv")).unwrap();
    Commit::file(&at("out/y.csv"), b"1,2").unwrap();
    assert!(fs::symlink_metadata(at("out/y.csv")).unwrap().is_file());
}

#[test]
fn a_lock_that_is_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".splits.toml.lock")).unwrap();
    let error = Commit::begin(&folder.path().join("splits.toml")).unwrap_err();
    assert_eq!(error.fault, Fault::Io);
    let made = std::process::Command::new("mkfifo").arg(folder.path().join(".y.csv.lock")).status();
    assert!(made.unwrap().success());
    let error = Commit::file(&folder.path().join("y.csv"), b"1").unwrap_err();
    assert!(error.message.ends_with(".y.csv.lock is no regular file"), "{error}");
}

/// The record may stand while files beside it change only if it vouches for none of them.
#[test]
fn a_record_stays_until_the_next_unless_its_own_files_change() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let record = at("splits.toml");
    // A folder in the way of the record's second sibling stops the commit behind the first.
    let stopped = |first: &str, bytes: &[u8], gone: &[&str]| {
        fs::create_dir_all(at("z.npy/in_the_way")).unwrap();
        let mut commit = Commit::begin(&record).unwrap();
        commit.bytes(first, bytes).unwrap();
        commit.bytes("z.npy", b"new").unwrap();
        gone.iter().for_each(|name| commit.without(name));
        commit.finish(&made("stopped"), &splits()).unwrap_err();
        fs::remove_dir_all(at("z.npy")).unwrap();
        let there = record.exists();
        there.then(|| Record::<Splits>::load(&record).unwrap().verify(&record).unwrap());
        there
    };
    write(&record, "old", b"abc").unwrap();
    assert!(stopped("y.npy", b"another name", &[]));
    assert!(stopped("y.npy", b"a name that no record lists", &["notes.txt"]));
    assert!(stopped("x.npy", b"abc", &[]), "the same bytes");
    assert!(!stopped("x.npy", b"other bytes", &[]));
    write(&record, "old", b"abc").unwrap();
    assert!(!stopped("y.npy", b"another name", &["x.npy"]));
    // A record of a foreign stage that names no files stands for all of them.
    write(&record, "old", b"abc").unwrap();
    let text = fs::read_to_string(&record).unwrap();
    let hash = format!("\"x.npy\" = \"{}\"\n", hash_file(&at("x.npy")).unwrap());
    assert!(text.contains(&hash), "{text}");
    Commit::file(&record, text.replace(&hash, "").as_bytes()).unwrap();
    assert!(!stopped("x.npy", b"abc", &[]));
}

#[test]
fn nothing_but_a_record_of_its_kind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("splits.toml");
    let kinds = |text: &str| -> (bool, bool) {
        Commit::file(&record, text.as_bytes()).unwrap();
        let ours = check_replaceable::<Splits>(&record).is_ok();
        assert_eq!(Commit::begin(&record).unwrap().finish(&made("n"), &splits()).is_ok(), ours);
        Commit::file(&record, text.as_bytes()).unwrap();
        (ours, check_replaceable::<Summary>(&record).is_ok())
    };
    assert_eq!(kinds(""), (true, true));
    assert_eq!(kinds("[artifact]\nkind = \"splits\"\nversion = 1\n"), (true, false));
    assert_eq!(kinds("[artifact]\nkind = \"splits\"\nversion = 99\n"), (true, false));
    assert_eq!(kinds("[artifact]\nkind = \"splits\"\nversion = 1\n[[folds"), (true, false));
    assert_eq!(kinds("[artifact]\nkind = \"summary\"\nversion = 1\n"), (false, true));
    assert_eq!(kinds("{ \"labels\": 1 }"), (false, false));
    assert_eq!(kinds("case,dice\na,1.0\n"), (false, false));
    let error = check_replaceable::<Splits>(&record).unwrap_err();
    assert_eq!(error.message, "is no record, which a splits would replace");
    assert_eq!(error.fault, Fault::Input);
}

#[test]
fn names_of_any_length_have_locks_and_temporaries() {
    let folder = tempfile::tempdir().unwrap();
    for length in [1, 199, 200, 201, 255] {
        let path = folder.path().join("n".repeat(length));
        Commit::file(&path, b"1").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(names(folder.path()), [""; 0]);
}
