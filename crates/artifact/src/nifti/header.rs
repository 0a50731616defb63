//! The header of a NIfTI file: 348 bytes (version 1) or 540 bytes (version 2), in either byte order.
//!
//! Version 1 is parsed by the `nifti` crate; version 2, which that crate doesn't know, is parsed here.
//!
//! Fields that make no sense are repaired as the format's own library repairs them (nifti1_io, hence ITK, SimpleITK,
//! 3D Slicer and nnU-Net's default reader): later axes of no length, an offset inside the header, numbers that aren't
//! finite. `tests/golden/nifti/make_repairs.py` asks SimpleITK about each. Where nnU-Net's nibabel readers see something
//! else, in slope, intercept and the codes of qform and sform, it's the reader that decides.

use crate::image::Reader;
use ::nifti::{Endianness, NiftiHeader, NiftiType};

/// Bytes of a version 1 header.
pub(super) const SIZE_1: usize = 348;
/// Bytes of a version 2 header.
pub(super) const SIZE_2: usize = 540;
/// Bytes to read in order to have a whole header of either version.
pub(super) const SIZE_MAX: usize = SIZE_2;

/// Everything later steps need from a header of either version.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The header exactly as stored.
    pub bytes: Vec<u8>,
    /// Byte order of header and voxels.
    pub order: Endianness,
    /// `dim[1..]`, as far as `dim[0]` says; each at least 1 and at most 32767.
    pub dim: Vec<usize>,
    /// Element type; always one that [`Header::check_type`] lets through.
    pub element: NiftiType,
    /// `pixdim[0..4]`: qfac, then x, y, z as stored.
    pub pixdim: [f64; 4],
    /// Offset of the voxels from the start of their file.
    pub offset: u64,
    /// As stored; [`Header::scaling`] says what a reader makes of them.
    pub slope: f64,
    /// As stored.
    pub inter: f64,
    /// 0 if unset.
    pub qform_code: i32,
    /// 0 if unset.
    pub sform_code: i32,
    /// b, c, d.
    pub quaternion: [f64; 3],
    /// Translation of the qform.
    pub qoffset: [f64; 3],
    /// Rows x, y, z.
    pub srow: [[f64; 4]; 3],
    /// Millimetres per unit of length.
    pub unit_mm: f64,
    /// The voxels are in a second file (`.img`).
    pub pair: bool,
}

/// Byte order and version by the first field, which is the header's own size.
pub(super) fn sniff(bytes: &[u8]) -> Result<(Endianness, usize), String> {
    let first: [u8; 4] = match bytes.first_chunk() {
        Some(first) => *first,
        None => return Err(format!("header has {} bytes, expected {SIZE_1}", bytes.len())),
    };
    let (order, size) = match (i32::from_le_bytes(first), i32::from_be_bytes(first)) {
        (348, _) => (Endianness::Little, SIZE_1),
        (_, 348) => (Endianness::Big, SIZE_1),
        (540, _) => (Endianness::Little, SIZE_2),
        (_, 540) => (Endianness::Big, SIZE_2),
        (found, _) => {
            return Err(format!("sizeof_hdr = {found}, expected 348 (NIfTI-1) or 540 (NIfTI-2)"));
        }
    };
    if bytes.len() < size {
        return Err(format!("header has {} bytes, expected {size}", bytes.len()));
    }
    Ok((order, size))
}

impl Header {
    /// Parses the header at the start of `bytes`. Errors are one line: field, found, expected.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (order, size) = sniff(bytes)?;
        let bytes = &bytes[..size];
        if size == SIZE_1 { parse_1(bytes, order) } else { parse_2(bytes, order) }
    }

    /// Spatial extents x, y, z and the product of all further axes. Missing axes count 1.
    pub fn extents(&self) -> ([usize; 3], usize) {
        let at = |axis: usize| self.dim.get(axis).copied().unwrap_or(1);
        ([at(0), at(1), at(2)], self.dim.iter().skip(3).product())
    }

    /// Bytes of all voxels.
    pub fn voxel_bytes(&self) -> Result<u64, String> {
        let values = self.dim.iter().try_fold(1u64, |all, &n| all.checked_mul(n as u64));
        values
            .and_then(|n| n.checked_mul(self.element.size_of() as u64))
            .ok_or_else(|| format!("dim = {:?} is more voxels than a file can hold", self.dim))
    }

    /// Slope and intercept by which a reader scales the voxels, where they change anything.
    ///
    /// By ITK's rule a slope of (nearly) 0, NaN or infinity counts as 1, an intercept of NaN or infinity as 0. To nibabel
    /// (`Nifti1Header.get_slope_inter`) a slope of 0, NaN or infinity says that nothing is scaled, the intercept included;
    /// any other slope counts, and beside it an intercept of NaN or infinity is an error.
    pub fn scaling(&self, reader: Reader) -> Result<Option<(f64, f64)>, String> {
        let (mut slope, mut inter) = (self.slope, self.inter);
        if reader.is_nibabel() {
            if slope == 0.0 || !slope.is_finite() {
                return Ok(None);
            }
            if !inter.is_finite() {
                return Err(format!(
                    "scl_inter = {inter} beside scl_slope = {slope}, expected a finite number"
                ));
            }
        } else {
            slope = if slope.is_finite() && slope.abs() > f64::EPSILON { slope } else { 1.0 };
            inter = if inter.is_finite() { inter } else { 0.0 };
        }
        Ok((slope != 1.0 || inter != 0.0).then_some((slope, inter)))
    }

    /// How many bytes the voxels' file must have.
    pub fn needed_bytes(&self) -> Result<u64, String> {
        self.voxel_bytes()?
            .checked_add(self.offset)
            .ok_or_else(|| format!("vox_offset = {} is too large", self.offset))
    }
}

fn parse_1(bytes: &[u8], order: Endianness) -> Result<Header, String> {
    let magic = &bytes[344..348];
    let pair = magic_is_pair(magic, b"n+1\0", b"ni1\0")?;
    let h = NiftiHeader::from_reader(bytes).map_err(|e| format!("header: {e}"))?;
    if h.endianness != order {
        return Err(format!(
            "dim[0] = {} in the byte order of sizeof_hdr, expected 2 to 7",
            h.dim[0].swap_bytes()
        ));
    }
    // The crate holds dim as unsigned; on disk it's signed.
    let dim = h.dim.map(|n| i64::from(n.cast_signed()));
    let f = f64::from;
    Ok(Header {
        bytes: bytes.to_vec(),
        order,
        dim: check_dim(dim)?,
        element: check_type(h.datatype)?,
        pixdim: [f(h.pixdim[0]), f(h.pixdim[1]), f(h.pixdim[2]), f(h.pixdim[3])],
        offset: check_offset(f(h.vox_offset), pair, SIZE_1)?,
        slope: f(h.scl_slope),
        inter: f(h.scl_inter),
        qform_code: h.qform_code.into(),
        sform_code: h.sform_code.into(),
        quaternion: finite([f(h.quatern_b), f(h.quatern_c), f(h.quatern_d)]),
        qoffset: finite([f(h.quatern_x), f(h.quatern_y), f(h.quatern_z)]),
        srow: [h.srow_x.map(f), h.srow_y.map(f), h.srow_z.map(f)],
        unit_mm: unit_mm(h.xyzt_units.into()),
        pair,
    })
}

/// Field offsets of the NIfTI-2 header: nifti2.h of the format's authors.
fn parse_2(bytes: &[u8], order: Endianness) -> Result<Header, String> {
    let pair = magic_is_pair(&bytes[4..8], b"n+2\0", b"ni2\0")?;
    let fields = Fields { bytes, order };
    let f64s = |at: usize| fields.f64(at);
    let row = |at: usize| [f64s(at), f64s(at + 8), f64s(at + 16), f64s(at + 24)];
    let mut dim = [0; 8];
    for (axis, n) in dim.iter_mut().enumerate() {
        *n = fields.i64(16 + 8 * axis);
    }
    Ok(Header {
        bytes: bytes.to_vec(),
        order,
        dim: check_dim(dim)?,
        element: check_type(fields.i16(12))?,
        pixdim: row(104),
        // An i64 on disk; offsets beyond 2^53 exceed every file, so the conversion can't hide one.
        offset: check_offset(fields.i64(168) as f64, pair, SIZE_2)?,
        slope: f64s(176),
        inter: f64s(184),
        qform_code: fields.i32(344),
        sform_code: fields.i32(348),
        quaternion: finite([f64s(352), f64s(360), f64s(368)]),
        qoffset: finite([f64s(376), f64s(384), f64s(392)]),
        srow: [row(400), row(432), row(464)],
        unit_mm: unit_mm(fields.i32(500)),
        pair,
    })
}

struct Fields<'a> {
    bytes: &'a [u8],
    order: Endianness,
}

impl Fields<'_> {
    /// The `N` bytes at `at`, turned to little endian.
    fn raw<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut raw = [0; N];
        raw.copy_from_slice(&self.bytes[at..at + N]);
        if self.order == Endianness::Big {
            raw.reverse();
        }
        raw
    }

    fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.raw(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.raw(at))
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.raw(at))
    }

    fn f64(&self, at: usize) -> f64 {
        f64::from_le_bytes(self.raw(at))
    }
}

fn magic_is_pair(found: &[u8], single: &[u8; 4], pair: &[u8; 4]) -> Result<bool, String> {
    match found {
        m if m == single => Ok(false),
        m if m == pair => Ok(true),
        m => Err(format!(
            "magic = \"{}\", expected \"{}\" or \"{}\"",
            m.escape_ascii(),
            single.escape_ascii(),
            pair.escape_ascii()
        )),
    }
}

fn check_dim(dim: [i64; 8]) -> Result<Vec<usize>, String> {
    let Ok(rank @ 2..=7) = usize::try_from(dim[0]) else {
        return Err(format!("dim[0] = {}, expected 2 to 7 axes", dim[0]));
    };
    let mut checked = Vec::with_capacity(rank);
    for (axis, &n) in dim.iter().enumerate().take(rank + 1).skip(1) {
        match n {
            1..=32767 => checked.push(n as usize),
            // An axis that isn't there; without the first there is no image.
            ..=0 if axis > 1 => checked.push(1),
            _ => return Err(format!("dim[{axis}] = {n}, expected 1 to 32767")),
        }
    }
    if checked.iter().skip(3).filter(|n| **n > 1).count() > 1 {
        return Err(format!(
            "dim = {checked:?}, expected at most one axis longer than 1 after x, y, z (the channels)"
        ));
    }
    Ok(checked)
}

/// Scalars only: an image's channels are axes, never parts of a voxel.
fn check_type(code: i16) -> Result<NiftiType, String> {
    let scalars = "expected a scalar type (u8 i8 u16 i16 u32 i32 u64 i64 f32 f64)";
    let element = match code {
        2 => NiftiType::Uint8,
        4 => NiftiType::Int16,
        8 => NiftiType::Int32,
        16 => NiftiType::Float32,
        64 => NiftiType::Float64,
        256 => NiftiType::Int8,
        512 => NiftiType::Uint16,
        768 => NiftiType::Uint32,
        1024 => NiftiType::Int64,
        1280 => NiftiType::Uint64,
        _ => {
            let name = match code {
                1 => "one bit per voxel",
                32 => "complex of two f32",
                128 => "RGB",
                1536 => "128-bit float",
                1792 => "complex of two f64",
                2048 => "complex of two 128-bit floats",
                2304 => "RGBA",
                _ => "unknown",
            };
            return Err(format!("datatype = {code} ({name}), {scalars}"));
        }
    };
    Ok(element)
}

fn check_offset(offset: f64, pair: bool, header: usize) -> Result<u64, String> {
    // In a file of its own nothing stands before the voxels that could be meant. Of a single file the four bytes between
    // header and voxels (extension flag) may be missing.
    let least = if pair { 0.0 } else { header as f64 };
    match offset {
        _ if offset.is_nan() || (offset < least && !pair) => Ok(least as u64),
        _ if offset >= least && offset < 9e15 => Ok(offset as u64),
        _ => Err(format!("vox_offset = {offset}, expected at least {least}")),
    }
}

/// Numbers of the qform that aren't finite count as 0.
fn finite(values: [f64; 3]) -> [f64; 3] {
    values.map(|value| if value.is_finite() { value } else { 0.0 })
}

fn unit_mm(xyzt_units: i32) -> f64 {
    match xyzt_units & 7 {
        1 => 1000.0,
        3 => 0.001,
        _ => 1.0,
    }
}
