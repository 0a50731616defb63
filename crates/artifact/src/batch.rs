//! `NNNNNN/batch.toml` with `image.npy`, `label.npy`: one augmented training batch of a spool.
//!
//! - `image.npy` f32 `[sample, channel, z, y, x]`, patch shape of the configuration.
//! - `label.npy` i16 `[sample, z, y, x]`: class index; negative values count as background.

use crate::npy::{self, Mapped};
use crate::{Error, Kind, Record, Result};
use ndarray::{Array4, Array5};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The images beside the record.
pub const IMAGE: &str = "image.npy";

/// The labels beside the record.
pub const LABEL: &str = "label.npy";

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

/// Numbers of all batches in the spool at `folder`, sorted, wherever some are missing between them; none if it isn't there.
///
/// # Errors
/// If the folder can't be read.
pub fn numbers(folder: &Path) -> Result<Vec<usize>> {
    let fail = |e| Error::io(folder, "read this spool", &e);
    let mut numbers = Vec::new();
    if !folder.is_dir() {
        return Ok(numbers);
    }
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        // A number in any other way of writing is no batch's.
        let number = name.to_str().and_then(|name| name.parse().ok());
        numbers
            .extend(number.filter(|n| path(folder, *n) == folder.join(&name).join("batch.toml")));
    }
    numbers.retain(|n| path(folder, *n).is_file());
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads one batch: image `[n, c, z, y, x]` and label `[n, z, y, x]`.
///
/// # Errors
/// If record and arrays disagree, or image and label do; if the image holds what is no number.
pub fn read(path: &Path) -> Result<(Record<Batch>, Array5<f32>, Array4<i16>)> {
    let record = Record::<Batch>::load(path)?;
    let image_path = path.with_file_name(IMAGE);
    let image: Array5<f32> = Mapped::open(&image_path)?.view()?.to_owned();
    npy::check_numbers(&image_path, &image.view(), f32::MAX)?;
    let label_path = path.with_file_name(LABEL);
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
