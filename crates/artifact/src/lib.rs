//! The files that stages hand to each other: every format, read and written here only.
//!
//! A *record* is a TOML file that says what it is (`[artifact]`: kind, version, key, siblings with their hashes) and
//! where it came from (`[provenance]`); arrays lie beside it as `.npy`. [`Commit`] writes both so that an output is
//! there complete or not at all. `README.md` of this crate is the specification for people who replace a stage.
//!
//! | kind | written by | read by |
//! |---|---|---|
//! | [`fingerprint`] | nnu-fingerprint | nnu-plan |
//! | [`plan`], [`splits`] | nnu-plan | every later stage |
//! | [`case`] | nnu-preprocess | nnu-augment, nnu-train, nnu-infer |
//! | [`batch`] | nnu-augment | nnu-train |
//! | [`model`] | nnu-train | nnu-infer |
//! | [`previous`] | nnu-infer | nnu-augment, nnu-train, nnu-infer |
//! | [`prediction`] | nnu-infer, nnu-postprocess | nnu-postprocess |
//! | [`selection`] | nnu-postprocess | nnu-infer |
//! | [`summary`], [`postprocessing`] | nnu-postprocess | nnu-postprocess, people |

pub mod archive;
pub mod batch;
pub mod bounds;
pub mod case;
mod commit;
pub mod crop;
pub mod dataset;
mod error;
pub mod file;
pub mod fingerprint;
pub mod image;
pub mod inspect;
mod label;
mod lock;
pub mod model;
pub mod name;
pub mod nifti;
pub mod npy;
pub mod npz;
mod place;
pub mod plan;
pub mod postprocessing;
pub mod prediction;
pub mod previous;
pub mod recipe;
mod record;
pub mod selection;
pub mod splits;
pub mod summary;

pub use commit::{Commit, Locked, check_replaceable};
pub use error::{Error, Fault, Result};
pub use label::{Label, Region};
pub use lock::{Patience, set_patience};
pub use record::{
    Header, Input, Kind, Provenance, Record, hash_bytes, hash_file, text, up_to_date,
};

/// Revision of what all stages share: how files are read and written here, and random streams in `stage`.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;
