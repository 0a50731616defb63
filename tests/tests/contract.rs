//! The pipelines' lines fit the programs: every flag exists, and every kind of file is read in the version it is written.

use e2e::programs::{folder, run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");
const STAGES_OF_MAKE: &str = include_str!("../../pipelines/stages.mk");
const SNAKEFILE: &str = include_str!("../../pipelines/Snakefile");
const SNAKEFILE_LISTS: &str = include_str!("../../pipelines/common.smk");
const STAGES: [&str; 7] =
    ["fingerprint", "plan", "preprocess", "augment", "train", "infer", "postprocess"];

/// Program (with subcommand) → flags, from the lines `"$$BIN/nnu-…"` with their continuations.
fn makefile_flags() -> BTreeMap<String, BTreeSet<String>> {
    let text = STAGES_OF_MAKE.replace("\\\n", " ");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for call in text.lines().flat_map(|line| line.split("$BIN/").skip(1)) {
        let between = |c: char| c.is_whitespace() || matches!(c, ',' | '"' | '=' | ':' | '+');
        let words: Vec<&str> = call.split(between).filter(|word| !word.is_empty()).collect();
        let sub = words
            .get(1)
            .filter(|w| w.chars().all(|c| c.is_ascii_lowercase()) && words[0] == "nnu-postprocess");
        let program = sub.map_or(words[0].to_string(), |s| format!("{} {s}", words[0]));
        let flags = words.iter().filter(|w| w.starts_with("--")).map(|w| (*w).to_string());
        found.entry(program).or_default().extend(flags);
    }
    found
}

/// The same of the Snakefile: a rule's `program=program("nnu-…")` and the flags in its shell lines. Flags that functions
/// put together are looked for in all programs.
fn snakefile_flags() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in SNAKEFILE.split("\nrule ").flat_map(|r| r.split("\ncheckpoint ")) {
        let Some((_, shell)) = rule.split_once("    shell:\n") else { continue };
        let names: BTreeMap<&str, &str> = rule
            .lines()
            .filter_map(|l| l.trim().split_once("=program(\""))
            .map(|(name, rest)| (name, rest.trim_end_matches("\"),")))
            .collect();
        let mut program = String::new();
        let words: Vec<&str> =
            shell.split(|c: char| c.is_whitespace() || matches!(c, '"' | '(' | '=')).collect();
        for (at, word) in words.iter().enumerate() {
            let named =
                word.strip_prefix("{params.").and_then(|w| names.get(w.trim_end_matches(":q}")));
            if let Some(name) = named {
                let sub = words.get(at + 1).filter(|_| *name == "nnu-postprocess");
                program = sub.map_or((*name).to_string(), |s| format!("{name} {s}"));
            } else if word.starts_with("--") {
                found.entry(program.clone()).or_default().insert((*word).to_string());
            }
        }
    }
    found
}

fn check_flags(calls: BTreeMap<String, BTreeSet<String>>) {
    let (programs, here) = (folder(PHANTOM), Path::new("."));
    for (program, flags) in calls {
        let help = run(&programs, here, &format!("{program} --help"));
        assert_eq!(help.code, 0, "{program} --help: {}", help.stderr);
        let known: BTreeSet<&str> = help
            .stdout
            .split(|c: char| !(c.is_alphanumeric() || c == '-'))
            .filter(|w| w.starts_with("--"))
            .collect();
        for flag in flags {
            assert!(known.contains(flag.as_str()), "{program} has no flag {flag}");
        }
    }
}

#[test]
fn every_flag_of_the_makefile_is_a_flag_of_its_program() {
    let calls = makefile_flags();
    assert!(calls.len() >= 8, "found only {:?}", calls.keys());
    check_flags(calls);
}

#[test]
fn every_flag_of_the_snakefile_is_a_flag_of_its_program() {
    let calls = snakefile_flags();
    assert!(calls.len() >= 7, "found only {:?}", calls.keys());
    check_flags(calls);
    // Flags that functions put together, and the programs that they are for.
    let made = [
        ("nnu-train", ["--previous", "--epochs", "--iterations"].as_slice()),
        ("nnu-infer", &["--previous", "--next-stage", "--probabilities"]),
        ("nnu-postprocess select", &["--candidate"]),
    ];
    for (program, flags) in made {
        assert!(flags.iter().all(|f| SNAKEFILE_LISTS.contains(f)), "{program}: {flags:?}");
        let flags = flags.iter().map(|f| (*f).to_string()).collect();
        check_flags([(program.to_string(), flags)].into());
    }
}

#[test]
fn every_kind_is_read_in_the_version_in_which_it_is_written() {
    let (programs, here) = (folder(PHANTOM), Path::new("."));
    let (mut written, mut read) = (BTreeMap::new(), Vec::new());
    for stage in STAGES {
        let table = run(&programs, here, &format!("nnu-{stage} --io"));
        assert_eq!(table.code, 0, "nnu-{stage} --io: {}", table.stderr);
        for line in table.stdout.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(Ok(version)) = words.last().map(|w| w.parse::<u32>()) else { continue };
            let kind = words[words.len() - 2].to_string();
            match words[0] {
                "writes" => drop(written.insert(kind, version)),
                _ => read.push((stage, kind, version)),
            }
        }
    }
    assert!(read.len() >= 10, "only {read:?}");
    for (stage, kind, version) in read {
        assert_eq!(written.get(&kind), Some(&version), "nnu-{stage} reads {kind} {version}");
    }
}
