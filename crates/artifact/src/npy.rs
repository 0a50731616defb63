//! `.npy` files: version 1, C order, little endian; f32, f16, i16, u8, i32, i64.
//!
//! Reading goes through ndarray-npy, after the header's claim is held against the file's size: a lying header is
//! refused before anything is allocated. f16, which ndarray-npy doesn't know, is read and written here.

use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, Dimension, IxDyn};
use ndarray_npy::ViewNpyExt;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Element types that artifacts may hold.
pub trait Element: Copy + 'static {
    /// numpy's descriptor, such as `<f4`.
    const DESCRIPTOR: &'static str;
    /// Name for messages, such as `f32`.
    const NAME: &'static str;
    /// Appends the values' little-endian bytes.
    fn put(values: &[Self], out: &mut Vec<u8>);
}

macro_rules! element {
    ($($type:ty, $descriptor:literal, $name:literal;)*) => {$(
        impl Element for $type {
            const DESCRIPTOR: &'static str = $descriptor;
            const NAME: &'static str = $name;
            fn put(values: &[Self], out: &mut Vec<u8>) {
                let begin = out.len();
                out.resize(begin + size_of_val(values), 0);
                let bytes = out[begin..].as_chunks_mut().0;
                bytes.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
            }
        }
    )*};
}
element! {
    f32, "<f4", "f32"; half::f16, "<f2", "f16"; i16, "<i2", "i16"; u8, "|u1", "u8";
    i32, "<i4", "i32"; i64, "<i8", "i64"; f64, "<f8", "f64";
}

/// What a `.npy` header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// numpy's descriptor.
    pub descriptor: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where the data begins.
    pub data_offset: usize,
}

/// The bytes of a `.npy` file.
pub fn encode<T: Element, D: Dimension>(array: &ArrayView<'_, T, D>) -> Vec<u8> {
    let mut out = encode_header::<T>(array.shape());
    out.reserve_exact(array.len() * size_of::<T>());
    let Ok(()) = in_parts(array, |values| {
        T::put(values, &mut out);
        Ok::<(), Infallible>(())
    });
    out
}

/// Writes what [`encode`] gives, piece by piece.
///
/// # Errors
/// As the writer.
pub(crate) fn write<T: Element, D: Dimension>(
    array: &ArrayView<'_, T, D>,
    to: &mut dyn Write,
) -> std::io::Result<()> {
    to.write_all(&encode_header::<T>(array.shape()))?;
    let mut bytes = Vec::with_capacity(PART * size_of::<T>());
    in_parts(array, |values| {
        bytes.clear();
        T::put(values, &mut bytes);
        to.write_all(&bytes)
    })
}

/// Values that are turned into bytes at a time.
const PART: usize = 1 << 16;

/// An array's values in C order, some at a time.
fn in_parts<T: Element, D: Dimension, E>(
    array: &ArrayView<'_, T, D>,
    mut part: impl FnMut(&[T]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    if let Some(values) = array.as_slice() {
        return values.chunks(PART).try_for_each(part);
    }
    let mut values = array.iter().copied();
    loop {
        let next: Vec<T> = values.by_ref().take(PART).collect();
        if next.is_empty() {
            return Ok(());
        }
        part(&next)?;
    }
}

/// The bytes before the data of a `.npy` file, for arrays that are written piece by piece ([`crate::Commit::stream`]).
pub fn encode_header<T: Element>(shape: &[usize]) -> Vec<u8> {
    let edges: Vec<String> = shape.iter().map(usize::to_string).collect();
    let shape = if edges.len() == 1 {
        format!("({},)", edges[0])
    } else {
        format!("({})", edges.join(", "))
    };
    let mut header =
        format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", T::DESCRIPTOR)
            .into_bytes();
    // Magic (6), version (2), length (2), header, newline: a multiple of 64, so that maps are aligned.
    let padded = (10 + header.len() + 1).next_multiple_of(64);
    header.resize(padded - 11, b' ');
    header.push(b'\n');
    let length = u16::try_from(header.len()).expect("an array of at most a few dozen axes");
    let mut out = Vec::with_capacity(padded);
    out.extend_from_slice(b"\x93NUMPY\x01\x00");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header);
    out
}

/// The way out of an array that isn't what its header says.
pub(crate) const DAMAGED: &str = "the file is cut off or was overwritten; make it again";

/// Longest header with what stands before it: magic (6), version (2), length (2).
pub(crate) const LONGEST_HEADER: u64 = 10 + u16::MAX as u64;

/// Reads the header and checks it against the file's size.
///
/// # Errors
/// If it isn't `.npy` version 1, C order, or if its shape doesn't fit the file.
pub fn header(path: &Path, bytes: &[u8]) -> Result<NpyHeader> {
    let (header, expected) = claim(path, bytes)?;
    let found = bytes.len() - header.data_offset;
    if expected != Some(found) {
        let NpyHeader { descriptor, shape, .. } = &header;
        return Err(Error::input(
            path,
            format!("holds {found} bytes of data, but its header says {descriptor} {shape:?}"),
        )
        .hint(DAMAGED));
    }
    Ok(header)
}

/// What the header at the beginning of `bytes` says, and how many bytes of data that takes; None if more than memory can
/// hold.
///
/// # Errors
/// If it isn't `.npy` version 1, C order.
pub(crate) fn claim(path: &Path, bytes: &[u8]) -> Result<(NpyHeader, Option<usize>)> {
    let broken = |what: &str| Error::input(path, format!("not a .npy file: {what}"));
    if bytes.len() < 10 || &bytes[..6] != b"\x93NUMPY" {
        return Err(broken("does not begin with the magic bytes"));
    }
    if bytes[6] != 1 {
        return Err(broken(&format!("version {}, expected 1", bytes[6])));
    }
    let data_offset = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = bytes.get(10..data_offset).and_then(|t| std::str::from_utf8(t).ok());
    let text = text.ok_or_else(|| broken("the header is cut off"))?;
    let descriptor =
        between(text, "'descr': '", "'").ok_or_else(|| broken("no descr in the header"))?;
    if between(text, "'fortran_order': ", ",") != Some("False") {
        return Err(Error::input(path, "fortran_order = True, expected C order")
            .hint("numpy.ascontiguousarray(array) before numpy.save"));
    }
    let shape = between(text, "'shape': (", ")").ok_or_else(|| broken("no shape in the header"))?;
    let shape: Option<Vec<usize>> =
        shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect();
    let shape = shape.ok_or_else(|| broken("shape is not a tuple of integers"))?;
    let item: usize =
        descriptor.get(2..).and_then(|s| s.parse().ok()).ok_or_else(|| broken("unknown descr"))?;
    // The nonzero axes alone must fit too: a 0 beside them hides an overflow that readers run into.
    let mut without_zeros = shape.iter().filter(|&&edge| edge > 0);
    let largest = without_zeros.try_fold(item, |n, &edge| n.checked_mul(edge));
    let possible = largest.is_some_and(|n| isize::try_from(n).is_ok());
    let expected = if shape.contains(&0) { Some(0) } else { largest }.filter(|_| possible);
    Ok((NpyHeader { descriptor: descriptor.into(), shape, data_offset }, expected))
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let start = text.find(from)? + from.len();
    let length = text[start..].find(to)?;
    Some(&text[start..start + length])
}

/// A `.npy` file mapped into memory: pages are read when they are touched.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Mmap,
    header: NpyHeader,
}

impl Mapped {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// If it can't be opened or its header doesn't fit the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "read", &e))?;
        #[expect(unsafe_code, reason = "memory maps are unsafe by nature")]
        // SAFETY: artifacts are replaced by rename, never changed in place, so the mapped bytes stay what they are
        // as long as the map lives; this is the rule of `Commit`, and the specification asks it of foreign stages.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", &e))?;
        let header = header(path, &map)?;
        Ok(Self { path: path.into(), map, header })
    }

    /// Shape as in the file.
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// What the header says.
    pub fn header(&self) -> &NpyHeader {
        &self.header
    }

    /// Every element as f64, in C order, for tools that take any type; None for types that aren't an [`Element`]
    /// or bool. An i64 beyond 2⁵³ is rounded.
    pub fn values(&self) -> Option<Box<dyn Iterator<Item = f64> + '_>> {
        let data = &self.map[self.header.data_offset..];
        macro_rules! of {
            ($type:ty, $to_f64:expr) => {
                Box::new(data.as_chunks().0.iter().map(|b| $to_f64(<$type>::from_le_bytes(*b))))
            };
        }
        Some(match self.header.descriptor.as_str() {
            "<f8" => of!(f64, f64::from),
            "<f4" => of!(f32, f64::from),
            "<f2" => of!(half::f16, half::f16::to_f64),
            "<i8" => of!(i64, |v| v as f64),
            "<i4" => of!(i32, f64::from),
            "<i2" => of!(i16, f64::from),
            "|u1" | "|b1" => of!(u8, f64::from),
            _ => return None,
        })
    }

    /// Values `range` of an f16 array, in C order, as f32: for arrays that are read piece by piece.
    ///
    /// # Errors
    /// If the element type isn't f16.
    ///
    /// # Panics
    /// If `range` reaches beyond the array.
    pub fn f16_values(&self, range: Range<usize>) -> Result<Vec<f32>> {
        check_type::<half::f16>(&self.path, &self.header)?;
        let data = self.map[self.header.data_offset..].as_chunks::<2>().0;
        let halves: Vec<half::f16> =
            data[range].iter().map(|bytes| half::f16::from_le_bytes(*bytes)).collect();
        Ok(halves.to_f32_vec())
    }

    /// The array, without a copy.
    ///
    /// # Errors
    /// If the element type or the number of axes differs.
    pub fn view<T: Element + ndarray_npy::ViewElement, D: Dimension>(
        &self,
    ) -> Result<ArrayView<'_, T, D>> {
        check_type::<T>(&self.path, &self.header)?;
        let view = ArrayViewD::<T>::view_npy(&self.map)
            .map_err(|e| Error::input(&self.path, format!("not a readable .npy file: {e}")))?;
        view.into_dimensionality::<D>().map_err(|_| wrong_axes::<D>(&self.path, &self.header))
    }
}

fn check_type<T: Element>(path: &Path, header: &NpyHeader) -> Result<()> {
    if header.descriptor == T::DESCRIPTOR {
        return Ok(());
    }
    Err(Error::input(
        path,
        format!("holds {}, expected {} ({})", header.descriptor, T::DESCRIPTOR, T::NAME),
    )
    .hint(format!("array.astype(\"{}\") before numpy.save", T::DESCRIPTOR)))
}

fn wrong_axes<D: Dimension>(path: &Path, header: &NpyHeader) -> Error {
    let expected = D::NDIM.unwrap_or_default();
    Error::input(path, format!("has shape {:?}, expected {expected} axes", header.shape))
}

/// An f32 array from the bytes of a `.npy` file; `path` is for messages.
///
/// # Errors
/// As [`header`]; also if the element type isn't f32.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<ArrayD<f32>> {
    let header = header(path, bytes)?;
    check_type::<f32>(path, &header)?;
    let data = bytes[header.data_offset..].as_chunks().0;
    let values = data.iter().map(|b| f32::from_le_bytes(*b)).collect();
    ArrayD::from_shape_vec(IxDyn(&header.shape), values)
        .map_err(|e| Error::input(path, format!("not a readable .npy file: {e}")))
}

/// Reads an array into memory.
///
/// # Errors
/// As [`Mapped::open`] and [`Mapped::view`].
pub fn read<T: Element + ndarray_npy::ViewElement, D: Dimension>(
    path: &Path,
) -> Result<Array<T, D>> {
    Ok(Mapped::open(path)?.view::<T, D>()?.to_owned())
}

/// Reads an f16 array as f32.
///
/// # Errors
/// As [`read`].
pub fn read_f16<D: Dimension>(path: &Path) -> Result<Array<f32, D>> {
    let mapped = Mapped::open(path)?;
    check_type::<half::f16>(path, &mapped.header)?;
    let data = mapped.map[mapped.header.data_offset..].chunks_exact(2);
    let values: Vec<f32> = data.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let array = ArrayD::from_shape_vec(IxDyn(&mapped.header.shape), values);
    let array = array.map_err(|e| Error::input(path, format!("not a readable .npy file: {e}")))?;
    array.into_dimensionality::<D>().map_err(|_| wrong_axes::<D>(path, &mapped.header))
}
