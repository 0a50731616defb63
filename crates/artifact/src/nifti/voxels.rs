//! Stored voxels to f32.

use super::header::Header;
use ::nifti::{Endianness, NiftiType};

/// The voxels of a file's content, in its order, rounded once to f32, after `scaling` by slope and intercept.
///
/// `content` holds at least [`Header::needed_bytes`].
pub(super) fn convert(header: &Header, scaling: Option<(f64, f64)>, content: &[u8]) -> Vec<f32> {
    let whole = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let start = whole(header.offset);
    let bytes = &content[start..][..whole(header.voxel_bytes().unwrap_or(0))];
    macro_rules! of {
        ($type:ty) => {
            match header.order {
                Endianness::Little => {
                    each(bytes, scaling, <$type>::from_le_bytes, |v| v as f64, |v| v as f32)
                }
                Endianness::Big => {
                    each(bytes, scaling, <$type>::from_be_bytes, |v| v as f64, |v| v as f32)
                }
            }
        };
    }
    match header.element {
        NiftiType::Uint8 => of!(u8),
        NiftiType::Int8 => of!(i8),
        NiftiType::Uint16 => of!(u16),
        NiftiType::Int16 => of!(i16),
        NiftiType::Uint32 => of!(u32),
        NiftiType::Int32 => of!(i32),
        NiftiType::Uint64 => of!(u64),
        NiftiType::Int64 => of!(i64),
        NiftiType::Float32 => of!(f32),
        NiftiType::Float64 => of!(f64),
        other => unreachable!("{other:?}: other types are refused with the header"),
    }
}

/// Scaled in f64 where there is a scale: integers of 32 bits and more don't fit f32 before.
#[inline(always)]
fn each<T, const N: usize>(
    bytes: &[u8],
    scaling: Option<(f64, f64)>,
    parse: impl Fn([u8; N]) -> T,
    wide: impl Fn(T) -> f64,
    narrow: impl Fn(T) -> f32,
) -> Vec<f32> {
    let values = bytes.as_chunks().0.iter().map(|b| parse(*b));
    match scaling {
        None => values.map(narrow).collect(),
        Some((slope, inter)) => values.map(|v| (wide(v) * slope + inter) as f32).collect(),
    }
}
