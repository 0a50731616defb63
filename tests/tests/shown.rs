//! What programs show, on a terminal or through a pipe: nothing from a file or command line gets through that isn't text
//! of its line, and what can't be shown isn't taken for done.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::programs::{Ended, SMALL_RUN, command, folder, run_all};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

const PROGRAMS: [&str; 10] = [
    "nnu-artifact",
    "nnu-augment",
    "nnu-fingerprint",
    "nnu-infer",
    "nnu-net",
    "nnu-phantom",
    "nnu-plan",
    "nnu-postprocess",
    "nnu-preprocess",
    "nnu-train",
];

/// Sets the title, clears the screen, forges a line, goes back to its beginning, reads right to left, hides, and is no
/// UTF-8 encoding of anything old terminals obey (C1).
const HOSTILE: &str = "\x1b]0;t\x07\x1b[2Jé\nnnu-train: done\r\u{9b}1m\u{202e}\u{200b}\u{2028}x";
const SHOWN: &str =
    "\\u{1b}]0;t\\u{7}\\u{1b}[2Jé\\nnnu-train: done\\r\\u{9b}1m\\u{202e}\\u{200b}\\u{2028}x";

fn ended(command: &mut Command) -> Ended {
    command.output().unwrap().into()
}

/// Whether every character of the output is text, or the end of a line that the program meant.
fn assert_harmless(ended: &Ended, what: &str) {
    let text = format!("{}{}", ended.stdout, ended.stderr);
    let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}\u{2028}".contains(c);
    assert!(!text.contains(bad), "{what}: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("nnu-train: done")), "{what}: {text}");
}

#[test]
fn command_lines_are_quoted_without_what_controls_a_terminal() {
    let programs = folder(PHANTOM);
    let flag = format!("--{HOSTILE}");
    for program in PROGRAMS {
        // An unknown flag, a value that is no number, a stray argument.
        for arguments in [vec![flag.as_str()], vec!["--threads", HOSTILE], vec![HOSTILE]] {
            let what = format!("{program} {arguments:?}");
            let ended = ended(Command::new(programs.join(program)).args(&arguments));
            assert_eq!(ended.code, 2, "{what}: {}", ended.stderr);
            assert_harmless(&ended, &what);
        }
    }
    // Bytes that are no UTF-8 are refused by Clap without being quoted, or quoted by us.
    let bytes: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"--\xff\x1b[2J\n");
    let ended = ended(Command::new(programs.join("nnu-plan")).arg(bytes));
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert_harmless(&ended, "no UTF-8");
}

#[test]
fn files_that_are_missing_are_named_in_one_line() {
    let programs = folder(PHANTOM);
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join(HOSTILE);
    let missing = missing.to_str().unwrap();
    let plan = ["--plan", missing, "--configuration", "c"];
    let calls: [(&str, Vec<&str>); 9] = [
        ("nnu-artifact", vec!["show", missing]),
        ("nnu-artifact", vec!["verify", missing]),
        ("nnu-augment", [&plan[..], &["--cases", "c", "--fold", "0", "--preview", "p"]].concat()),
        ("nnu-fingerprint", vec!["--dataset", missing, "--check-only"]),
        (
            "nnu-infer",
            vec!["--model", missing, "--images", missing, "--out", "o", "--device", "cpu"],
        ),
        ("nnu-net", [&["describe"], &plan[..]].concat()),
        ("nnu-plan", vec!["--fingerprint", missing, "--out", "o"]),
        (
            "nnu-postprocess",
            vec!["evaluate", "--predictions", missing, "--labels", missing, "--out", "o"],
        ),
        ("nnu-preprocess", [&plan[..], &["--dataset", missing, "--out", "o"]].concat()),
    ];
    for (program, arguments) in calls {
        let ended = ended(Command::new(programs.join(program)).args(&arguments));
        assert_eq!(ended.code, 3, "{program} {arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(SHOWN), "{program}: {}", ended.stderr);
        assert_harmless(&ended, program);
    }
}

/// The finished small run, with names of files, labels, channels and cases that attack a terminal.
fn hostile_data(programs: &Path) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    run_all(programs, root.path(), &SMALL_RUN[..1]);
    let data = root.path().join("data");
    let json = data.join("dataset.json");
    let text = std::fs::read_to_string(&json).unwrap();
    let mut json_value: serde_json::Value = serde_json::from_str(&text).unwrap();
    json_value["name"] = HOSTILE.into();
    for class in ["1", "2"] {
        json_value["labels"][class] = format!("{class}{HOSTILE}").into();
    }
    json_value["modality"]["0"] = HOSTILE.into();
    // A case of this name, whose image is there and broken, and one that isn't there.
    let image = format!("imagesTr/{HOSTILE}.nii.gz");
    artifact::Commit::file(&data.join(&image), b"junk").unwrap();
    json_value["training"][0]["image"] = image.into();
    json_value["training"][1]["image"] = format!("imagesTr/2{HOSTILE}.nii.gz").into();
    artifact::Commit::file(&json, json_value.to_string().as_bytes()).unwrap();
    root
}

#[test]
fn names_from_a_data_set_are_shown_without_what_controls_a_terminal() {
    let programs = folder(PHANTOM);
    let root = hostile_data(&programs);
    for line in [
        "nnu-fingerprint --verbose --dataset {}/data --check-only",
        "nnu-fingerprint --verbose --dataset {}/data --out {}/fingerprint.toml",
        "nnu-postprocess evaluate --predictions {}/data/labelsTr --labels {}/data/imagesTr --out {}/s.toml",
        "nnu-postprocess evaluate --predictions {}/data/imagesTr --labels {}/data/imagesTr --out {}/s.toml",
    ] {
        let ended = ended(&mut command(&programs, root.path(), line));
        assert_eq!(ended.code, 3, "{line}: {}", ended.stderr);
        assert_harmless(&ended, line);
    }
    let shown = ended(&mut command(
        &programs,
        root.path(),
        "nnu-fingerprint --verbose --dataset {}/data --check-only",
    ));
    assert!(shown.stdout.contains(SHOWN), "{}", shown.stdout);
    let said = ended(&mut command(
        &programs,
        root.path(),
        "nnu-fingerprint --verbose --dataset {}/data --out {}/f.toml",
    ));
    assert!(said.stderr.contains(SHOWN), "{}", said.stderr);
}

/// A plan and what is needed to print each kind of table.
fn small_run(programs: &Path) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    run_all(programs, root.path(), &SMALL_RUN[..3]);
    root
}

/// Calls that print something to stdout, with the exit code of the work.
fn printing() -> Vec<(String, i32)> {
    let mut calls = Vec::new();
    for program in PROGRAMS {
        calls.extend(["--help", "-h", "--version", "--io"].map(|f| (format!("{program} {f}"), 0)));
    }
    calls.push(("nnu-postprocess evaluate --help".into(), 0));
    for line in [
        "nnu-fingerprint --dataset {}/data --check-only",
        "nnu-plan --print-recipe",
        "nnu-net describe --plan {}/plan.toml --configuration 3d_fullres --device cpu",
        "nnu-net bench --plan {}/plan.toml --configuration 3d_fullres --device cpu --repetitions 1",
        "nnu-artifact show {}/plan.toml",
        "nnu-postprocess evaluate --predictions {}/data/labelsTr --labels {}/data/labelsTr --out {}/summary.toml",
    ] {
        calls.push((line.into(), 0));
    }
    calls.push(("nnu-artifact diff {}/plan.toml {}/fingerprint.toml".into(), 1));
    calls
}

#[test]
fn a_full_disk_under_stdout_is_an_error_of_one_line() {
    let programs = folder(PHANTOM);
    let root = small_run(&programs);
    for (line, _) in printing() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(&programs, root.path(), &line)
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let ended = Ended::from(output);
        assert_eq!(ended.code, 1, "{line}: {}", ended.stderr);
        let program = line.split(' ').next().unwrap();
        let expected = format!("{program}: error: cannot write to stdout: ");
        let told = ended.stderr.lines().filter(|l| l.starts_with(&expected)).count();
        assert!(told == 1 && !ended.stderr.contains("panicked"), "{line}: {}", ended.stderr);
    }
}

#[test]
fn a_reader_that_left_is_no_error() {
    let programs = folder(PHANTOM);
    let root = small_run(&programs);
    for (line, code) in printing() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(&programs, root.path(), &line)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let ended = Ended::from(output);
        assert_eq!(ended.code, code, "{line}: {}", ended.stderr);
        let silent = !ended.stderr.contains("stdout") && !ended.stderr.contains("internal error");
        assert!(silent, "{line}: {}", ended.stderr);
    }
}

#[test]
fn what_is_printed_reaches_a_file_as_it_is() {
    let programs = folder(PHANTOM);
    let root = tempfile::tempdir().unwrap();
    let recipe: PathBuf = root.path().join("recipe.toml");
    // A comment in a script that is read from right to left, with a mark that a terminal isn't sent.
    let printed = ended(Command::new(programs.join("nnu-plan")).arg("--print-recipe"));
    let text = format!("# \u{202b}מתכון\u{202c}\n{}", printed.stdout);
    artifact::Commit::file(&recipe, text.as_bytes()).unwrap();
    let again = root.path().join("again.toml");
    let status = Command::new(programs.join("nnu-plan"))
        .args(["--print-recipe", "--recipe", recipe.to_str().unwrap()])
        .stdout(created(&again))
        .status()
        .unwrap();
    assert!(status.success());
    let found = std::fs::read_to_string(&again).unwrap();
    assert!(found.contains("\u{202b}מתכון\u{202c}"), "{found}");
}

#[expect(clippy::disallowed_methods, reason = "where a shell would put a program's output")]
fn created(path: &Path) -> File {
    File::create(path).unwrap()
}
