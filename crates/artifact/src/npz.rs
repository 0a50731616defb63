//! `.npz` files: named f32 arrays, as `numpy.load` reads them; the same arrays give the same bytes.
//!
//! A `.npz` is a zip archive of `.npy` files, and a few bytes of it can say gigabytes: by deflate, and by entries that share
//! their bytes. Names and shapes of all entries are therefore looked at before the numbers of any are unpacked, and what is
//! unpacked is as large as the caller expects, or in proportion to the file.

use crate::npy::{self, NpyHeader};
use crate::{Error, Result, archive, file};
use ndarray::{ArrayD, IxDyn};
use std::io::{Cursor, Read, Write};
use std::path::Path;
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// Named arrays in file order.
pub type Named = Vec<(String, ArrayD<f32>)>;

/// Names and shapes in file order.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// Numbers may take so many times the file's bytes where nobody knows how many to expect; weights don't compress.
const MOST_INFLATION: u64 = 64;

/// Bytes that are unpacked from the smallest file too.
const SMALL: u64 = 16 << 20;

/// Bytes that are unpacked at a time.
const PART: usize = 1 << 16;

/// The bytes of an uncompressed `.npz` of these arrays.
pub fn encode(arrays: &[(String, ArrayD<f32>)]) -> Vec<u8> {
    write(arrays).expect("writing to memory")
}

fn write(arrays: &[(String, ArrayD<f32>)]) -> std::result::Result<Vec<u8>, ZipError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        let bytes = npy::encode(&array.view());
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(u32::try_from(bytes.len()).is_err())
            // 1980-01-01: no clock reaches a file.
            .last_modified_time(DateTime::default());
        archive.start_file(format!("{name}.npy"), options)?;
        archive.write_all(&bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

/// Reads every array of a `.npz`, compressed or not, whose contents nobody knows beforehand.
///
/// # Errors
/// If the file isn't a zip of f32 `.npy` files, which names the array; if it says more than 64 times its size, and more
/// than 16 MiB.
pub fn read(path: &Path) -> Result<Named> {
    let mut archive = Archive::open(path)?;
    let most = SMALL.max(archive.length.saturating_mul(MOST_INFLATION));
    let whole = archive.headers.iter().fold(0u64, |sum, (_, h)| sum.saturating_add(bytes_of(h)));
    if whole > most {
        let message = format!(
            "says {whole} bytes of numbers, expected at most {most} in a file of this size"
        );
        return Err(Error::input(path, message).hint(npy::DAMAGED));
    }
    archive.arrays()
}

/// Reads every array of a `.npz` of known contents: `check` is asked about all names and shapes before anything is unpacked.
///
/// # Errors
/// As [`read`], without its limit; what `check` says.
pub fn read_if(path: &Path, check: impl FnOnce(&Shapes) -> Result<()>) -> Result<Named> {
    let mut archive = Archive::open(path)?;
    let shapes = archive.headers.iter().map(|(name, h)| (name.clone(), h.shape.clone())).collect();
    check(&shapes)?;
    archive.arrays()
}

/// Bytes of an array's numbers; [`Archive::open`] saw that there can be so many.
fn bytes_of(header: &NpyHeader) -> u64 {
    let count = header.shape.iter().fold(1u64, |all, &n| all.saturating_mul(n as u64));
    count.saturating_mul(size_of::<f32>() as u64)
}

/// An open file and what each of its entries says.
struct Archive<'a> {
    path: &'a Path,
    length: u64,
    zip: ZipArchive<archive::Reader>,
    headers: Vec<(String, NpyHeader)>,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let failed = |e| Error::io(path, "read", &e);
        let file = file::open_zip(path, ".npz")?;
        let length = file.metadata().map_err(failed)?.len();
        let mut zip = archive::open(file).map_err(|e| broken(path, &e))?;
        let mut headers = Vec::with_capacity(zip.len());
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i).map_err(|e| broken(path, &e.to_string()))?;
            let name = name_of(&entry);
            let header = header(path, &mut entry).map_err(|e| of_array(&name, e))?;
            headers.push((name, header));
        }
        let mut names: Vec<&String> = headers.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(broken(path, &format!("two of its arrays are called {}", twice[0])));
        }
        Ok(Self { path, length, zip, headers })
    }

    fn arrays(&mut self) -> Result<Named> {
        let mut arrays = Named::with_capacity(self.headers.len());
        for (i, (name, header)) in self.headers.iter().enumerate() {
            let mut entry = self.zip.by_index(i).map_err(|e| broken(self.path, &e.to_string()))?;
            let array = unpack(self.path, &mut entry, header).map_err(|e| of_array(name, e))?;
            arrays.push((name.clone(), array));
        }
        Ok(arrays)
    }
}

fn broken(path: &Path, error: &str) -> Error {
    Error::input(path, format!("not a readable .npz file: {error}")).hint(npy::DAMAGED)
}

fn of_array(name: &str, error: Error) -> Error {
    Error { message: format!("array {name}: {}", error.message), ..error }
}

fn name_of(entry: &ZipFile<'_, impl Read>) -> String {
    entry.name().trim_end_matches(".npy").to_string()
}

fn fill(path: &Path, entry: &mut impl Read, most: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let part = entry.by_ref().take(most as u64).read_to_end(bytes);
    part.map_err(|e| Error::input(path, format!("cannot be unpacked: {e}")))?;
    Ok(())
}

/// The header at the beginning of an entry: f32, and no more than memory can hold.
fn header(path: &Path, entry: &mut impl Read) -> Result<NpyHeader> {
    let mut bytes = Vec::new();
    fill(path, entry, npy::PREFIX, &mut bytes)?;
    let rest = npy::data_offset(path, &bytes)? - npy::PREFIX;
    fill(path, entry, rest, &mut bytes)?;
    let (header, data) = npy::claim(path, &bytes)?;
    npy::check_type::<f32>(path, &header)?;
    if data.and_then(|data| data.checked_add(header.data_offset)).is_none() {
        let message = format!("{}, more than memory can hold", says(&header));
        return Err(Error::input(path, message).hint(npy::DAMAGED));
    }
    Ok(header)
}

fn says(header: &NpyHeader) -> String {
    format!("its header says {} {:?}", header.descriptor, header.shape)
}

/// An entry's numbers, no more than its header says; memory grows with what really comes.
fn unpack(
    path: &Path,
    entry: &mut ZipFile<'_, impl Read>,
    expected: &NpyHeader,
) -> Result<ArrayD<f32>> {
    let mut left = bytes_of(expected);
    let whole = left;
    let stored = entry.compressed_size().saturating_add(PART as u64);
    let mut values = Vec::new();
    values.reserve_exact(usize::try_from(whole.min(stored) / 4).unwrap_or(0));
    let mut bytes = Vec::with_capacity(PART);
    // Two entries can share a name, so that what the second pass finds isn't what the first one saw.
    if header(path, entry)? != *expected {
        return Err(Error::input(path, "changes while it is read"));
    }
    let wrong = |found: &str| {
        let message = format!("holds {found} of data, but {}", says(expected));
        Error::input(path, message).hint(npy::DAMAGED)
    };
    while left > 0 {
        bytes.clear();
        fill(path, entry, usize::try_from(left).unwrap_or(PART).min(PART), &mut bytes)?;
        if bytes.is_empty() || bytes.len() % 4 != 0 {
            let found = whole - left + bytes.len() as u64;
            return Err(wrong(&format!("{found} bytes")));
        }
        values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
        left -= bytes.len() as u64;
    }
    // One byte beyond, so that the end of the entry is seen and its checksum compared.
    bytes.clear();
    fill(path, entry, 1, &mut bytes)?;
    if !bytes.is_empty() {
        return Err(wrong(&format!("more than {whole} bytes")));
    }
    ArrayD::from_shape_vec(IxDyn(&expected.shape), values)
        .map_err(|e| Error::input(path, format!("not a readable .npy file: {e}")))
}
