//! A sheet of pictures for people: patches as they lie in the case, and as training sees them.

use crate::{Aim, Draws, Frame, Loader, Placement};
use ndarray::{Array2, Array3, Array4, ArrayView2, Axis};
use stage::picture::{BLACK, Canvas, PALETTE, WHITE};

/// Patches, one per row of the sheet.
pub const ROWS: usize = 5;
/// Augmented versions of each patch, beside the original.
pub const VERSIONS: usize = 5;

const GAP: usize = 8;
/// Below each picture.
const BETWEEN: usize = 2;
const LINE: usize = 11;
const CAPTION: usize = 3 * LINE + 3;
/// Room for the longest line of a caption, 36 letters of 6 pixels.
const MIN_WIDTH: usize = 36 * 6;

/// Rows: samples, those that must show foreground first. Columns: the plain crop, then augmented versions, the first of
/// which is what training sees. Each panel shows the slice with the most foreground, in the crop's grey window; in a
/// cascade a second picture below it shows the classes of the previous stage.
pub fn sheet(loader: &Loader, class_names: &[String]) -> Canvas {
    let axis = loader.frame().axes()[0];
    let patch = loader.settings().patch;
    let plane: Vec<usize> = (0..3).filter(|&a| a != axis).map(|a| patch[a]).collect();
    let zoom = (MIN_WIDTH / plane[1].max(1)).max(1);
    let pictures = if loader.channels() > loader.image_channels() { 2 } else { 1 };
    let height = pictures * (plane[0] * zoom + BETWEEN);
    let panel = [height + CAPTION + GAP, (plane[1] * zoom).max(MIN_WIDTH) + GAP];
    let header = LINE + GAP;
    let mut canvas =
        Canvas::new(panel[1] * (VERSIONS + 1) + GAP, panel[0] * ROWS + header + GAP, WHITE);
    legend(&mut canvas, loader, class_names);
    for row in 0..ROWS {
        let (batch, sample) = which(row, loader.batch_size());
        let placement = loader.placement(batch, sample);
        let original = loader.sample(&placement, &Draws::none());
        let window = window(&original.0);
        for column in 0..=VERSIONS {
            let (at, caption);
            let (x, y) = (GAP + column * panel[1], header + GAP + row * panel[0]);
            if column == 0 {
                at = slice_to_show(&original.1, axis);
                caption = about_crop(loader, &placement, axis, at);
                draw(&mut canvas, (x, y), loader, &original, (axis, at), window, zoom);
            } else {
                let draws =
                    loader.draws(placement.case, batch + ((column - 1) * ROWS) as u64, sample);
                let augmented = loader.sample(&placement, &draws);
                at = slice_to_show(&augmented.1, axis);
                caption = about_draws(&draws, loader.frame());
                draw(&mut canvas, (x, y), loader, &augmented, (axis, at), window, zoom);
            }
            for (i, line) in caption.iter().enumerate() {
                canvas.text(pixels(x), pixels(y + height + i * LINE), line, BLACK);
            }
        }
    }
    canvas
}

/// The batch and sample of a row: from the end of each batch, where the samples are that must show foreground.
fn which(row: usize, batch_size: usize) -> (u64, usize) {
    ((row / batch_size) as u64, batch_size - 1 - row % batch_size)
}

fn pixels(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn legend(canvas: &mut Canvas, loader: &Loader, class_names: &[String]) {
    let mut x = GAP;
    let mut put = |text: &str, colour| {
        canvas.text(pixels(x), pixels(GAP), text, colour);
        x += 6 * (text.len() + 2);
    };
    put("left: crop; right: augmented versions, the first as training sees it.", BLACK);
    if loader.image_channels() > 1 {
        put(&format!("Channel 0 of {}.", loader.image_channels()), BLACK);
    }
    if loader.channels() > loader.image_channels() {
        put("Below: the previous stage.", BLACK);
    }
    put("Classes:", BLACK);
    for (i, name) in class_names.iter().skip(1).enumerate() {
        put(name, PALETTE[i % PALETTE.len()]);
    }
}

/// The grey window: 0.5th to 99.5th percentile of the crop's first channel, without what lies outside of the case.
fn window(image: &Array4<f32>) -> (f32, f32) {
    let mut values: Vec<f32> =
        image.index_axis(Axis(0), 0).iter().copied().filter(|&v| v != 0.0).collect();
    values.sort_by(f32::total_cmp);
    let at = |fraction: f64| {
        let index = (fraction * values.len().saturating_sub(1) as f64).round() as usize;
        values.get(index).copied().unwrap_or(0.0)
    };
    (at(0.005), at(0.995))
}

/// The slice with the most foreground, or the middle one.
fn slice_to_show(label: &Array3<i16>, axis: usize) -> usize {
    let counts = label.axis_iter(Axis(axis)).map(|s| s.iter().filter(|&&c| c > 0).count());
    let counts: Vec<usize> = counts.collect();
    let most = counts.iter().copied().max().unwrap_or(0);
    match counts.iter().position(|&c| c == most) {
        Some(slice) if most > 0 => slice,
        _ => counts.len() / 2,
    }
}

fn draw(
    canvas: &mut Canvas,
    (x, y): (usize, usize),
    loader: &Loader,
    (image, label): &(Array4<f32>, Array3<i16>),
    (axis, at): (usize, usize),
    (low, high): (f32, f32),
    zoom: usize,
) {
    let slice = |channel: usize| -> ArrayView2<'_, f32> {
        image.index_axis(Axis(0), channel).index_axis_move(Axis(axis), at)
    };
    canvas.grey(x, y, slice(0), low, high, zoom);
    canvas.outlines(x, y, label.index_axis(Axis(axis), at), zoom);
    let previous = loader.image_channels()..loader.channels();
    if previous.is_empty() {
        return;
    }
    let y = y + slice(0).nrows() * zoom + BETWEEN;
    canvas.grey(x, y, slice(0), low, high, zoom);
    let mut classes = Array2::<i16>::zeros(slice(0).dim());
    for (channel, class) in previous.zip(1i16..) {
        classes.zip_mut_with(&slice(channel), |c, &v| {
            if v > 0.5 {
                *c = class;
            }
        });
    }
    canvas.outlines(x, y, classes.view(), zoom);
}

fn about_crop(loader: &Loader, placement: &Placement, axis: usize, at: usize) -> Vec<String> {
    let [z, y, x] = placement.lower;
    let why = match placement.aim {
        Aim::Foreground(class) => format!("around {} {class}", loader.foreground_name()),
        Aim::Annotated => "around an annotated voxel".into(),
        Aim::Anywhere => "anywhere".into(),
    };
    vec![
        shortened(loader.case_id(placement.case)),
        format!("{why}, slice {at} of axis {axis}"),
        format!("box begins at {z} {y} {x}"),
    ]
}

fn about_draws(draws: &Draws, frame: Frame) -> Vec<String> {
    let mut spatial = Vec::new();
    if let Some(angles) = draws.angles {
        let count = if frame == Frame::Volume { 3 } else { 1 };
        let degrees: Vec<String> =
            angles[..count].iter().map(|a| format!("{:.0}", a.to_degrees())).collect();
        spatial.push(format!("rotation {}", degrees.join(" ")));
    }
    if let Some(scale) = draws.scale {
        spatial.push(format!("scale {scale:.2}"));
    }
    let mut other = Vec::new();
    if let Some(e) = draws.elastic {
        other.push(format!("elastic {:.0} sigma {:.1}", e.alpha, e.sigma));
    }
    if let Some(noise) = draws.noise {
        other.push(format!("noise {:.2}", noise.sigma));
    }
    if let Some(widths) = draws.blur.as_ref().and_then(|widths| widths[0]) {
        other.push(format!("blur {:.2}", widths[2]));
    }
    for (name, values) in [("brightness", &draws.brightness), ("contrast", &draws.contrast)] {
        if let Some(values) = values {
            other.push(format!("{name} {:.2}", values[0]));
        }
    }
    if let Some(zoom) = draws.low_resolution.as_ref().and_then(|zooms| zooms[0]) {
        other.push(format!("zoom {zoom:.2}"));
    }
    for (name, values) in [("inverted gamma", &draws.inverted_gamma), ("gamma", &draws.gamma)] {
        if let Some(values) = values {
            other.push(format!("{name} {:.2}", values[0]));
        }
    }
    let flips: String =
        draws.mirror.iter().zip(["z", "y", "x"]).filter(|(m, _)| **m).map(|(_, a)| a).collect();
    let flips = if flips.is_empty() { String::new() } else { format!("mirrored {flips}") };
    let lines = [spatial.join(", "), other.join(", "), flips];
    let lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { vec!["unchanged".into()] } else { lines }
}

fn shortened(id: &str) -> String {
    let letters: Vec<char> = id.chars().collect();
    let cut = letters.len().saturating_sub(MIN_WIDTH / 6);
    letters[cut..].iter().collect()
}
