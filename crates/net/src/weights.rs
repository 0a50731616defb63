//! Weights as one `.npz` that `numpy.load` reads: an array per parameter, by the names of [`crate::UNet::parameters`].

use crate::unet::{Topology, check_named};
use artifact::npz::Named;
use artifact::plan::Network;
use artifact::{Error, Result};
use ndarray::ArrayD;
use std::path::Path;

/// The bytes of a `.npz`; the same parameters give the same bytes.
pub fn to_npz(named: &[(String, ArrayD<f32>)]) -> Vec<u8> {
    artifact::npz::encode(named)
}

/// The parameters of a network, for [`crate::UNet::set_parameters`]. Names and shapes are compared before any numbers are
/// read, so that no file takes more memory than the network.
///
/// # Errors
/// If the file cannot be read, isn't a zip of f32 `.npy` files, or isn't of this network, which names the tensor.
pub fn read(path: &Path, spec: &Network) -> Result<Named> {
    let topology = Topology::new(spec).map_err(|e| Error::input(path, e.to_string()))?;
    artifact::npz::read_if(path, |found| {
        let found = found.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        check_named(&topology.parameters, found).map_err(|e| Error::input(path, e.to_string()))
    })
}
