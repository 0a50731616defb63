//! `.npz` files: named f32 arrays, as `numpy.load` reads them; the same arrays give the same bytes.
//!
//! A `.npz` is a zip archive of `.npy` files. Each is held against [`npy::header`]'s checks, so that a lying header
//! allocates nothing; ndarray-npy's own reader would believe it.

use crate::{Error, Result, npy};
use ndarray::ArrayD;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// Named arrays in file order.
pub type Named = Vec<(String, ArrayD<f32>)>;

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

/// Reads every array of a `.npz`, compressed or not.
///
/// # Errors
/// If the file isn't a zip of f32 `.npy` files; names the array.
pub fn read(path: &Path) -> Result<Named> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "read", &e))?;
    let broken = |e: ZipError| {
        Error::input(path, format!("not a readable .npz file: {e}"))
            .hint("the file is cut off or was overwritten; make it again")
    };
    let mut archive = ZipArchive::new(std::io::BufReader::new(file)).map_err(broken)?;
    let mut arrays = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(broken)?;
        let name = entry.name().trim_end_matches(".npy").to_string();
        let array = unpack(path, &mut entry).and_then(|bytes| npy::decode(path, &bytes));
        let array =
            array.map_err(|e| Error { message: format!("array {name}: {}", e.message), ..e })?;
        arrays.push((name, array));
    }
    Ok(arrays)
}

/// The bytes of one `.npy` file, no more than its header says: a few bytes can be unpacked to gigabytes.
fn unpack(path: &Path, entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, most: u64| {
        let part = entry.by_ref().take(most).read_to_end(bytes);
        part.map_err(|e| Error::input(path, format!("cannot be unpacked: {e}")))
    };
    read(&mut bytes, npy::LONGEST_HEADER)?;
    let (header, data) = npy::claim(path, &bytes)?;
    let says = format!("its header says {} {:?}", header.descriptor, header.shape);
    let Some(expected) = data.and_then(|data| data.checked_add(header.data_offset)) else {
        return Err(
            Error::input(path, format!("{says}, more than memory can hold")).hint(npy::DAMAGED)
        );
    };
    // One byte beyond, so that the end of the entry is seen and its checksum compared.
    let rest = (expected as u64 + 1).saturating_sub(bytes.len() as u64);
    read(&mut bytes, rest)?;
    if bytes.len() > expected {
        let data = expected - header.data_offset;
        return Err(Error::input(
            path,
            format!("holds more than {data} bytes of data, but {says}"),
        )
        .hint(npy::DAMAGED));
    }
    Ok(bytes)
}
