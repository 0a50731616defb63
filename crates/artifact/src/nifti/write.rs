//! NIfTI bytes from arrays, on the geometry of a source image.
//!
//! The source's header is kept (placement, units, description, byte order, version); only the fields that describe
//! voxels change. Returned as bytes, so that [`crate::Commit`] writes them under the name the caller chose.

use super::Geometry;
use super::header::{SIZE_1, sniff};
use crate::{Error, Result};
use ::nifti::Endianness;
use libdeflater::{CompressionLvl, Compressor};
use ndarray::{ArrayView3, ArrayView4};
use std::path::Path;

/// Level of libdeflate; label maps shrink a hundredfold at any level, and this one is the fastest.
const LEVEL: i32 = 1;

/// Label values `[z, y, x]` as one `.nii` (or `.nii.gz`) file with the header of `geometry`.
///
/// Voxels are u8 if the values allow it, else u16, else i32. Same input, same bytes: the gzip header holds no time.
///
/// # Errors
/// If the array's shape isn't the geometry's.
pub fn encode_labels<T: Copy + Into<i32>>(
    labels: ArrayView3<'_, T>,
    geometry: &Geometry,
    gzip: bool,
) -> Result<Vec<u8>> {
    let (z, y, x) = labels.dim();
    check_shape([z, y, x], geometry)?;
    let (low, high) =
        labels.iter().fold((0, 0), |(low, high), &v| (low.min(v.into()), high.max(v.into())));
    let voxels = match (low, high) {
        (0.., ..=255) => Voxels { datatype: 2, bytes: 1 },
        (0.., ..=65535) => Voxels { datatype: 512, bytes: 2 },
        _ => Voxels { datatype: 8, bytes: 4 },
    };
    let (mut file, order) = header_for(geometry, 1, voxels)?;
    file.reserve_exact(labels.len() * voxels.bytes);
    let values = labels.iter().map(|&label| label.into());
    match voxels.bytes {
        // The range was just looked at.
        1 => file.extend(values.map(|v| v as u8)),
        2 => put(&mut file, values.map(|v| (v as u16).to_le_bytes()), order),
        _ => put(&mut file, values.map(i32::to_le_bytes), order),
    }
    finish(file, gzip)
}

/// Intensities `[channel, z, y, x]` as one f32 `.nii` (or `.nii.gz`) file with the header of `geometry`; 4D if there are
/// several channels.
///
/// # Errors
/// If the array's shape isn't the geometry's.
pub fn encode_image(
    channels: ArrayView4<'_, f32>,
    geometry: &Geometry,
    gzip: bool,
) -> Result<Vec<u8>> {
    let (count, z, y, x) = channels.dim();
    check_shape([z, y, x], geometry)?;
    let (mut file, order) = header_for(geometry, count, Voxels { datatype: 16, bytes: 4 })?;
    file.reserve_exact(channels.len() * 4);
    put(&mut file, channels.iter().map(|v| v.to_le_bytes()), order);
    finish(file, gzip)
}

/// Type code of the format, and bytes per voxel.
#[derive(Clone, Copy)]
struct Voxels {
    datatype: i16,
    bytes: usize,
}

fn fault(message: String) -> Error {
    Error::input(Path::new("NIfTI output"), message)
}

fn check_shape(shape: [usize; 3], geometry: &Geometry) -> Result<()> {
    if shape != geometry.shape {
        return Err(fault(format!(
            "array has shape {shape:?}, expected the geometry's {:?}",
            geometry.shape
        )));
    }
    Ok(())
}

/// Appends little-endian numbers in the file's byte order.
fn put<const N: usize>(
    file: &mut Vec<u8>,
    numbers: impl Iterator<Item = [u8; N]>,
    order: Endianness,
) {
    match order {
        Endianness::Little => numbers.for_each(|n| file.extend_from_slice(&n)),
        Endianness::Big => numbers.for_each(|n| file.extend(n.iter().rev())),
    }
}

/// Offsets of the fields that change, per version of the format.
struct Layout {
    magic: (usize, &'static [u8; 4]),
    dim: usize,
    /// NIfTI-1: i16 and f32. NIfTI-2: i64 and f64.
    wide: bool,
    datatype: usize,
    bitpix: usize,
    intent: usize,
    offset: usize,
    slope: usize,
    cal: usize,
}

const LAYOUT_1: Layout = Layout {
    magic: (344, b"n+1\0"),
    dim: 40,
    wide: false,
    datatype: 70,
    bitpix: 72,
    intent: 68,
    offset: 108,
    slope: 112,
    cal: 124,
};
const LAYOUT_2: Layout = Layout {
    magic: (4, b"n+2\0"),
    dim: 16,
    wide: true,
    datatype: 12,
    bitpix: 14,
    intent: 504,
    offset: 168,
    slope: 176,
    cal: 192,
};

/// The source's header, adapted, and the four zero bytes that say: no extensions.
fn header_for(
    geometry: &Geometry,
    channels: usize,
    voxels: Voxels,
) -> Result<(Vec<u8>, Endianness)> {
    let (order, size) =
        sniff(&geometry.header).map_err(|e| fault(format!("geometry.header: {e}")))?;
    let layout = if size == SIZE_1 { LAYOUT_1 } else { LAYOUT_2 };
    let mut patch = Patch { bytes: geometry.header[..size].to_vec(), order, wide: layout.wide };
    let rank = match (channels, patch.rank(layout.dim)) {
        (1, 2) if geometry.shape[0] == 1 => 2,
        (1, _) => 3,
        _ => 4,
    };
    let [z, y, x] = geometry.shape;
    for (axis, n) in [rank, x, y, z, channels, 1, 1, 1].into_iter().enumerate() {
        let n = i16::try_from(n)
            .map_err(|_| fault(format!("dim[{axis}] = {n}, expected at most 32767")))?;
        patch.count(layout.dim, axis, n);
    }
    patch.put(layout.datatype, &voxels.datatype.to_le_bytes());
    patch.put(layout.bitpix, &(8 * voxels.bytes as i16).to_le_bytes());
    // What the source's numbers meant (a statistic, a vector) doesn't hold for ours.
    patch.put(layout.intent, &[0; 4][..if layout.wide { 4 } else { 2 }]);
    let start = size + 4;
    if layout.wide {
        patch.put(layout.offset, &(start as i64).to_le_bytes());
    } else {
        patch.put(layout.offset, &(start as f32).to_le_bytes());
    }
    for (field, value) in [(layout.slope, [1.0, 0.0]), (layout.cal, [0.0, 0.0])] {
        patch.real(field, 0, value[0]);
        patch.real(field, 1, value[1]);
    }
    let mut header = patch.bytes;
    header[layout.magic.0..layout.magic.0 + 4].copy_from_slice(layout.magic.1);
    header.extend([0; 4]);
    Ok((header, order))
}

struct Patch {
    bytes: Vec<u8>,
    order: Endianness,
    wide: bool,
}

impl Patch {
    fn put(&mut self, at: usize, little: &[u8]) {
        let field = &mut self.bytes[at..at + little.len()];
        field.copy_from_slice(little);
        if self.order == Endianness::Big {
            field.reverse();
        }
    }

    fn count(&mut self, field: usize, index: usize, n: i16) {
        if self.wide {
            self.put(field + 8 * index, &i64::from(n).to_le_bytes());
        } else {
            self.put(field + 2 * index, &n.to_le_bytes());
        }
    }

    fn real(&mut self, field: usize, index: usize, value: f64) {
        if self.wide {
            self.put(field + 8 * index, &value.to_le_bytes());
        } else {
            self.put(field + 4 * index, &(value as f32).to_le_bytes());
        }
    }

    /// `dim[0]`: small and positive, so its low byte tells.
    fn rank(&self, field: usize) -> usize {
        let width = if self.wide { 8 } else { 2 };
        let low = if self.order == Endianness::Big { field + width - 1 } else { field };
        self.bytes[low].into()
    }
}

/// A NIfTI-1 header for an image at this place (LPS); `spacing` is x, y, z.
pub(super) fn header_at(spacing: [f64; 3], origin: [f64; 3], direction: [[f64; 3]; 3]) -> Vec<u8> {
    let mut patch = Patch { bytes: vec![0; SIZE_1], order: Endianness::Little, wide: false };
    patch.put(0, &348i32.to_le_bytes());
    patch.count(40, 0, 3);
    patch.put(123, &[2]); // xyzt_units: millimetres
    patch.put(254, &1i16.to_le_bytes()); // sform_code: scanner coordinates
    patch.real(76, 0, 1.0);
    let ras = [-1.0, -1.0, 1.0];
    for row in 0..3 {
        patch.real(76, row + 1, spacing[row]);
        for column in 0..3 {
            // `+ 0.0` turns −0 into 0.
            let step = ras[row] * direction[row][column] * spacing[column] + 0.0;
            patch.real(280 + 16 * row, column, step);
        }
        patch.real(280 + 16 * row, 3, ras[row] * origin[row] + 0.0);
    }
    patch.bytes
}

fn finish(file: Vec<u8>, gzip: bool) -> Result<Vec<u8>> {
    if !gzip {
        return Ok(file);
    }
    let level = CompressionLvl::new(LEVEL)
        .map_err(|e| fault(format!("compression level {LEVEL}: {e:?}")))?;
    let mut compressor = Compressor::new(level);
    let mut packed = vec![0; compressor.gzip_compress_bound(file.len())];
    let size = compressor
        .gzip_compress(&file, &mut packed)
        .map_err(|e| fault(format!("compression: {e}")))?;
    packed.truncate(size);
    Ok(packed)
}
