//! Two files whose voxels are laid over each other: the one place that says whether they fit.

use super::reader::Reader;
use crate::nifti::{Geometry, Volume};
use crate::{Error, Result};
use std::fmt;
use std::path::Path;

/// Two files of the same grid that lie at different places in space. Displayed as one line that names both.
#[derive(Debug, Clone, PartialEq)]
pub struct Apart {
    /// Some axis of the one points elsewhere than in the other, by more than 45°: it was flipped, or its axes exchanged.
    pub turned: bool,
    /// How far the corners lie apart, and how either lies.
    pub detail: String,
    line: String,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Whether voxels of `file` may be laid over those of `other` by their indices. nnU-Net refuses other shapes and spacings,
/// and warns of other places; a difference of less than a tenth of a voxel, which roundings in headers make, is none.
///
/// # Errors
/// If shape or spacing differ; names both files.
pub fn meet(
    (file, geometry): (&Path, &Geometry),
    (other, expected): (&Path, &Geometry),
) -> Result<Option<Apart>> {
    geometry
        .same_grid(expected)
        .map_err(|e| Error::input(file, format!("{e} as in {}", other.display())))?;
    Ok(geometry.same_place(expected).err().map(|detail| {
        let cosine = |axis: usize| {
            (0..3)
                .map(|row| geometry.direction[row][axis] * expected.direction[row][axis])
                .sum::<f64>()
        };
        let turned = (0..3).any(|axis| cosine(axis) < std::f64::consts::FRAC_1_SQRT_2);
        let how = if turned { "is turned against" } else { "lies elsewhere than" };
        let line = format!("{} {how} {}: {detail}", file.display(), other.display());
        Apart { turned, detail, line }
    }))
}

impl Reader {
    /// The volume in the axes of another file as stored, and whether both lie at the same place.
    ///
    /// # Errors
    /// As [`meet`].
    pub fn lay(
        self,
        file: &Path,
        volume: Volume,
        on: (&Path, &Geometry),
    ) -> Result<(Volume, Option<Apart>)> {
        let turn = self.turn_like(&volume.geometry, on.1);
        let volume = volume.turned(turn);
        let apart = meet((file, &volume.geometry), on)?;
        Ok((volume, apart))
    }
}
