//! `NNNNNN/batch.toml` with `image.npy`, `label.npy`: one augmented training batch of a spool.
//!
//! - `image.npy` f32 `[sample, channel, z, y, x]`, patch shape of the configuration.
//! - `label.npy` i16 `[sample, z, y, x]`: class index; negative values count as background.

use crate::npy::Mapped;
use crate::{Error, Kind, Record, Result};
use ndarray::{Array4, Array5};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// What the arrays are.
    pub batch: BatchInfo,
}

/// What the arrays are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchInfo {
    /// Position in the spool, from 0.
    pub index: usize,
    /// Case of each sample, if known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<String>,
}

impl Kind for Batch {
    const KIND: &'static str = "batch";
    const VERSION: u32 = 1;

    fn check(&self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// Record of batch `index` in the spool at `folder`.
pub fn path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index:06}")).join("batch.toml")
}

/// Reads one batch: image `[n, c, z, y, x]` and label `[n, z, y, x]`.
///
/// # Errors
/// If record and arrays disagree, or image and label do.
pub fn read(path: &Path) -> Result<(Record<Batch>, Array5<f32>, Array4<i16>)> {
    let record = Record::<Batch>::load(path)?;
    let image: Array5<f32> = Mapped::open(&path.with_file_name("image.npy"))?.view()?.to_owned();
    let label_path = path.with_file_name("label.npy");
    let label: Array4<i16> = Mapped::open(&label_path)?.view()?.to_owned();
    let (n, _, z, y, x) = image.dim();
    if label.dim() != (n, z, y, x) {
        return Err(Error::input(
            &label_path,
            format!("has shape {:?}, but image.npy says {:?}", label.shape(), [n, z, y, x]),
        ));
    }
    Ok((record, image, label))
}
