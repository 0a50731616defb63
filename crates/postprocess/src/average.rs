//! The unweighted mean of several predictions' probabilities, slab by slab.
//!
//! f16 values are summed in f32 in the order given and divided once, as nnU-Net's ensembling does; memory is a few slabs,
//! whatever the number of classes and members.

use crate::decision::{Decision, Rule};
use artifact::npy::Mapped;
use artifact::{Error, Result};
use ndarray::{Array3, ArrayView3};
use std::ops::Range;
use std::path::PathBuf;

/// Voxels of a slab, about: 4 MB of f32.
const SLAB_VOXELS: usize = 1 << 20;

/// Probabilities of one case by several models; `probabilities.npy` f16 `[output, z, y, x]`.
#[derive(Debug)]
pub struct Members {
    files: Vec<(PathBuf, Mapped)>,
    shape: [usize; 3],
    outputs: usize,
}

impl Members {
    /// Maps the files; each must hold `outputs` maps of `shape` (z, y, x).
    ///
    /// # Errors
    /// If one is missing, broken, or of another type or shape.
    pub fn open(paths: &[PathBuf], outputs: usize, shape: [usize; 3]) -> Result<Self> {
        let [z, y, x] = shape;
        let open = |path: &PathBuf| {
            let file = Mapped::open(path)?;
            let found = &file.header().shape;
            if *found != [outputs, z, y, x] {
                let expected = [outputs, z, y, x];
                return Err(Error::input(
                    path,
                    format!("has shape {found:?}, expected {expected:?} (output, z, y, x)"),
                )
                .hint("predict this case again with --probabilities"));
            }
            // Tells the type now rather than at the first slab.
            file.f16_values(0..0)?;
            Ok((path.clone(), file))
        };
        let files: Result<Vec<_>> = paths.iter().map(open).collect();
        Ok(Self { files: files?, shape, outputs })
    }

    /// Ranges along z that cover the volume.
    pub fn slabs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let [depth, height, width] = self.shape;
        let step = (SLAB_VOXELS / (height * width).max(1)).max(1);
        (0..depth).step_by(step).map(move |z| z..(z + step).min(depth))
    }

    /// Mean of one output over a range along z: `[z, y, x]`.
    ///
    /// # Errors
    /// If a file holds something that isn't a probability.
    pub fn mean(&self, output: usize, z: Range<usize>) -> Result<Array3<f32>> {
        let [depth, height, width] = self.shape;
        let at = |z: usize| (output * depth + z) * height * width;
        let mut sum: Vec<f32> = Vec::new();
        for (path, file) in &self.files {
            let values = file.f16_values(at(z.start)..at(z.end))?;
            if let Some(bad) = values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
                return Err(Error::input(path, format!("holds {bad}, expected 0 to 1")));
            }
            if sum.is_empty() {
                sum = values;
            } else {
                sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
            }
        }
        let count = self.files.len() as f32;
        sum.iter_mut().for_each(|value| *value /= count);
        let shape = (z.len(), height, width);
        Ok(Array3::from_shape_vec(shape, sum).expect("values of a range have its shape"))
    }

    /// Class indices of the mean, told slab by slab: range along z, classes `[z, y, x]`.
    ///
    /// # Errors
    /// As [`Self::mean`].
    pub fn segment(
        &self,
        rule: &Rule,
        each: &mut dyn FnMut(Range<usize>, ArrayView3<'_, i16>),
    ) -> Result<()> {
        let [_, height, width] = self.shape;
        for z in self.slabs() {
            let mut decision = Decision::new([z.len(), height, width], rule);
            for output in 0..self.outputs {
                decision.see(output, self.mean(output, z.clone())?.view());
            }
            each(z, decision.into_classes().view());
        }
        Ok(())
    }

    /// Class indices of the mean, `[z, y, x]`.
    ///
    /// # Errors
    /// As [`Self::mean`].
    pub fn classes(&self, rule: &Rule) -> Result<Array3<i16>> {
        let mut classes = Array3::zeros(self.shape);
        self.segment(rule, &mut |z, slab| {
            classes.slice_mut(ndarray::s![z, .., ..]).assign(&slab);
        })?;
        Ok(classes)
    }
}
