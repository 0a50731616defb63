//! `CASE/case.toml` with `image.npy`, `label.npy`, `foreground.npy`: one preprocessed case of one configuration.
//!
//! - `image.npy` f32 `[channel, z, y, x]`, plan axes (after the plan's transpose), resampled and normalised.
//! - `label.npy` i16 `[z, y, x]`: class index (not the data set's value); −1 = outside the nonzero mask; `classes` = the
//!   ignore label, where the data set has one. Not written for cases without a label.
//! - `foreground.npy` i32 `[n, 4]`: rows (class index, z, y, x), sorted by class then position. Goes with `label.npy`.
//!   In a data set with regions the first number is the region's, from 1; with an ignore label, rows with −1 are
//!   annotated voxels of any class.

use crate::image::Turn;
use crate::nifti::Geometry;
use crate::npy::{self, Mapped};
use crate::recipe::AnatomicalAxis;
use crate::{Error, Kind, Record, Result};
use ndarray::{ArrayView2, ArrayView3, ArrayView4, Ix4};
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
    /// Classes including background, without the ignore label.
    pub classes: usize,
    /// Regions; 0 for most data sets.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub regions: usize,
    /// Whether the data set has an ignore label.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore: bool,
    /// Shape of the arrays.
    pub shape: [usize; 3],
    /// Spacing of the arrays (plan axes).
    pub spacing_mm: [f64; 3],
    /// Whether there is a label.
    pub labelled: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_unflipped(flip: &[bool; 3]) -> bool {
    *flip == [false; 3]
}

/// How to get back to the original grid: undo in the order resample → crop → flip → transpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// Plan axis `i` is image axis `transpose[i]`.
    pub transpose: [usize; 3],
    /// Plan axis `i` runs against that image axis: the image was turned to RAS.
    #[serde(default, skip_serializing_if = "is_unflipped")]
    pub flip: [bool; 3],
    /// Crop box in plan axes: first voxel.
    pub crop_lower: [usize; 3],
    /// Crop box in plan axes: one past the last voxel.
    pub crop_upper: [usize; 3],
    /// Shape and spacing in image axes, origin, direction and the source's header.
    pub geometry: Geometry,
}

impl Original {
    /// From image axes (as stored) to plan axes.
    pub fn turn(&self) -> Turn {
        Turn { axes: self.transpose, flip: self.flip }
    }

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

    /// The plan axis that lies closest to an axis of the body, by the image's direction.
    ///
    /// Each body axis gets a plan axis of its own: the assignment with the largest sum of cosines; of equally good
    /// ones the first in the order of plan axes.
    pub fn anatomical_axis(&self, body: AnatomicalAxis) -> usize {
        const ORDERS: [[usize; 3]; 6] =
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        // Direction columns are image axes x, y, z; array axes are z, y, x.
        let cosine =
            |row: usize, axis: usize| self.geometry.direction[row][2 - self.transpose[axis]].abs();
        let sum = |order: [usize; 3]| (0..3).map(|row| cosine(row, order[row])).sum::<f64>();
        let mut best = ORDERS[0];
        for order in ORDERS {
            // A margin, so that rounding doesn't decide between directions that are equally close.
            if sum(order) > sum(best) + 1e-9 {
                best = order;
            }
        }
        best[body as usize]
    }

    /// Those of `axes` (plan axes) that may be mirrored when these axes of the body must not be.
    pub fn mirror_axes(&self, axes: &[usize], never: &[AnatomicalAxis]) -> Vec<usize> {
        let forbidden: Vec<usize> = never.iter().map(|&body| self.anatomical_axis(body)).collect();
        axes.iter().copied().filter(|axis| !forbidden.contains(axis)).collect()
    }
}

impl Kind for Case {
    const KIND: &'static str = "case";
    const VERSION: u32 = 1;

    fn check(&self) -> std::result::Result<(), String> {
        let c = &self.case;
        crate::record::check_name("case.id", &c.id)?;
        for (field, n) in [("channels", c.channels), ("classes", c.classes)] {
            if !(1..=MOST_CLASSES).contains(&n) {
                return Err(format!("case.{field} = {n}, expected 1 to {MOST_CLASSES}"));
            }
        }
        let o = &self.original;
        check_grid("case", c.shape, c.spacing_mm)?;
        check_grid("original.geometry", o.geometry.shape, o.geometry.spacing_mm)?;
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

/// As many classes as there are label values (0 to 32767), and no data set has more channels.
const MOST_CLASSES: usize = 1 << 15;

/// No image holds larger numbers, normalised or not, and the squares of larger ones, summed over a patch, overflow an f32.
pub const MOST_INTENSITY: f32 = 1e12;

/// More voxels than any image has that a stage could hold: 4096³, 256 GiB as f32. Below it, sizes in bytes can't overflow,
/// even of an f64 per class: 2³⁶ × 2¹⁵ × 2³ = 2⁵⁴.
pub const MOST_VOXELS: usize = 1 << 36;

fn check_grid(
    field: &str,
    shape: [usize; 3],
    spacing_mm: [f64; 3],
) -> std::result::Result<(), String> {
    let voxels = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
    if !voxels.is_some_and(|n| (1..=MOST_VOXELS).contains(&n)) {
        return Err(format!("{field}.shape = {shape:?}, expected 1 to 2^36 voxels"));
    }
    if !spacing_mm.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err(format!("{field}.spacing_mm = {spacing_mm:?}, expected positive numbers"));
    }
    Ok(())
}

/// A case with its arrays mapped; shapes, label and foreground checked against the record. Clones share the maps.
#[derive(Debug, Clone)]
pub struct OpenCase {
    /// The record.
    pub record: Record<Case>,
    image: Arc<Mapped>,
    label: Option<Arc<Mapped>>,
    foreground: Option<Arc<Mapped>>,
}

impl OpenCase {
    /// Opens `CASE/case.toml` and maps its arrays.
    ///
    /// # Errors
    /// If record and arrays disagree, the image holds what is no number, the label what is no class, or the foreground what
    /// is no place in them. All are read for that, and none is kept: what was read, the system may forget.
    pub fn open(path: &Path) -> Result<Self> {
        let record = Record::<Case>::load(path)?;
        let info = &record.body.case;
        let [z, y, x] = info.shape;
        let image = Mapped::open(&path.with_file_name(IMAGE))?;
        expect_shape(path, IMAGE, image.shape(), &[info.channels, z, y, x])?;
        let numbers = image.view::<f32, Ix4>()?;
        npy::check_numbers(&path.with_file_name(IMAGE), &numbers, f32::MAX)?;
        let (mut label, mut foreground) = (None, None);
        if info.labelled {
            let mapped = Mapped::open(&path.with_file_name(LABEL))?;
            expect_shape(path, LABEL, mapped.shape(), &info.shape)?;
            check_classes(&path.with_file_name(LABEL), mapped.view()?, info)?;
            label = Some(Arc::new(mapped));
            let mapped = Mapped::open(&path.with_file_name(FOREGROUND))?;
            check_foreground(mapped.path(), mapped.view()?, info)?;
            foreground = Some(Arc::new(mapped));
        }
        Ok(Self { record, image: Arc::new(image), label, foreground })
    }

    /// `[channel, z, y, x]`.
    pub fn image(&self) -> ArrayView4<'_, f32> {
        self.image.view().expect("checked when opened")
    }

    /// The image's file.
    pub fn image_file(&self) -> &Path {
        self.image.path()
    }

    /// One line if the image holds a number of which no network makes anything: beyond ±[`MOST_INTENSITY`].
    ///
    /// # Errors
    /// File, place and number.
    pub fn check_intensities(&self) -> Result<()> {
        npy::check_numbers(self.image.path(), &self.image(), MOST_INTENSITY)
    }

    /// `[z, y, x]`; class indices, −1 outside the nonzero mask.
    pub fn label(&self) -> Option<ArrayView3<'_, i16>> {
        self.label.as_ref().map(|l| l.view().expect("checked when opened"))
    }

    /// Rows (class index, z, y, x), sorted by class.
    pub fn foreground(&self) -> Option<ArrayView2<'_, i32>> {
        self.foreground.as_ref().map(|f| f.view().expect("checked when opened"))
    }
}

fn check_classes(file: &Path, label: ArrayView3<'_, i16>, info: &CaseInfo) -> Result<()> {
    let classes = info.classes + usize::from(info.ignore);
    let limit = i32::try_from(classes).unwrap_or(i32::MAX);
    let outside = |class: i16| class < -1 || i32::from(class) >= limit;
    // Without an early end the compiler can look at many voxels at once; where it is matters only if there is one.
    if !label.iter().fold(false, |any, class| any | outside(*class)) {
        return Ok(());
    }
    match label.indexed_iter().find(|(_, class)| outside(**class)) {
        None => Ok(()),
        Some(((z, y, x), class)) => Err(Error::input(
            file,
            format!(
                "holds class {class} at voxel [{z}, {y}, {x}] (z, y, x), expected -1 to {} ({classes} classes)",
                classes - 1
            ),
        )
        .hint("the file doesn't belong to its record; preprocess this case again")),
    }
}

fn check_foreground(file: &Path, rows: ArrayView2<'_, i32>, info: &CaseInfo) -> Result<()> {
    if rows.ncols() != 4 {
        return Err(Error::input(
            file,
            format!("has {} columns, expected 4 (class, z, y, x)", rows.ncols()),
        ));
    }
    for row in rows.rows() {
        let classes = if info.regions > 0 { info.regions + 1 } else { info.classes };
        let known = usize::try_from(row[0]).is_ok_and(|class| (1..classes).contains(&class));
        let inside = (0..3).all(|a| usize::try_from(row[a + 1]).is_ok_and(|v| v < info.shape[a]));
        if !(known || info.ignore && row[0] == -1) || !inside {
            return Err(Error::input(
                file,
                format!("has row {row}, outside classes 1..{classes} or shape {:?}", info.shape),
            ));
        }
    }
    if !rows.column(0).iter().is_sorted() {
        return Err(Error::input(file, "rows are not sorted by class"));
    }
    Ok(())
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
