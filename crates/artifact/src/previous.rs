//! `CASE/previous.toml` with `previous.npy`: what the first stage of a cascade predicts for a case of the second.
//!
//! - `previous.npy` i16 `[z, y, x]`: class indices on the grid of the second stage's preprocessed case (plan axes).

use crate::npy::Mapped;
use crate::record::check_name;
use crate::{Error, Kind, Record, Result};
use ndarray::{Array4, ArrayView3, ArrayView4, ArrayViewMut4, s};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the record.
pub const RECORD: &str = "previous.toml";
/// Provenance input with the first stage's [`crate::plan::Plan::preprocessing_hash`].
pub const PREPROCESSING: &str = "preprocessing";
/// Name of the class indices.
pub const ARRAY: &str = "previous.npy";

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// What was predicted.
    pub previous: PreviousInfo,
}

/// What was predicted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousInfo {
    /// Case id.
    pub case: String,
    /// Configuration that predicted it: the first stage.
    pub configuration: String,
    /// Folds whose models were averaged. A training case of the second stage is predicted by the fold that did not
    /// see it.
    pub folds: Vec<usize>,
    /// Configuration on whose grid it lies.
    pub grid: String,
    /// Classes including background.
    pub classes: usize,
    /// Shape of the array.
    pub shape: [usize; 3],
}

impl Kind for Previous {
    const KIND: &'static str = "previous";
    const VERSION: u32 = 1;

    fn check(&self) -> std::result::Result<(), String> {
        check_name("previous.case", &self.previous.case)?;
        match self.previous.classes {
            0 | 1 => Err(format!(
                "previous.classes = {}, expected background and at least one class",
                self.previous.classes
            )),
            _ => Ok(()),
        }
    }
}

/// The network's input in the second stage: the image's channels, then one per foreground class, 1 where the first
/// stage saw it. `image` `[channel, z, y, x]` and `previous` `[z, y, x]` lie on the same grid.
pub fn input(
    image: ArrayView4<'_, f32>,
    previous: ArrayView3<'_, i16>,
    classes: usize,
) -> Array4<f32> {
    let (channels, z, y, x) = image.dim();
    let mut input = Array4::zeros((channels + classes - 1, z, y, x));
    input.slice_mut(s![..channels, .., .., ..]).assign(&image);
    one_hot(previous, &mut input.slice_mut(s![channels.., .., .., ..]));
    input
}

/// Fills `channels` `[class − 1, z, y, x]` with 1 where `classes` `[z, y, x]` has the class, 0 elsewhere.
pub fn one_hot(classes: ArrayView3<'_, i16>, channels: &mut ArrayViewMut4<'_, f32>) {
    for (mut channel, class) in channels.outer_iter_mut().zip(1i16..) {
        channel.zip_mut_with(&classes, |v, &c| *v = f32::from(u8::from(c == class)));
    }
}

/// The record of a case in the first of these folders that has it.
pub fn find(folders: &[PathBuf], case: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| path(folder, case)).find(|record| record.is_file())
}

/// The record of a case in a folder of predictions.
pub fn path(folder: &Path, case: &str) -> PathBuf {
    folder.join(case).join(RECORD)
}

/// A previous stage's prediction, mapped and checked. Clones share the map.
#[derive(Debug, Clone)]
pub struct OpenPrevious {
    /// The record.
    pub record: Record<Previous>,
    classes: Arc<Mapped>,
}

impl OpenPrevious {
    /// Opens `CASE/previous.toml` and maps its array.
    ///
    /// # Errors
    /// If record and array disagree, or the array holds what is no class.
    pub fn open(path: &Path) -> Result<Self> {
        let record = Record::<Previous>::load(path)?;
        let info = &record.body.previous;
        let file = path.with_file_name(ARRAY);
        let mapped = Mapped::open(&file)?;
        if mapped.shape() != info.shape {
            let (found, expected) = (mapped.shape(), info.shape);
            let says = path.display();
            return Err(Error::input(
                &file,
                format!("has shape {found:?}, but {says} says {expected:?}"),
            ));
        }
        let view: ArrayView3<'_, i16> = mapped.view()?;
        let known = |class: i16| usize::try_from(class).is_ok_and(|c| c < info.classes);
        if let Some(class) = view.iter().find(|c| !known(**c)) {
            return Err(Error::input(
                &file,
                format!("holds class {class}, expected 0 to {}", info.classes - 1),
            ));
        }
        Ok(Self { record, classes: Arc::new(mapped) })
    }

    /// `[z, y, x]`; class indices.
    pub fn classes(&self) -> ArrayView3<'_, i16> {
        self.classes.view().expect("checked when opened")
    }
}
