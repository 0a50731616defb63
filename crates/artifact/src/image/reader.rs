//! nnU-Net's classes that read images: whose rule says how intensities are scaled, how far voxels lie apart and where the
//! image lies in space, and whether it is turned to RAS (x to right, y to anterior, z to superior) before anything else.
//!
//! Source of the rules: nnU-Net 2.8.1 `nnunetv2/imageio`, nibabel 5.4 `io_orientation`, `get_best_affine`,
//! `get_slope_inter`, `as_reoriented`,
//! ITK 5.4 `DICOMOrientation`. A turned image keeps its file's header: what is predicted on it goes back to the file's own
//! axes, so that it carries that header byte for byte.

use super::turn::Turn;
use super::{is_picture, png};
use crate::nifti::{self, Geometry, Volume};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a data set's images are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// `SimpleITKIO`, and `NaturalImage2DIO` for pictures: as stored, by ITK's rule.
    #[default]
    SimpleItk,
    /// `SimpleITKIOWithReorient`: turned to RAS by ITK's rule.
    SimpleItkRas,
    /// `NibabelIO`: as stored, by nibabel's rule.
    Nibabel,
    /// `NibabelIOWithReorient`: turned to RAS by nibabel's rule.
    NibabelRas,
}

/// nnU-Net's classes that are followed, and the endings of their files.
const CLASSES: [(&str, Reader, &[&str]); 5] = [
    ("SimpleITKIO", Reader::SimpleItk, &ITK),
    ("SimpleITKIOWithReorient", Reader::SimpleItkRas, &ITK),
    ("NibabelIO", Reader::Nibabel, &NIBABEL),
    ("NibabelIOWithReorient", Reader::NibabelRas, &NIBABEL),
    ("NaturalImage2DIO", Reader::SimpleItk, &[".png", ".bmp", ".tif"]),
];

/// First what nnU-Net's class says to read, then what ITK reads by the same rules. Pictures it reads by others: colours
/// become an axis, black and white 0 and 255.
const ITK: [&str; 11] = [
    ".nii.gz", ".nrrd", ".mha", ".gipl", ".nii", ".hdr", ".hdr.gz", ".img", ".img.gz", ".nhdr",
    ".mhd",
];

/// Likewise of nibabel.
const NIBABEL: [&str; 6] = [".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"];

impl Reader {
    /// The reader that nnU-Net's class is; `key` says where it stands.
    ///
    /// # Errors
    /// If the class isn't known, or reads what these programs can't.
    pub fn of_class(key: &str, class: &str) -> std::result::Result<Self, String> {
        if let Some((_, reader, _)) = CLASSES.iter().find(|(name, ..)| *name == class) {
            return Ok(*reader);
        }
        let names: Vec<&str> = CLASSES.iter().map(|(name, ..)| *name).collect();
        let why = match class {
            "Tiff3DIO" => "which reads TIFF files; convert these images to NIfTI",
            _ => "which no one here knows; images that it changes would be taken for others",
        };
        Err(format!("{key} = \"{class}\", {why}; expected one of {}", names.join(", ")))
    }

    /// The name for people: nnU-Net's.
    pub fn name(self) -> &'static str {
        self.class().unwrap_or("SimpleITKIO")
    }

    /// nnU-Net's class; none for [`Self::SimpleItk`], where it depends on the file ending.
    pub fn class(self) -> Option<&'static str> {
        let mut classes = CLASSES.iter().filter(|(_, reader, _)| *reader != Self::SimpleItk);
        classes.find(|(_, reader, _)| *reader == self).map(|(class, ..)| *class)
    }

    /// Whether nnU-Net's class reads files of this ending; `key` says where the class stands, `files` what has the ending,
    /// such as `file_ending = ".png"`. Unknown classes are [`Self::of_class`]'s to refuse.
    ///
    /// # Errors
    /// One line, if not: found, and the classes that do.
    pub fn check_class(
        key: &str,
        class: &str,
        (ending, files): (&str, &str),
    ) -> std::result::Result<(), String> {
        // nnU-Net looks for endings in small letters.
        let ending = ending.to_lowercase();
        let reads = |all: &[&str]| all.contains(&ending.as_str());
        let known = CLASSES.iter().find(|(name, ..)| *name == class);
        let Some((.., all)) = known.filter(|(.., all)| !reads(all)) else { return Ok(()) };
        let others = CLASSES.iter().filter(|(.., all)| reads(all)).map(|(name, ..)| *name);
        let others: Vec<&str> = others.collect();
        let expected = match others.is_empty() {
            true => String::new(),
            false => format!("; expected a class that does, such as {}", others.join(", ")),
        };
        let all = all.join(" ");
        Err(format!("{key} = \"{class}\", which reads {all}, but {files}{expected}"))
    }

    /// Whether files of this ending can be read so.
    ///
    /// # Errors
    /// One line, if not.
    pub fn check_ending(self, key: &str, ending: &str) -> std::result::Result<(), String> {
        let files = format!("file_ending = \"{ending}\"");
        self.class().map_or(Ok(()), |class| Self::check_class(key, class, (ending, &files)))
    }

    /// Whether it's the default, which records leave out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether images are turned to RAS.
    pub fn turns(self) -> bool {
        matches!(self, Self::SimpleItkRas | Self::NibabelRas)
    }

    /// Whether nibabel's rule holds, else ITK's.
    pub(crate) fn is_nibabel(self) -> bool {
        matches!(self, Self::Nibabel | Self::NibabelRas)
    }

    /// Reads an image, its axes as stored. All faults of the file are one-line errors; memory is bounded by what the file
    /// really holds.
    ///
    /// # Errors
    /// If the file can't be read, or not by this reader.
    pub fn read(self, path: &Path) -> Result<Volume> {
        if is_picture(path) {
            self.refuse_picture(path)?;
            return super::read(path);
        }
        nifti::read_by(self, path)
    }

    /// Decodes the contents of [`super::files_of`] `path`, in that order, for callers that need the bytes themselves too.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn decode(self, path: &Path, stored: Vec<Vec<u8>>) -> Result<Volume> {
        if is_picture(path) {
            self.refuse_picture(path)?;
            let bytes =
                stored.into_iter().next().ok_or_else(|| Error::input(path, "no content"))?;
            return png::decode(path, &bytes);
        }
        nifti::decode_by(self, path, stored)
    }

    /// Geometry (axes as stored) and channel count. Of a volume's file only the first bytes are read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_header(self, path: &Path) -> Result<(Geometry, usize)> {
        if is_picture(path) {
            self.refuse_picture(path)?;
            return super::read_header(path);
        }
        nifti::read_header_by(self, path)
    }

    /// Whether an image's file is as long as its header says: by its size and its end, and only where these don't tell by
    /// reading it whole. Voxels that are damaged in between aren't noticed.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn check_length(self, path: &Path) -> Result<()> {
        if !is_picture(path) {
            return nifti::check_length(self, path);
        }
        self.refuse_picture(path)?;
        let bytes = crate::file::read(path, "read this image")?;
        if png::is_ended(&bytes) {
            return png::header(path, &bytes).map(drop);
        }
        png::decode(path, &bytes).map(drop)
    }

    fn refuse_picture(self, path: &Path) -> Result<()> {
        match self.class() {
            None => Ok(()),
            Some(class) => Err(Error::input(path, format!("is a picture, which {class} can't read"))
                .hint("the data set's reader stands in its dataset.json and in plan.toml (dataset.reader)")),
        }
    }

    /// From an image's axes as stored to those that the data set is looked at in.
    pub fn turn(self, geometry: &Geometry) -> Turn {
        match self {
            Self::SimpleItk | Self::Nibabel => Turn::NONE,
            Self::SimpleItkRas => to_ras(closest_by_itk(&geometry.direction)),
            Self::NibabelRas => to_ras(closest_by_nibabel(&geometry.direction)),
        }
    }

    /// The turn that gives an image the axes of another one as stored; none where images are looked at as stored.
    pub fn turn_like(self, image: &Geometry, other: &Geometry) -> Turn {
        self.turn(image).then(self.turn(other).inverse())
    }
}

/// For each image axis x, y, z the body axis that it runs along (0 left–right, 1 posterior–anterior, 2 superior–inferior)
/// and whether it runs to left, posterior, or superior.
type Closest = [(usize, bool); 3];

fn to_ras(closest: Closest) -> Turn {
    let mut turn = Turn::NONE;
    for (image, (body, positive)) in closest.into_iter().enumerate() {
        // Array axes z, y, x are image axes 2, 1, 0. LPS and RAS differ in the sign of the first two.
        turn.axes[2 - body] = 2 - image;
        turn.flip[2 - body] = positive == (body < 2);
    }
    turn
}

/// The largest cosine of all decides first, then the largest of the axes left; of equal ones the last, row by row.
fn closest_by_itk(direction: &[[f64; 3]; 3]) -> Closest {
    let mut closest = [(0, true); 3];
    let (mut rows, mut columns) = (vec![0, 1, 2], vec![0, 1, 2]);
    while let (Some(&row), Some(&column)) = (rows.first(), columns.first()) {
        let mut best = (row, column);
        for &row in &rows {
            for &column in &columns {
                if direction[row][column].abs() >= direction[best.0][best.1].abs() {
                    best = (row, column);
                }
            }
        }
        closest[best.1] = (best.0, direction[best.0][best.1] > 0.0);
        rows.retain(|row| *row != best.0);
        columns.retain(|column| *column != best.1);
    }
    closest
}

/// The rotation nearest to the axes' directions, image axes from the surest to the least sure.
pub(crate) fn closest_by_nibabel(direction: &[[f64; 3]; 3]) -> Closest {
    let mut rotation = nearest_rotation(direction);
    let strength =
        |column: usize| (0..3).map(|row| rotation[row][column].powi(2)).fold(0.0, f64::max);
    let strengths = [0, 1, 2].map(strength);
    let mut order = [0, 1, 2];
    order.sort_by(|&a: &usize, &b: &usize| strengths[b].total_cmp(&strengths[a]));
    let mut closest = [(0, true); 3];
    for column in order {
        let mut best = 0;
        for row in 1..3 {
            if rotation[row][column].abs() > rotation[best][column].abs() {
                best = row;
            }
        }
        closest[column] = (best, rotation[best][column] > 0.0);
        // No other image axis gets this one.
        rotation[best] = [0.0; 3];
    }
    closest
}

/// The orthogonal factor of the polar decomposition, by Newton's iteration X ← (X + X⁻ᵀ) / 2, which doubles the right
/// digits in every step. The columns are never close to dependent: such images are refused when they are read.
fn nearest_rotation(matrix: &[[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let mut x = *matrix;
    for _ in 0..60 {
        let Some(inverse) = inverse_transposed(&x) else { return x };
        let mut moved = 0f64;
        for (row, inverse) in x.iter_mut().zip(inverse) {
            for (value, inverse) in row.iter_mut().zip(inverse) {
                let next = (*value + inverse) / 2.0;
                moved = moved.max((next - *value).abs());
                *value = next;
            }
        }
        if moved < 1e-15 {
            break;
        }
    }
    x
}

/// X⁻ᵀ: the cofactors over the determinant; none if that is 0.
fn inverse_transposed(x: &[[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    let minor = |row: usize, column: usize| {
        let (a, b) = ((row + 1) % 3, (row + 2) % 3);
        let (c, d) = ((column + 1) % 3, (column + 2) % 3);
        x[a][c] * x[b][d] - x[a][d] * x[b][c]
    };
    let cofactors: [[f64; 3]; 3] = [0, 1, 2].map(|row| [0, 1, 2].map(|column| minor(row, column)));
    let determinant: f64 = (0..3).map(|column| x[0][column] * cofactors[0][column]).sum();
    (determinant != 0.0).then(|| cofactors.map(|row| row.map(|value| value / determinant)))
}
