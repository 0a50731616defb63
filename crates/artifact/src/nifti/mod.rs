//! NIfTI images at the border: read as f32 `[channel, z, y, x]`, written with the source image's geometry.
//!
//! Reads `.nii`, `.nii.gz` and pairs `.hdr`/`.img` (each also `.gz`), NIfTI-1 and NIfTI-2, both byte orders, every
//! scalar type. 2D images are volumes of depth 1; the one axis longer than 1 after x, y, z holds the channels. Colour, complex and
//! 128-bit voxels are refused. Stored slope and intercept are applied; a header's nonsense is repaired as ITK
//! repairs it, or nibabel where nnU-Net reads by that.
//!
//! NIfTI-1's header comes from the `nifti` crate; reading bytes, checks, NIfTI-2, conversion and writing are here, because
//! that crate reads only the first gzip member, takes a NaN slope literally, scales in f32, believes a header's sizes,
//! and drops dots from file names.

mod byte_volume;
mod bytes;
mod header;
mod orientation;
mod voxels;
mod write;

use crate::image::Reader;
use crate::{Error, Result};
use header::Header;
use ndarray::Array4;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub(crate) use bytes::MOST_INFLATION;

pub use byte_volume::ByteVolume;
pub use write::{encode_image, encode_labels};

/// Where an image's voxels lie, and the header it came with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    /// Voxels along z, y, x.
    pub shape: [usize; 3],
    /// Millimetres along z, y, x.
    pub spacing_mm: [f64; 3],
    /// Centre of the first voxel in millimetres; x, y, z in ITK's LPS coordinates.
    pub origin_mm: [f64; 3],
    /// Column `j` is the direction of image axis `j` (x, y, z) in ITK's LPS coordinates: `direction[row][column]`.
    pub direction: [[f64; 3]; 3],
    /// The source's header as stored, so that a prediction can carry it byte for byte. Hexadecimal in records.
    #[serde(with = "hex")]
    pub header: Vec<u8>,
}

/// An image: intensities or label values, with their place in space.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Where the voxels lie.
    pub geometry: Geometry,
    /// `[channel, z, y, x]`, C order.
    pub channels: Array4<f32>,
}

/// Spacings that differ by less name the same spacing: the far end of 1000 voxels moves by a tenth of one. Tools write
/// spacings as f32 or as text with few digits.
const SPACING_TOLERANCE: f64 = 1e-4;

/// Placements agree if every corner of the image moves by less than this part of the smallest voxel edge.
const PLACEMENT_TOLERANCE: f64 = 0.1;

impl Geometry {
    /// An axis-aligned image that starts at 0, for data made by programs. `shape` and `spacing_mm` are z, y, x.
    pub fn plain(shape: [usize; 3], spacing_mm: [f64; 3]) -> Self {
        let direction = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        Self::placed(shape, spacing_mm, [0.0; 3], direction)
    }

    /// An image at a place, with a header that says so, for data made by programs; fields as they are named.
    pub fn placed(
        shape: [usize; 3],
        spacing_mm: [f64; 3],
        origin_mm: [f64; 3],
        direction: [[f64; 3]; 3],
    ) -> Self {
        let [z, y, x] = spacing_mm;
        let header = write::header_at([x, y, z], origin_mm, direction);
        Self { shape, spacing_mm, origin_mm, direction, header }
    }

    /// Same grid and same place; see [`Self::same_grid`] and [`Self::same_place`]. The error is one line.
    pub fn agrees(&self, other: &Self) -> std::result::Result<(), String> {
        self.same_grid(other)?;
        self.same_place(other)
    }

    /// Same shape, and spacing equal to a part in 10⁴.
    pub fn same_grid(&self, other: &Self) -> std::result::Result<(), String> {
        if self.shape != other.shape {
            return Err(format!("shape {:?}, expected {:?} (z, y, x)", self.shape, other.shape));
        }
        let near = |a: f64, b: f64| (a - b).abs() <= SPACING_TOLERANCE * a.abs().max(b.abs());
        if !self.spacing_mm.iter().zip(other.spacing_mm).all(|(&a, b)| near(a, b)) {
            return Err(format!(
                "spacing {:?} mm, expected {:?} (z, y, x)",
                self.spacing_mm, other.spacing_mm
            ));
        }
        Ok(())
    }

    /// Same position in space: no corner of the image differs by a tenth of a voxel or more.
    pub fn same_place(&self, other: &Self) -> std::result::Result<(), String> {
        let edge = self.spacing_mm.into_iter().fold(f64::INFINITY, f64::min);
        let [z, y, x] = self.shape.map(|n| n.saturating_sub(1) as f64);
        let mut moved = 0f64;
        for corner in 0..8 {
            let at = |bit: usize, last: f64| if corner >> bit & 1 == 1 { last } else { 0.0 };
            let voxel = [at(0, x), at(1, y), at(2, z)];
            let (a, b) = (self.position(voxel), other.position(voxel));
            moved = moved.max((0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt());
        }
        if moved < PLACEMENT_TOLERANCE * edge {
            return Ok(());
        }
        Err(format!(
            "corners lie up to {moved:.3} mm apart: origin {:?}, direction {:?}, expected {:?}, {:?}",
            self.origin_mm, self.direction, other.origin_mm, other.direction
        ))
    }

    /// Centre of a voxel (index x, y, z) in LPS millimetres.
    pub(crate) fn position(&self, voxel: [f64; 3]) -> [f64; 3] {
        let [sz, sy, sx] = self.spacing_mm;
        let steps = [voxel[0] * sx, voxel[1] * sy, voxel[2] * sz];
        let mut position = self.origin_mm;
        for row in 0..3 {
            position[row] +=
                (0..3).map(|column| self.direction[row][column] * steps[column]).sum::<f64>();
        }
        position
    }

    fn of(header: &Header, reader: Reader) -> std::result::Result<Self, String> {
        let placement = orientation::place_by(reader, header)?;
        let ([x, y, z], _) = header.extents();
        let [sx, sy, sz] = placement.spacing;
        // Sizes of any number of digits, in columns whose squares are 0, or in units that leave nothing of them.
        if !placement.spacing.iter().all(|s| s.is_finite() && *s > 0.0) {
            let spacing = placement.spacing;
            return Err(format!("has spacing {spacing:?} mm (x, y, z), expected positive numbers"));
        }
        Ok(Self {
            shape: [z, y, x],
            spacing_mm: [sz, sy, sx],
            origin_mm: placement.origin,
            direction: placement.direction,
            header: header.bytes.clone(),
        })
    }
}

/// Reads an image by ITK's rules. All faults of the file are one-line errors; memory is bounded by what the file really
/// holds.
pub fn read(path: &Path) -> Result<Volume> {
    read_by(Reader::SimpleItk, path)
}

pub(crate) fn read_by(reader: Reader, path: &Path) -> Result<Volume> {
    let stored = files_of(path)?.iter().map(|p| bytes::read_file(p)).collect::<Result<Vec<_>>>()?;
    decode_by(reader, path, stored)
}

/// The files an image consists of: itself, or header and voxels of a pair.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(match bytes::pair_of(path)? {
        Some((header, voxels)) => vec![header, voxels],
        None => vec![path.into()],
    })
}

/// Decodes the contents of [`files_of`] `path`, in that order, for callers that need the bytes themselves too.
pub fn decode(path: &Path, stored: Vec<Vec<u8>>) -> Result<Volume> {
    decode_by(Reader::SimpleItk, path, stored)
}

pub(crate) fn decode_by(reader: Reader, path: &Path, mut stored: Vec<Vec<u8>>) -> Result<Volume> {
    let invalid = |e: String| Error::input(path, e);
    let voxels = stored.pop().ok_or_else(|| invalid("no content".into()))?;
    let header = bytes::parse_header(path, stored.first().unwrap_or(&voxels))?;
    if header.pair == stored.is_empty() {
        let kind = if header.pair { "a pair of .hdr and .img" } else { "a single .nii" };
        return Err(invalid(format!("magic says {kind}, which the file name does not")));
    }
    let geometry = Geometry::of(&header, reader).map_err(invalid)?;
    let scaling = header.scaling(reader).map_err(invalid)?;
    let needed = header.needed_bytes().map_err(invalid)?;
    let content = bytes::inflate(path, voxels, needed)?;
    let ([x, y, z], channels) = header.extents();
    // x is the fastest on disk, hence C order here.
    let values = voxels::convert(&header, scaling, &content);
    let channels = Array4::from_shape_vec((channels, z, y, x), values)
        .map_err(|e| invalid(format!("voxels: {e}")))?;
    Ok(Volume { geometry, channels })
}

/// Geometry and channel count from the first bytes of the file. Voxels aren't looked at.
pub fn read_header(path: &Path) -> Result<(Geometry, usize)> {
    read_header_by(Reader::SimpleItk, path)
}

pub(crate) fn read_header_by(reader: Reader, path: &Path) -> Result<(Geometry, usize)> {
    let files = files_of(path)?;
    let header = bytes::parse_header(path, &bytes::read_start(&files[0])?)?;
    let geometry = Geometry::of(&header, reader).map_err(|e| Error::input(path, e))?;
    header.scaling(reader).map_err(|e| Error::input(path, e))?;
    Ok((geometry, header.extents().1))
}

/// Whether the file is as long as its header says. Its size and end tell of most; others are read whole.
pub(crate) fn check_length(reader: Reader, path: &Path) -> Result<()> {
    let files = files_of(path)?;
    let header = bytes::parse_header(path, &bytes::read_start(&files[0])?)?;
    let needed = header.needed_bytes().map_err(|e| Error::input(path, e))?;
    let voxels = files.last().unwrap_or(&files[0]);
    if header.pair == (files.len() > 1) && bytes::ends_as_told(voxels, needed)? {
        return Ok(());
    }
    read_by(reader, path).map(drop)
}

/// Bytes as hexadecimal text in records.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if !text.len().is_multiple_of(2) || !text.is_ascii() {
            return Err(D::Error::custom("header is not an even number of hexadecimal digits"));
        }
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16))
            .collect::<Result<_, _>>()
            .map_err(|e| D::Error::custom(format!("header is not hexadecimal: {e}")))
    }
}
