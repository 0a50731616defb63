//! Probabilities averaged between configurations, on the image's grid within the crop box.
//!
//! Those of earlier configurations wait in unnamed temporary files, as f16, the precision in which probabilities are
//! written: averaging the files of two separate predictions gives the same numbers. In memory is one output at a time.

use crate::export::{Grid, Outputs};
use half::f16;
use ndarray::{Array3, ArrayView3};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Probabilities `[output, z, y, x]` of the configurations so far.
#[derive(Debug, Default)]
pub struct Average {
    files: Vec<File>,
}

impl Average {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a configuration's probabilities; the temporary file lies in `folder` and has no name.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn add(&mut self, outputs: Outputs<'_>, grid: Grid, folder: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(tempfile::tempfile_in(folder)?);
        outputs.probabilities(grid, &mut |_, map| {
            map.iter().try_for_each(|p| file.write_all(&f16::from_f32(*p).to_le_bytes()))
        })?;
        self.files.push(file.into_inner().map_err(io::IntoInnerError::into_error)?);
        Ok(())
    }

    /// The mean of one output over all configurations, the last of which is given.
    ///
    /// # Errors
    /// If a temporary file can't be read.
    pub fn mean(&mut self, output: usize, last: ArrayView3<'_, f32>) -> io::Result<Array3<f32>> {
        let mut mean = Array3::zeros(last.dim());
        for file in &mut self.files {
            file.seek(SeekFrom::Start((2 * output * last.len()) as u64))?;
            let mut reader = BufReader::with_capacity(1 << 20, &*file);
            let mut bytes = [0; 2];
            for sum in &mut mean {
                reader.read_exact(&mut bytes)?;
                *sum += f16::from_le_bytes(bytes).to_f32();
            }
        }
        let count = (self.files.len() + 1) as f32;
        mean.zip_mut_with(&last, |sum, p| *sum = (*sum + f16::from_f32(*p).to_f32()) / count);
        Ok(mean)
    }
}
