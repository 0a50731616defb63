//! PNG pictures: grey, colour, 1 to 16 bits; palettes are expanded, opacity is dropped, one bit is 0 or 1.

use super::{Geometry, Volume};
use crate::{Error, Result};
use ndarray::{Array4, ArrayView3};
use png::{BitDepth, ColorType, Decoder, Encoder, Limits, Reader, Transformations};
use std::io::Cursor;
use std::path::Path;

/// A picture of 65535 × 65535 pixels is beyond what a network is trained on, and what a decoder should allocate.
const MOST_PIXELS: u64 = 1 << 30;

/// nnU-Net's distance of slices that don't exist.
const NO_SLICES_MM: f64 = 999.0;

fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<Reader<Cursor<&'a [u8]>>> {
    let limits = Limits { bytes: usize::try_from(8 * MOST_PIXELS).unwrap_or(usize::MAX) };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND);
    let reader = decoder.read_info().map_err(|e| fault(path, &e))?;
    let (width, height) = reader.info().size();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(Error::input(
            path,
            format!("has {width} × {height} pixels, expected at most {MOST_PIXELS} in all"),
        ));
    }
    Ok(reader)
}

fn fault(path: &Path, error: &png::DecodingError) -> Error {
    Error::input(path, format!("is not a readable PNG: {error}"))
}

fn geometry(reader: &Reader<Cursor<&[u8]>>) -> Geometry {
    let (width, height) = reader.info().size();
    let edge = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Geometry::plain([1, edge(height), edge(width)], [NO_SLICES_MM, 1.0, 1.0])
}

/// Samples per pixel as stored, and those that are channels.
fn samples(reader: &Reader<Cursor<&[u8]>>) -> (usize, usize) {
    match reader.output_color_type().0 {
        ColorType::Grayscale | ColorType::Indexed => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgb => (3, 3),
        ColorType::Rgba => (4, 3),
    }
}

pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<(Geometry, usize)> {
    let reader = open(path, bytes)?;
    Ok((geometry(&reader), samples(&reader).1))
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Volume> {
    let mut reader = open(path, bytes)?;
    let geometry = geometry(&reader);
    let (stored, channels) = samples(&reader);
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| Error::input(path, "is too large for this machine"))?;
    let mut pixels = vec![0u8; size];
    reader.next_frame(&mut pixels).map_err(|e| fault(path, &e))?;
    let wide = reader.output_color_type().1 == BitDepth::Sixteen;
    // Black and white are false and true to nnU-Net's reader, not black and white.
    let grey = reader.info().color_type == ColorType::Grayscale;
    let white = if grey && reader.info().bit_depth == BitDepth::One { 255 } else { 1 };
    let value = |index: usize| match wide {
        true => f32::from(u16::from_be_bytes([pixels[2 * index], pixels[2 * index + 1]])),
        false => f32::from(pixels[index] / white),
    };
    let [_, height, width] = geometry.shape;
    let at = |(c, _, y, x): (usize, usize, usize, usize)| value((y * width + x) * stored + c);
    let channels = Array4::from_shape_fn((channels, 1, height, width), at);
    Ok(Volume { geometry, channels })
}

/// Grey, 8 bits if the values allow it, else 16.
pub(super) fn encode_labels(labels: ArrayView3<'_, i32>, geometry: &Geometry) -> Result<Vec<u8>> {
    let invalid = |message: String| Error::input(Path::new("PNG output"), message);
    let (depth, height, width) = labels.dim();
    if geometry.shape != [depth, height, width] || depth != 1 {
        return Err(invalid(format!(
            "array has shape {:?}, expected one slice of the geometry's {:?}",
            labels.shape(),
            geometry.shape
        )));
    }
    if let Some(value) = labels.iter().find(|v| u16::try_from(**v).is_err()) {
        return Err(invalid(format!("a label is {value}, expected 0 to 65535")));
    }
    let wide = labels.iter().any(|&v| v > 255);
    let mut bytes = Vec::new();
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut encoder = Encoder::new(&mut bytes, side(width), side(height));
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(if wide { BitDepth::Sixteen } else { BitDepth::Eight });
    let pixels: Vec<u8> = labels
        .iter()
        .flat_map(|v| {
            let [.., high, low] = v.to_be_bytes();
            [high, low].into_iter().skip(usize::from(!wide))
        })
        .collect();
    let written = encoder.write_header().and_then(|mut w| w.write_image_data(&pixels));
    written.map_err(|e| invalid(e.to_string()))?;
    Ok(bytes)
}
