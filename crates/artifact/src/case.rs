//! `CASE/case.toml` with `image.npy`, `label.npy`, `foreground.npy`: one preprocessed case of one configuration.
//!
//! - `image.npy` f32 `[channel, z, y, x]`, plan axes (after the plan's transpose), resampled and normalised.
//! - `label.npy` i16 `[z, y, x]`: class index (not the data set's value); −1 = outside the nonzero mask. Not written
//!   for cases without a label.
//! - `foreground.npy` i32 `[n, 4]`: rows (class index, z, y, x), sorted by class then position. Goes with `label.npy`.

use crate::nifti::Geometry;
use crate::npy::Mapped;
use crate::{Error, Kind, Record, Result};
use ndarray::{Array2, ArrayView3, ArrayView4, Ix3, Ix4};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Name of the image array.
pub const IMAGE: &str = "image.npy";
/// Name of the label array.
pub const LABEL: &str = "label.npy";
/// Name of the foreground locations.
pub const FOREGROUND: &str = "foreground.npy";

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What the arrays are.
    pub case: CaseInfo,
    /// How to get back to the original grid.
    pub original: Original,
}

/// What the arrays are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseInfo {
    /// Case id.
    pub id: String,
    /// Configuration it was made for.
    pub configuration: String,
    /// Channels of the image.
    pub channels: usize,
    /// Classes including background.
    pub classes: usize,
    /// Shape of the arrays.
    pub shape: [usize; 3],
    /// Spacing of the arrays (plan axes).
    pub spacing_mm: [f64; 3],
    /// Whether there is a label.
    pub labelled: bool,
}

/// How to get back to the original grid: undo in the order resample → crop → transpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// Plan axis `i` is image axis `transpose[i]`.
    pub transpose: [usize; 3],
    /// Crop box in plan axes: first voxel.
    pub crop_lower: [usize; 3],
    /// Crop box in plan axes: one past the last voxel.
    pub crop_upper: [usize; 3],
    /// Shape and spacing in image axes, origin, direction and the source's header.
    pub geometry: Geometry,
}

impl Original {
    /// Shape of the crop box (plan axes): the shape before resampling.
    pub fn cropped_shape(&self) -> [usize; 3] {
        std::array::from_fn(|i| self.crop_upper[i] - self.crop_lower[i])
    }

    /// Shape in plan axes before cropping.
    pub fn transposed_shape(&self) -> [usize; 3] {
        self.transpose.map(|axis| self.geometry.shape[axis])
    }

    /// Spacing in plan axes before resampling.
    pub fn transposed_spacing_mm(&self) -> [f64; 3] {
        self.transpose.map(|axis| self.geometry.spacing_mm[axis])
    }
}

impl Kind for Case {
    const KIND: &'static str = "case";
    const VERSION: u32 = 1;

    fn check(&self) -> std::result::Result<(), String> {
        let c = &self.case;
        crate::record::check_name("case.id", &c.id)?;
        if c.channels == 0 || c.shape.contains(&0) {
            return Err(format!(
                "case.channels = {}, case.shape = {:?}, expected no zeros",
                c.channels, c.shape
            ));
        }
        let o = &self.original;
        let mut sorted = o.transpose;
        sorted.sort_unstable();
        if sorted != [0, 1, 2] {
            return Err(format!(
                "original.transpose = {:?}, expected a permutation of [0, 1, 2]",
                o.transpose
            ));
        }
        for axis in 0..3 {
            let (lower, upper, edge) =
                (o.crop_lower[axis], o.crop_upper[axis], o.transposed_shape()[axis]);
            if lower >= upper || upper > edge {
                return Err(format!(
                    "original.crop box is {lower}..{upper} on axis {axis}, expected within 0..{edge}"
                ));
            }
        }
        Ok(())
    }
}

/// A case with its arrays mapped, shapes checked against the record. Clones share the maps.
#[derive(Debug, Clone)]
pub struct OpenCase {
    /// The record.
    pub record: Record<Case>,
    image: Arc<Mapped>,
    label: Option<Arc<Mapped>>,
    foreground: Option<Arc<Array2<i32>>>,
}

impl OpenCase {
    /// Opens `CASE/case.toml` and maps its arrays.
    ///
    /// # Errors
    /// If record and arrays disagree.
    pub fn open(path: &Path) -> Result<Self> {
        let record = Record::<Case>::load(path)?;
        let info = &record.body.case;
        let [z, y, x] = info.shape;
        let image = Mapped::open(&path.with_file_name(IMAGE))?;
        expect_shape(path, IMAGE, image.shape(), &[info.channels, z, y, x])?;
        image.view::<f32, Ix4>()?;
        let (mut label, mut foreground) = (None, None);
        if info.labelled {
            let mapped = Mapped::open(&path.with_file_name(LABEL))?;
            expect_shape(path, LABEL, mapped.shape(), &info.shape)?;
            mapped.view::<i16, Ix3>()?;
            label = Some(Arc::new(mapped));
            foreground = Some(Arc::new(read_foreground(path, info)?));
        }
        Ok(Self { record, image: Arc::new(image), label, foreground })
    }

    /// `[channel, z, y, x]`.
    pub fn image(&self) -> ArrayView4<'_, f32> {
        self.image.view().expect("checked when opened")
    }

    /// `[z, y, x]`; class indices, −1 outside the nonzero mask.
    pub fn label(&self) -> Option<ArrayView3<'_, i16>> {
        self.label.as_ref().map(|l| l.view().expect("checked when opened"))
    }

    /// Rows (class index, z, y, x), sorted by class.
    pub fn foreground(&self) -> Option<&Array2<i32>> {
        self.foreground.as_deref()
    }
}

fn read_foreground(path: &Path, info: &CaseInfo) -> Result<Array2<i32>> {
    let file = path.with_file_name(FOREGROUND);
    let rows: Array2<i32> = crate::npy::read(&file)?;
    if rows.ncols() != 4 {
        return Err(Error::input(
            &file,
            format!("has {} columns, expected 4 (class, z, y, x)", rows.ncols()),
        ));
    }
    for row in rows.rows() {
        let class = usize::try_from(row[0]).unwrap_or(usize::MAX);
        let inside = (0..3).all(|a| usize::try_from(row[a + 1]).is_ok_and(|v| v < info.shape[a]));
        if class == 0 || class >= info.classes || !inside {
            return Err(Error::input(
                &file,
                format!(
                    "has row {row}, outside classes 1..{} or shape {:?}",
                    info.classes, info.shape
                ),
            ));
        }
    }
    if !rows.column(0).iter().is_sorted() {
        return Err(Error::input(&file, "rows are not sorted by class"));
    }
    Ok(rows)
}

fn expect_shape(record: &Path, name: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let file = record.with_file_name(name);
    Err(Error::input(
        &file,
        format!("has shape {found:?}, but {} says {expected:?}", record.display()),
    )
    .hint("the file was changed after its record was written; preprocess this case again"))
}
