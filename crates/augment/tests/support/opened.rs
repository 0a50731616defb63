//! Configurations and opened cases, for tests of the library.

use crate::support::{phantom, plan, write_case};
use artifact::case::OpenCase;
use artifact::plan::Configuration;
use std::path::Path;

pub(crate) fn configuration(
    patch: [usize; 3],
    batch_size: usize,
    channels: usize,
) -> Configuration {
    plan(patch, batch_size, channels).configuration("3d_fullres").unwrap().clone()
}

/// Writes and opens phantoms of these shapes.
pub(crate) fn cases(
    folder: &Path,
    shapes: &[[usize; 3]],
    channels: usize,
    masked: bool,
) -> Vec<OpenCase> {
    let write = |(i, &shape): (usize, &[usize; 3])| {
        let (image, label) = phantom(shape, channels, i as u64, masked);
        write_case(folder, &format!("case_{i}"), &image, Some(&label));
        OpenCase::open(&folder.join(format!("case_{i}/case.toml"))).unwrap()
    };
    shapes.iter().enumerate().map(write).collect()
}
