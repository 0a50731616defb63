//! `.npy` files: version 1, C order, little endian; f32, f16, i16, u8, i32, i64.
//!
//! A header is a Python literal; of those only the one that NumPy writes is understood, a dictionary of `descr`,
//! `fortran_order` and `shape`, in one pass without recursion: nested brackets can't make it slow or deep. Its claim is
//! held against the file's size before anything is allocated, and arrays are views of the mapped bytes.

use crate::{Error, Result, file};
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, Dimension, IxDyn};
use std::convert::Infallible;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const _: () = assert!(cfg!(target_endian = "little"), "arrays are views of little-endian files");

/// Element types that artifacts may hold: any bytes of their size are a value.
pub trait Element: Copy + FromBytes + IntoBytes + Immutable + 'static {
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

/// Magic (6), version (2), length of the header (2).
pub(crate) const PREFIX: usize = 10;

/// Axes at most, as in NumPy.
const MOST_AXES: usize = 64;

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
    let data_offset = data_offset(path, bytes)?;
    let text = bytes.get(PREFIX..data_offset).and_then(|t| std::str::from_utf8(t).ok());
    let text = text.ok_or_else(|| broken("the header is cut off"))?;
    let Literal { descriptor, fortran_order, shape } =
        Literal::parse(text).map_err(|e| broken(&e))?;
    if fortran_order {
        return Err(Error::input(path, "fortran_order = True, expected C order")
            .hint("numpy.ascontiguousarray(array) before numpy.save"));
    }
    let item = descriptor.get(2..).and_then(whole).ok_or_else(|| broken("unknown descr"))?;
    // The nonzero axes alone must fit too: a 0 beside them hides an overflow that readers run into.
    let mut without_zeros = shape.iter().filter(|&&edge| edge > 0);
    let largest = without_zeros.try_fold(item, |n, &edge| n.checked_mul(edge));
    let possible = largest.is_some_and(|n| isize::try_from(n).is_ok());
    let expected = if shape.contains(&0) { Some(0) } else { largest }.filter(|_| possible);
    Ok((NpyHeader { descriptor: descriptor.into(), shape, data_offset }, expected))
}

/// Where the data begins, by the first [`PREFIX`] bytes.
///
/// # Errors
/// If it isn't `.npy` version 1.
pub(crate) fn data_offset(path: &Path, bytes: &[u8]) -> Result<usize> {
    let broken = |what: &str| Error::input(path, format!("not a .npy file: {what}"));
    if bytes.len() < PREFIX || &bytes[..6] != b"\x93NUMPY" {
        return Err(match file::foreign(bytes).filter(|_| !bytes.starts_with(b"\x93NUM")) {
            Some(found) => broken(&format!("is {}", found.name)).hint(found.hint),
            None => broken("does not begin with the magic bytes"),
        });
    }
    if bytes[6] != 1 {
        return Err(broken(&format!("version {}, expected 1", bytes[6])));
    }
    Ok(PREFIX + usize::from(u16::from_le_bytes([bytes[8], bytes[9]])))
}

/// The dictionary in a header.
struct Literal<'a> {
    descriptor: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Literal<'a> {
    /// Exactly the three keys, each once, in any order, as NumPy's own reader asks; spaces wherever Python allows them.
    fn parse(text: &'a str) -> std::result::Result<Self, String> {
        const KEYS: &str = "descr, fortran_order and shape";
        let (mut descriptor, mut fortran_order, mut shape) = (None, None, None);
        let mut scan = Scan(text);
        if !scan.eat('{') {
            return Err("the header is not a dictionary".into());
        }
        while !scan.eat('}') {
            let key = scan.quoted().filter(|_| scan.eat(':'));
            let taken = match key {
                Some("descr") => {
                    let found = scan.quoted().ok_or("descr is not a plain type such as '<f4'")?;
                    descriptor.replace(found).is_some()
                }
                Some("fortran_order") => {
                    let found = scan.word();
                    let found = found.ok_or("fortran_order is not True or False")?;
                    fortran_order.replace(found).is_some()
                }
                Some("shape") => shape.replace(scan.shape()?).is_some(),
                Some(other) => {
                    let other: String = other.escape_debug().take(40).collect();
                    return Err(format!("the header has a key '{other}', expected {KEYS}"));
                }
                None => return Err(format!("the header is not a dictionary of {KEYS}")),
            };
            if taken {
                return Err("the header has a key twice".into());
            }
            if !scan.eat(',') && !scan.at('}') {
                return Err(format!("the header is not a dictionary of {KEYS}"));
            }
        }
        if !scan.blank() {
            return Err("the header goes on after its dictionary".into());
        }
        Ok(Self {
            descriptor: descriptor.ok_or("no descr in the header")?,
            fortran_order: fortran_order.ok_or("no fortran_order in the header")?,
            shape: shape.ok_or("no shape in the header")?,
        })
    }
}

/// The rest of a header, read from left to right once.
struct Scan<'a>(&'a str);

impl<'a> Scan<'a> {
    fn blank(&mut self) -> bool {
        self.0 = self.0.trim_ascii_start();
        self.0.is_empty()
    }

    fn at(&mut self, next: char) -> bool {
        self.0 = self.0.trim_ascii_start();
        self.0.starts_with(next)
    }

    fn eat(&mut self, next: char) -> bool {
        let there = self.at(next);
        if there {
            self.0 = &self.0[next.len_utf8()..];
        }
        there
    }

    /// A string without escapes.
    fn quoted(&mut self) -> Option<&'a str> {
        let quote = ['\'', '"'].into_iter().find(|quote| self.eat(*quote))?;
        let (text, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        (!text.contains('\\')).then_some(text)
    }

    fn word(&mut self) -> Option<bool> {
        for (word, value) in [("True", true), ("False", false)] {
            self.blank();
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest;
                return Some(value);
            }
        }
        None
    }

    /// A tuple of whole numbers.
    fn shape(&mut self) -> std::result::Result<Vec<usize>, String> {
        const WRONG: &str = "shape is not a tuple of integers";
        if !self.eat('(') {
            return Err(WRONG.into());
        }
        let (edges, rest) = self.0.split_once(')').ok_or(WRONG)?;
        self.0 = rest;
        if edges.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        // One comma may stand at the end; a lone number needs it.
        let trimmed = edges.trim_ascii();
        let edges = trimmed.strip_suffix(',').unwrap_or(trimmed);
        let count = edges.split(',').count();
        if count > MOST_AXES {
            return Err(format!("shape has {count} axes, expected at most {MOST_AXES}"));
        }
        let edges: Option<Vec<usize>> = edges.split(',').map(|e| whole(e.trim_ascii())).collect();
        edges.ok_or_else(|| WRONG.into())
    }
}

/// Digits and nothing else.
fn whole(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
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
        let file = file::open(path, "read")?;
        #[expect(unsafe_code, reason = "memory maps are unsafe by nature")]
        // SAFETY: artifacts are replaced by rename, never changed in place, so the mapped bytes stay what they are
        // as long as the map lives; this is the rule of `Commit`, and the specification asks it of foreign stages.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", &e))?;
        let header = header(path, &map)?;
        Ok(Self { path: path.into(), map, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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
        Ok(self.elements::<half::f16>()?[range].to_f32_vec())
    }

    /// The array, without a copy.
    ///
    /// # Errors
    /// If the element type or the number of axes differs.
    pub fn view<T: Element, D: Dimension>(&self) -> Result<ArrayView<'_, T, D>> {
        let view = ArrayViewD::from_shape(IxDyn(&self.header.shape), self.elements::<T>()?)
            .map_err(|e| Error::input(&self.path, format!("not a readable .npy file: {e}")))?;
        view.into_dimensionality::<D>().map_err(|_| wrong_axes::<D>(&self.path, &self.header))
    }

    /// All elements in C order.
    fn elements<T: Element>(&self) -> Result<&[T]> {
        check_type::<T>(&self.path, &self.header)?;
        let at = self.header.data_offset;
        <[T]>::ref_from_bytes(&self.map[at..]).map_err(|_| {
            let align = align_of::<T>();
            let message = format!(
                "its data begins at byte {at}, expected a multiple of {align} ({})",
                T::NAME
            );
            Error::input(&self.path, message).hint("write it with numpy.save")
        })
    }
}

pub(crate) fn check_type<T: Element>(path: &Path, header: &NpyHeader) -> Result<()> {
    if header.descriptor == T::DESCRIPTOR {
        return Ok(());
    }
    Err(Error::input(
        path,
        format!("holds {}, expected {} ({})", header.descriptor, T::DESCRIPTOR, T::NAME),
    )
    .hint(format!("array.astype(\"{}\") before numpy.save", T::DESCRIPTOR)))
}

/// One line if a number is NaN, infinite or beyond ±`most`: which one. [`f32::MAX`] lets all pass that are numbers.
///
/// # Errors
/// The first such number in the array's order.
pub fn check_numbers<D: Dimension>(
    path: &Path,
    values: &ArrayView<'_, f32, D>,
    most: f32,
) -> Result<()> {
    // NaN compares as false. Without an early end the compiler can look at many numbers at once.
    if values.fold(true, |fit, v| fit & (v.abs() <= most)) {
        return Ok(());
    }
    let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !(-most..=most).contains(*v))
    else {
        return Ok(());
    };
    let message = match value.is_finite() {
        true => format!("value {at} is {value:e}, expected -{most:e} to {most:e}"),
        false => format!("value {at} is NaN or infinite, expected numbers"),
    };
    Err(Error::input(path, message))
}

fn wrong_axes<D: Dimension>(path: &Path, header: &NpyHeader) -> Error {
    let expected = D::NDIM.unwrap_or_default();
    Error::input(path, format!("has shape {:?}, expected {expected} axes", header.shape))
}

/// Reads an array into memory.
///
/// # Errors
/// As [`Mapped::open`] and [`Mapped::view`].
pub fn read<T: Element, D: Dimension>(path: &Path) -> Result<Array<T, D>> {
    Ok(Mapped::open(path)?.view::<T, D>()?.to_owned())
}

/// Reads an f16 array as f32.
///
/// # Errors
/// As [`read`].
pub fn read_f16<D: Dimension>(path: &Path) -> Result<Array<f32, D>> {
    let mapped = Mapped::open(path)?;
    let values = mapped.elements::<half::f16>()?.to_f32_vec();
    let array = ArrayD::from_shape_vec(IxDyn(&mapped.header.shape), values);
    let array = array.map_err(|e| Error::input(path, format!("not a readable .npy file: {e}")))?;
    array.into_dimensionality::<D>().map_err(|_| wrong_axes::<D>(path, &mapped.header))
}
