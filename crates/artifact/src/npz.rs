//! `.npz` files: named f32 arrays, as `numpy.load` reads them; the same arrays give the same bytes.

use crate::{Error, Result};
use ndarray::ArrayD;
use ndarray_npy::{NpzReader, NpzWriter};
use std::io::Cursor;
use std::path::Path;

/// Named arrays in file order.
pub type Named = Vec<(String, ArrayD<f32>)>;

/// The bytes of an uncompressed `.npz` of these arrays.
pub fn encode(arrays: &[(String, ArrayD<f32>)]) -> Vec<u8> {
    let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        writer.add_array(name.as_str(), array).expect("writing to memory");
    }
    writer.finish().expect("writing to memory").into_inner()
}

/// Reads every array of a `.npz`.
///
/// # Errors
/// If the file isn't a zip of f32 `.npy` files.
pub fn read(path: &Path) -> Result<Named> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", &e))?;
    let broken =
        |e: &dyn std::fmt::Display| Error::input(path, format!("not a readable .npz file: {e}"));
    let mut reader = NpzReader::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
    let names = reader.names().map_err(|e| broken(&e))?;
    let mut arrays = Vec::with_capacity(names.len());
    for name in names {
        let array: ArrayD<f32> = reader.by_name(&name).map_err(|e| {
            Error::input(path, format!("array {name} is not a readable f32 array: {e}"))
        })?;
        arrays.push((name.trim_end_matches(".npy").to_string(), array));
    }
    Ok(arrays)
}
