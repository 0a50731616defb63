//! Images at the border, whatever their file format: NIfTI volumes, and PNG pictures as volumes of depth 1.
//!
//! The file's ending decides. A picture's pixels have no size: as in nnU-Net they are 1 × 1 mm, and its slices 999 mm
//! apart, so that the plan's first axis is the one that isn't there.

pub mod folder;
mod meet;
mod png;
mod reader;
mod turn;

pub use crate::nifti::{Geometry, Volume};
use crate::{Error, Result, file, nifti};
pub use meet::{Apart, meet};
use ndarray::{Array3, ArrayView3, Axis};
pub use reader::Reader;
pub(crate) use reader::closest_by_nibabel;
use std::path::{Path, PathBuf};
pub use turn::Turn;

/// Endings that are read, longest match first.
pub const ENDINGS: [&str; 7] = [".nii.gz", ".nii", ".hdr.gz", ".hdr", ".img.gz", ".img", ".png"];

/// File name without its ending, and the ending, if it's a known one.
pub fn split_ending(name: &str) -> Option<(&str, &'static str)> {
    ENDINGS.iter().find_map(|ending| Some((name.strip_suffix(ending)?, *ending)))
}

fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "png")
}

/// Reads an image. All faults of the file are one-line errors; memory is bounded by what the file really holds.
pub fn read(path: &Path) -> Result<Volume> {
    if !is_picture(path) {
        return nifti::read(path);
    }
    let bytes = file::read(path, "read this image")?;
    png::decode(path, &bytes)
}

/// Reads an image whose data set's reader isn't known: by ITK's rules, or where these refuse it by nibabel's, which place
/// sheared images too.
///
/// # Errors
/// As [`read`].
pub fn read_by_any(path: &Path) -> Result<Volume> {
    read(path).or_else(|refused| Reader::Nibabel.read(path).map_err(|_| refused))
}

/// The files an image consists of: itself, or header and voxels of a pair.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if is_picture(path) { Ok(vec![path.into()]) } else { nifti::files_of(path) }
}

/// Decodes the contents of [`files_of`] `path`, in that order, for callers that need the bytes themselves too.
pub fn decode(path: &Path, stored: Vec<Vec<u8>>) -> Result<Volume> {
    if !is_picture(path) {
        return nifti::decode(path, stored);
    }
    let bytes = stored.into_iter().next().ok_or_else(|| Error::input(path, "no content"))?;
    png::decode(path, &bytes)
}

/// Geometry and channel count. Of a volume's file only the first bytes are read.
pub fn read_header(path: &Path) -> Result<(Geometry, usize)> {
    if !is_picture(path) {
        return nifti::read_header(path);
    }
    let bytes = file::read(path, "read this image")?;
    png::header(path, &bytes)
}

/// "3 channels", and of a lone picture what they are.
pub fn count(files: &[PathBuf], channels: usize) -> String {
    let kind = match files {
        [file] => kind(file),
        _ => "",
    };
    let s = if channels == 1 { "" } else { "s" };
    format!("{channels} channel{s}{kind}")
}

/// What the channels of a picture are; empty where there is nothing to say.
fn kind(path: &Path) -> &'static str {
    let bytes = is_picture(path).then(|| file::read(path, "read this image"));
    bytes.and_then(|bytes| png::kind(path, &bytes.ok()?).ok()).unwrap_or_default()
}

/// Whether a case's lone file is all there is of it, so that no others are missed: it has several channels, or is such a
/// picture as one takes to have several. Of a file that can't be read nobody knows.
pub(crate) fn stands_alone(reader: Reader, path: &Path) -> bool {
    reader.read_header(path).map_or(true, |(_, channels)| channels > 1) || !kind(path).is_empty()
}

/// Whether a label map has one channel.
///
/// # Errors
/// If it has several: what was found and expected, and for a picture that its colours aren't labels.
pub fn check_label(path: &Path, volume: &Volume) -> Result<()> {
    match volume.channels.len_of(Axis(0)) {
        1 => Ok(()),
        n if is_picture(path) => {
            Err(Error::input(path, format!("label has {}, expected 1", count(&[path.into()], n)))
                .hint("save it as a grey picture in which a pixel's value is its label"))
        }
        n => Err(Error::input(path, format!("label has {n} channels, expected 1"))),
    }
}

/// Bytes that reading these images together takes at most: stored, unpacked and as f32. Files whose headers can't be read
/// count nothing; reading them says why.
pub fn reading_bytes(files: &[PathBuf]) -> f64 {
    let one = |path: &PathBuf| {
        let (geometry, channels) = read_header(path).ok()?;
        let stored =
            files_of(path).ok()?.iter().map(|f| f.metadata().map_or(0, |m| m.len())).sum::<u64>();
        let values = geometry.shape.iter().map(|&n| n as f64).product::<f64>() * channels as f64;
        Some((stored as f64, values))
    };
    let (mut all, mut most) = (0.0, 0f64);
    for (stored, values) in files.iter().filter_map(one) {
        all += stored + 4.0 * values;
        // Only one file is unpacked at a time; no element is wider than eight bytes.
        most = most.max(8.0 * values);
    }
    all + most
}

/// Label values `[z, y, x]` as a file with this ending: a picture if it's `.png` and the depth is 1, else NIfTI with the
/// header of `geometry`.
///
/// # Errors
/// If the array's shape isn't the geometry's, or a picture can't hold it (depth above 1, values outside 0..=65535).
pub fn encode_labels<T: Copy + Into<i32>>(
    labels: ArrayView3<'_, T>,
    geometry: &Geometry,
    ending: &str,
) -> Result<Vec<u8>> {
    if ending == ".png" {
        let values: Array3<i32> = labels.mapv(Into::into);
        return png::encode_labels(values.view(), geometry);
    }
    nifti::encode_labels(labels, geometry, ending == ".nii.gz")
}
