//! Weights as one `.npz` that `numpy.load` reads: an array per parameter, by the names of [`crate::UNet::parameters`].

use ndarray::ArrayD;
use std::path::Path;

/// The bytes of a `.npz`; the same parameters give the same bytes.
pub fn to_npz(named: &[(String, ArrayD<f32>)]) -> Vec<u8> {
    artifact::npz::encode(named)
}

/// Every array of a `.npz`, for [`crate::UNet::set_parameters`].
///
/// # Errors
/// If the file cannot be read, or isn't a zip of f32 `.npy` files.
pub fn read_npz(path: &Path) -> artifact::Result<Vec<(String, ArrayD<f32>)>> {
    artifact::npz::read(path)
}
