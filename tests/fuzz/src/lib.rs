//! Every parser at the border, and what comes behind them, as functions of bytes.
//!
//! [`TARGETS`] is the list. A target takes any bytes and returns; what it may not do is panic, take more than ten seconds,
//! or hold more memory than [`meter::allowed`]. `fuzz_targets/` gives the same functions to libFuzzer, `tests/fixed.rs`
//! runs them over seeds and fixed mutations of them in each `cargo test`. `README.md` says how to run either.

use std::ffi::OsString;
use std::path::PathBuf;

pub mod meter;
pub mod mutate;
mod repair;
mod scratch;
mod seeds;
mod targets;

/// A parser, or a parser and what comes behind it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the target, of its program, and of its folder of seeds.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs that pass, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs of `tests/fixed.rs` beside the seeds: as many as take a second or two.
    pub fixed: usize,
}

macro_rules! targets {
    ($($name:ident $fixed:literal)*) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(
            Target { name: stringify!($name), run: targets::$name, seeds: seeds::$name, fixed: $fixed },
        )*];
    };
}
targets! {
    nifti 10_000
    npy 10_000
    npz 4_000
    npz_entries 2_000
    record 4_000
    case 2_000
    prediction 4_000
    recipe 500
    dataset 4_000
    plans 1_000
    fingerprint 1_000
    pth 4_000
    pickle 3_000
    png 8_000
    topology 1_000
    preprocess 4_000
    augment 200
}

impl Target {
    /// The target of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> &'static Self {
        TARGETS.iter().find(|t| t.name == name).expect("a target of this name")
    }

    /// Writes the seeds into the corpus that a fuzzer's arguments name first, if that is an empty folder.
    ///
    /// # Panics
    /// If they can't be written.
    pub fn begin(&self, arguments: impl Iterator<Item = OsString>) {
        let corpus = arguments.skip(1).find(|a| !a.as_encoded_bytes().starts_with(b"-"));
        let Some(corpus) = corpus.map(PathBuf::from) else { return };
        if std::fs::read_dir(&corpus).is_ok_and(|mut entries| entries.next().is_none()) {
            for (i, seed) in (self.seeds)().iter().enumerate() {
                scratch::put(&corpus.join(format!("seed-{i:03}")), seed);
            }
        }
    }

    /// Runs it under the meter.
    ///
    /// # Panics
    /// If the target does, or takes more memory than is allowed.
    pub fn run_metered(&self, data: &[u8]) {
        meter::watch(data.len(), || (self.run)(data));
    }
}

/// The body of a program of `fuzz_targets/`.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::Target::named(stringify!($name)).begin(std::env::args_os()),
            |data: &[u8]| {
                $crate::Target::named(stringify!($name)).run_metered(data);
            }
        );
    };
}
