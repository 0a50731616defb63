//! PNG pictures: grey, colour, 1 to 16 bits, as nnU-Net's `NaturalImage2DIO` (scikit-image, and below it Pillow) reads them.
//! Palettes are expanded, one bit is 0 or 1, colours of 16 bits count by their high bytes. Opacity is a fourth channel beside
//! colours that each pixel has for itself; a palette's, that of a single colour, and that beside grey are dropped. (Grey of 8
//! bits with opacity nnU-Net refuses, and of 16 bits takes for colours.)

use super::{Geometry, Volume};
use crate::nifti::MOST_INFLATION;
use crate::{Error, Result, file};
use ndarray::{Array4, ArrayView3};
use png::{
    BitDepth, ColorType, Decoder, Encoder, InterlaceInfo, Limits, Reader, Transformations,
    expand_interlaced_row,
};
use std::io::Cursor;
use std::path::Path;

/// Half as many again as nnU-Net's reader takes (Pillow ends above 2 × 89478485 pixels).
const MOST_PIXELS: u64 = 1 << 28;

/// What the decoder may take for itself, one row of any picture and its own tables.
const DECODER: Limits = Limits { bytes: 64 << 20 };

/// nnU-Net's distance of slices that don't exist.
const NO_SLICES_MM: f64 = 999.0;

/// The header is held against the file's size before a decoder believes it.
fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<Reader<Cursor<&'a [u8]>>> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), DECODER);
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let info = decoder.read_header_info().map_err(|e| no_picture(path, bytes, &e))?;
    let (width, height) = info.size();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MOST_PIXELS {
        return Err(Error::input(
            path,
            format!("has {width} × {height} pixels, expected at most {MOST_PIXELS} in all"),
        ));
    }
    let needed = (pixels * info.bits_per_pixel() as u64).div_ceil(8);
    let most = bytes.len() as u64 * MOST_INFLATION;
    if needed > most {
        return Err(Error::input(
            path,
            format!("holds at most {most} bytes, but its header claims {needed}"),
        )
        .hint("the file is cut off or its header is wrong"));
    }
    let reader = decoder.read_info().map_err(|e| fault(path, &e))?;
    // The decoder believes that a palette is made of whole colours, and at most as many as a sample can name.
    let palette = reader.info().palette.as_deref().map(<[u8]>::len);
    if let Some(length) = palette.filter(|n| *n == 0 || n % 3 != 0 || *n > 3 * 256) {
        return Err(Error::input(
            path,
            format!("palette has {length} bytes, expected 3 for each of 1 to 256 colours"),
        ));
    }
    Ok(reader)
}

fn fault(path: &Path, error: &png::DecodingError) -> Error {
    Error::input(path, format!("is not a readable PNG: {error}"))
}

/// What a file is that doesn't begin as a picture does, else what is wrong with it.
fn no_picture(path: &Path, bytes: &[u8], error: &png::DecodingError) -> Error {
    match file::foreign(bytes).filter(|_| !bytes.starts_with(b"\x89PNG")) {
        Some(found) => Error::input(path, format!("is {}, expected a PNG picture", found.name))
            .hint(found.hint),
        None => fault(path, error),
    }
}

fn geometry(reader: &Reader<Cursor<&[u8]>>) -> Geometry {
    let (width, height) = reader.info().size();
    let edge = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Geometry::plain([1, edge(height), edge(width)], [NO_SLICES_MM, 1.0, 1.0])
}

/// Samples per pixel as decoded, and those that are channels.
fn samples(reader: &Reader<Cursor<&[u8]>>) -> (usize, usize) {
    let channels = match reader.info().color_type {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => 1,
        ColorType::Rgb | ColorType::Indexed => 3,
        ColorType::Rgba => 4,
    };
    (reader.output_color_type().0.samples(), channels)
}

/// What the channels of a picture are, to stand behind their number; empty for plain grey.
pub(super) fn kind(path: &Path, bytes: &[u8]) -> Result<&'static str> {
    Ok(match open(path, bytes)?.info().color_type {
        ColorType::Grayscale => "",
        ColorType::GrayscaleAlpha => " (grey; its opacity is none)",
        ColorType::Rgb => " (colours)",
        ColorType::Indexed => " (a palette's colours)",
        ColorType::Rgba => " (colours and opacity)",
    })
}

/// Whether the picture ends as a PNG does.
pub(super) fn is_ended(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82")
}

pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<(Geometry, usize)> {
    let reader = open(path, bytes)?;
    Ok((geometry(&reader), samples(&reader).1))
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Volume> {
    let mut reader = open(path, bytes)?;
    let geometry = geometry(&reader);
    let (stored, channels) = samples(&reader);
    let pixels = pixels(path, &mut reader)?;
    let wide = reader.output_color_type().1 == BitDepth::Sixteen;
    // Black and white are false and true to nnU-Net's reader, not black and white.
    let grey = reader.info().color_type == ColorType::Grayscale;
    let white = if grey && reader.info().bit_depth == BitDepth::One { 255 } else { 1 };
    let value = |index: usize| match wide {
        true if channels > 1 => f32::from(pixels[2 * index]),
        true => f32::from(u16::from_be_bytes([pixels[2 * index], pixels[2 * index + 1]])),
        false => f32::from(pixels[index] / white),
    };
    let [_, height, width] = geometry.shape;
    let at = |(c, _, y, x): (usize, usize, usize, usize)| value((y * width + x) * stored + c);
    let channels = Array4::from_shape_fn((channels, 1, height, width), at);
    Ok(Volume { geometry, channels })
}

/// All samples in rows, as [`samples`] says. Memory is taken for rows that are there, not for those of the header.
fn pixels(path: &Path, reader: &mut Reader<Cursor<&[u8]>>) -> Result<Vec<u8>> {
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| Error::input(path, "is too large for this machine"))?;
    let (mut rows, mut passes) = (Vec::new(), Vec::new());
    while let Some(row) = reader.next_interlaced_row().map_err(|e| fault(path, &e))? {
        rows.extend_from_slice(row.data());
        if let InterlaceInfo::Adam7(pass) = row.interlace() {
            passes.push((*pass, row.data().len()));
        }
    }
    // The first picture of an animation can be smaller than the header says.
    if rows.len() != size {
        let message = format!("has {} bytes of pixels, but its header claims {size}", rows.len());
        return Err(Error::input(path, message).hint("expected a single picture"));
    }
    if passes.is_empty() {
        return Ok(rows);
    }
    let (colour, depth) = reader.output_color_type();
    let bits = colour.samples() as u8 * depth as u8;
    let (_, height) = reader.info().size();
    let stride = size / height as usize;
    let (mut whole, mut at) = (vec![0; size], 0);
    for (pass, length) in passes {
        expand_interlaced_row(&mut whole, stride, &rows[at..at + length], &pass, bits);
        at += length;
    }
    Ok(whole)
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
