//! Volumes of bytes, such as most label maps, without a copy as f32.

use super::{Geometry, Header, bytes, files_of};
use crate::Result;
use crate::image::Reader;
use ::nifti::NiftiType;
use ndarray::ArrayView3;
use std::path::Path;

/// A volume of one channel that its file stores as unscaled 8-bit numbers.
#[derive(Debug, Clone)]
pub struct ByteVolume {
    /// Where the voxels lie.
    pub geometry: Geometry,
    /// The inflated file; voxels begin at `offset`.
    content: Vec<u8>,
    offset: usize,
}

impl ByteVolume {
    /// Reads a volume; `None` if the file is of any other kind, or no NIfTI file at all: [`super::read`] says what it is.
    ///
    /// # Errors
    /// If the voxels are cut off or can't be inflated.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        Self::read_by(Reader::SimpleItk, path)
    }

    /// The same, placed in space and scaled as `reader` says.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_by(reader: Reader, path: &Path) -> Result<Option<Self>> {
        let Ok([file]) = <[_; 1]>::try_from(files_of(path)?) else { return Ok(None) };
        let stored = bytes::read_file(&file)?;
        let Ok(header) = bytes::parse_header(path, &stored) else { return Ok(None) };
        let (Ok(geometry), Ok(needed)) = (Geometry::of(&header, reader), header.needed_bytes())
        else {
            return Ok(None);
        };
        if !is_bytes(&header, reader) {
            return Ok(None);
        }
        let content = bytes::inflate(path, stored, needed)?;
        let offset = usize::try_from(header.offset).unwrap_or(usize::MAX);
        Ok(Some(Self { geometry, content, offset }))
    }

    /// `[z, y, x]`, C order.
    pub fn voxels(&self) -> ArrayView3<'_, u8> {
        let count = self.geometry.shape.iter().product::<usize>();
        let voxels = &self.content[self.offset..self.offset + count];
        ArrayView3::from_shape(self.geometry.shape, voxels).expect("as many as the shape says")
    }
}

fn is_bytes(header: &Header, reader: Reader) -> bool {
    let unscaled = header.scaling(reader) == Ok(None);
    let (_, channels) = header.extents();
    header.element == NiftiType::Uint8 && unscaled && channels == 1 && !header.pair
}
