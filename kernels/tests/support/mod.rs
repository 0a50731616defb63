//! What the tests of the compiler and the driver share.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each uses a part")]

use kernels::Source;
use kernels::compile::{Compiler, Places, Target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernels of the tests' own.
pub const MIX: Source = Source { file: "mix.cu", text: include_str!("../mix.cu") };

/// Any card, any driver.
pub const H100: Target = Target { capability: (9, 0), driver: (13, 0) };

/// The compiler as the program finds it, keeping what it compiles in `cache`. None, with a line that says so, if
/// there is none; under CI there must be one.
pub fn compiler(cache: &Path) -> Option<Compiler> {
    match Compiler::find(&places(cache), H100) {
        Ok((compiler, _)) => Some(compiler),
        Err(error) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "CI says that the compiler must be there"
            )]
            let ci = std::env::var("CI").is_ok_and(|v| v == "true");
            assert!(!ci, "{error}");
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// As the process was told, but with this cache.
pub fn places(cache: &Path) -> Places {
    Places { cache: Some(cache.to_owned()), ..Places::of_process() }
}

/// Builds a shared library from a file of `tests/fake`.
pub fn build_fake(source: &str, definitions: &[&str], output: &Path) {
    let folder = output.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    // Appears complete: tests run at once.
    let building = tempfile::NamedTempFile::new_in(folder).unwrap().into_temp_path();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&building)
        .args(definitions)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake").join(source))
        .status();
    assert!(status.expect("a C compiler").success(), "{source}");
    building.persist(output).unwrap();
}

/// Runs a test again in a process of its own with these variables, and expects it to succeed.
pub fn run_again(test: &str, variables: &[(&str, PathBuf)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(
        output.status.success(),
        "{}: {test} {variables:?}\n{}",
        output.status,
        said.join("\n")
    );
    said[1].lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| eprintln!("{line}"));
    assert!(said[0].contains("1 passed"), "{test} did not run: {}", said[0]);
}
