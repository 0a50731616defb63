//! NIfTI at the border.

use serde::{Deserialize, Serialize};

/// Grid of an image in space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    /// z, y, x.
    pub shape: [usize; 3],
    /// z, y, x.
    pub spacing_mm: [f64; 3],
    /// ITK's LPS x, y, z.
    pub origin_mm: [f64; 3],
    /// ITK's LPS; columns are image axes x, y, z.
    pub direction: [[f64; 3]; 3],
    /// The source's header bytes in hex.
    pub header: String,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Grid.
    pub geometry: Geometry,
    /// `[channel, z, y, x]`.
    pub channels: ndarray::Array4<f32>,
}
