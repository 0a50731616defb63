//! A picture per case: reference (left) and prediction (right) outlined on the image, in three planes.
//!
//! Each plane goes through the slice with most foreground of both maps, drawn to scale (thick slices stay thick) and
//! turned as radiologists look at it: anterior or superior up, the patient's left on the right.

use artifact::nifti::Geometry;
use ndarray::{Array2, ArrayView2, ArrayView3, Axis};
use stage::picture::{BLACK, Canvas, Colour, PALETTE, WHITE};

/// Pixels along the longest edge of the image at least; small images are enlarged.
const SMALLEST_SIDE: f64 = 300.0;
/// Pixels along the longest edge at most; larger images are reduced.
const LARGEST_SIDE: f64 = 700.0;
/// Space around panels.
const MARGIN: usize = 10;
/// Height of a line of text.
const LINE: usize = 14;
/// Width of a letter.
const LETTER: usize = 6;
/// Grey of titles.
const GREY: Colour = [170, 170, 170];

/// One class of the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number in the maps; says the colour.
    pub class: i16,
    /// Name and score, such as `Anterior 0.901`.
    pub text: String,
}

/// What a picture shows. Arrays are `[z, y, x]` of the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// First line.
    pub title: &'a str,
    /// Legend.
    pub entries: &'a [Entry],
    /// Where the voxels lie.
    pub geometry: &'a Geometry,
    /// Intensities.
    pub image: ArrayView3<'a, f32>,
    /// Class numbers; 0 is background.
    pub reference: ArrayView3<'a, i16>,
    /// Class numbers.
    pub predicted: ArrayView3<'a, i16>,
}

/// A plane of the image on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plane {
    name: &'static str,
    /// Array axis that the plane is cut across, and where.
    across: usize,
    slice: usize,
    /// Array axis that runs down the screen, and whether it has to be turned over.
    down: (usize, bool),
    /// Array axis that runs to the right.
    right: (usize, bool),
}

/// Draws the picture.
pub fn draw(scene: &Scene<'_>) -> Canvas {
    let geometry = scene.geometry;
    let scale = pixels_per_mm(geometry);
    let planes = planes(scene);
    let size = |axis: usize| {
        let mm = geometry.shape[axis] as f64 * geometry.spacing_mm[axis];
        ((mm * scale).round() as usize).max(1)
    };
    let widest = planes.iter().map(|p| size(p.right.0)).max().unwrap_or(1);
    let text = scene.entries.iter().map(|e| LETTER * e.text.chars().count() + 24).sum::<usize>();
    let width = (2 * widest + 3 * MARGIN)
        .max(text + 2 * MARGIN)
        .max(LETTER * scene.title.chars().count() + 2 * MARGIN);
    let panels: usize = planes.iter().map(|p| LINE + size(p.down.0) + MARGIN).sum();
    let mut canvas = Canvas::new(width, MARGIN + 2 * LINE + MARGIN + panels, BLACK);
    draw_caption(&mut canvas, scene);
    let (low, high) = window(scene, &planes);
    let columns = [
        (MARGIN, scene.reference, "reference"),
        (2 * MARGIN + widest, scene.predicted, "prediction"),
    ];
    let mut y = MARGIN + 2 * LINE + MARGIN;
    for plane in &planes {
        let pixels = [size(plane.down.0), size(plane.right.0)];
        let grey = on_screen(scene.image, plane, pixels);
        for (x, classes, side) in columns {
            let title = format!("{side}, {} slice {}", plane.name, plane.slice);
            canvas.text(x as i32, y as i32, &title, GREY);
            canvas.grey(x, y + LINE, grey.view(), low, high, 1);
            let classes = on_screen(classes, plane, pixels);
            canvas.outlines(x, y + LINE, classes.view(), 1);
        }
        y += LINE + pixels[0] + MARGIN;
    }
    canvas
}

fn draw_caption(canvas: &mut Canvas, scene: &Scene<'_>) {
    canvas.text(MARGIN as i32, MARGIN as i32, scene.title, WHITE);
    let mut x = MARGIN as i32;
    let y = (MARGIN + LINE) as i32;
    for entry in scene.entries {
        let colour = PALETTE[(entry.class.max(1) as usize - 1) % PALETTE.len()];
        canvas.fill(x, y, 8, 8, colour);
        canvas.text(x + 12, y, &entry.text, WHITE);
        x += (LETTER * entry.text.chars().count() + 24) as i32;
    }
}

/// One scale for all planes: a pixel per voxel of the finest axis, enlarged or reduced to a size that people can look at.
fn pixels_per_mm(geometry: &Geometry) -> f64 {
    let extents = (0..3).map(|a| geometry.shape[a] as f64 * geometry.spacing_mm[a]);
    let longest = extents.fold(0.0, f64::max);
    let finest = geometry.spacing_mm.into_iter().fold(f64::INFINITY, f64::min);
    (1.0 / finest).clamp(SMALLEST_SIDE / longest, LARGEST_SIDE / longest)
}

/// The patient axis (0 left, 1 posterior, 2 superior) that each array axis (z, y, x) runs along most, and whether it runs
/// against it.
fn patient_axes(geometry: &Geometry) -> [(usize, bool); 3] {
    // Array axis z, y, x is image axis 2, 1, 0.
    let along = |axis: usize, patient: usize| geometry.direction[patient][2 - axis];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let fit = |order: &[usize; 3]| -> f64 { (0..3).map(|a| along(a, order[a]).abs()).sum() };
    let order = orders.into_iter().max_by(|a, b| fit(a).total_cmp(&fit(b))).unwrap_or([2, 1, 0]);
    [0, 1, 2].map(|axis| (order[axis], along(axis, order[axis]) < 0.0))
}

/// The planes across z, y and x. A single slice (2D) has one plane.
fn planes(scene: &Scene<'_>) -> Vec<Plane> {
    let patient = patient_axes(scene.geometry);
    (0..3)
        // Planes of a single row of voxels show nothing.
        .filter(|&across| across == 0 || (0..3).all(|a| a == across || scene.geometry.shape[a] > 1))
        .map(|across| {
            let mut screen: Vec<usize> = (0..3).filter(|&a| a != across).collect();
            // Down the screen goes what is nearest to superior, then to posterior.
            screen.sort_by_key(|&a| std::cmp::Reverse(patient[a].0));
            let turned = |axis: usize| {
                let (to, against) = patient[axis];
                // Superior is up, hence runs against the screen; posterior is down, left and posterior are right.
                (axis, against != (to == 2))
            };
            Plane {
                name: ["sagittal", "coronal", "axial"][patient[across].0],
                across,
                slice: fullest_slice(scene, across),
                down: turned(screen[0]),
                right: turned(screen[1]),
            }
        })
        .collect()
}

/// The slice with most foreground in both maps together; the middle one if there is none.
fn fullest_slice(scene: &Scene<'_>, axis: usize) -> usize {
    let count = |map: ArrayView3<'_, i16>| -> Vec<usize> {
        map.axis_iter(Axis(axis)).map(|s| s.iter().filter(|&&c| c > 0).count()).collect()
    };
    let both: Vec<usize> =
        count(scene.reference).iter().zip(count(scene.predicted)).map(|(a, b)| a + b).collect();
    match both.iter().copied().max() {
        None | Some(0) => both.len() / 2,
        Some(most) => both.iter().position(|&n| n == most).unwrap_or(0),
    }
}

/// A slice as pixels `[row, column]`, each the nearest voxel's value.
fn on_screen<T: Copy>(volume: ArrayView3<'_, T>, plane: &Plane, pixels: [usize; 2]) -> Array2<T> {
    let slice = volume.index_axis_move(Axis(plane.across), plane.slice);
    // Without `across`, the lower of the two other axes is the slice's first.
    let slice: ArrayView2<'_, T> =
        if plane.down.0 < plane.right.0 { slice } else { slice.reversed_axes() };
    let (rows, columns) = slice.dim();
    let nearest = |pixel: usize, pixels: usize, voxels: usize, turned: bool| {
        let voxel = ((pixel as f64 + 0.5) * voxels as f64 / pixels as f64) as usize;
        let voxel = voxel.min(voxels - 1);
        if turned { voxels - 1 - voxel } else { voxel }
    };
    Array2::from_shape_fn(pixels, |(row, column)| {
        slice[[
            nearest(row, pixels[0], rows, plane.down.1),
            nearest(column, pixels[1], columns, plane.right.1),
        ]]
    })
}

/// 1st and 99th percentile of the finite intensities in the planes shown.
fn window(scene: &Scene<'_>, planes: &[Plane]) -> (f32, f32) {
    let mut values: Vec<f32> = planes
        .iter()
        .flat_map(|p| scene.image.index_axis_move(Axis(p.across), p.slice).into_iter().copied())
        .filter(|v| v.is_finite())
        .collect();
    if values.is_empty() {
        return (0.0, 1.0);
    }
    values.sort_unstable_by(f32::total_cmp);
    let at = |fraction: f64| values[((values.len() - 1) as f64 * fraction).round() as usize];
    (at(0.01), at(0.99))
}
