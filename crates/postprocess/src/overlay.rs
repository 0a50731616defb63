//! A picture per case: reference (left) and prediction (right) outlined on the image, in three planes.
//!
//! Each plane goes through the slice with most foreground of both maps, drawn to scale (thick slices stay thick) and
//! turned as radiologists look at it: anterior or superior up, the patient's left on the right. What lies far from any
//! foreground is cut off, so that small structures can be seen.

use artifact::crop::bounding_box;
use artifact::nifti::Geometry;
use ndarray::{Array2, ArrayView2, ArrayView3, Axis, Slice, Zip};
use stage::picture::{BLACK, Canvas, Colour, PALETTE, WHITE};

/// Pixels along the longest edge of the image at least; small images are enlarged.
const SMALLEST_SIDE: f64 = 300.0;
/// Pixels along the longest edge at most; larger images are reduced.
const LARGEST_SIDE: f64 = 700.0;
/// Least surroundings of the foreground that stay in the picture.
const SURROUNDINGS_MM: f64 = 25.0;
/// Lines of the legend at most.
const LEGEND_LINES: usize = 4;
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
    let (lower, geometry) = view(scene);
    let scene = &Scene {
        geometry: &geometry,
        image: cut(scene.image, lower, geometry.shape),
        reference: cut(scene.reference, lower, geometry.shape),
        predicted: cut(scene.predicted, lower, geometry.shape),
        ..*scene
    };
    let geometry = scene.geometry;
    let scale = pixels_per_mm(geometry);
    let planes = planes(scene);
    let size = |axis: usize| {
        let mm = geometry.shape[axis] as f64 * geometry.spacing_mm[axis];
        ((mm * scale).round() as usize).max(1)
    };
    let widest = planes.iter().map(|p| size(p.right.0)).max().unwrap_or(1);
    let width = (2 * widest + 3 * MARGIN).max(LETTER * scene.title.chars().count() + 2 * MARGIN);
    let legend = legend(scene.entries, width);
    let top = MARGIN + (1 + legend.len()) * LINE + MARGIN;
    let panels: usize = planes.iter().map(|p| LINE + size(p.down.0) + MARGIN).sum();
    let mut canvas = Canvas::new(width, top + panels, BLACK);
    draw_caption(&mut canvas, scene.title, &legend);
    let (low, high) = window(scene, &planes);
    let columns = [
        (MARGIN, scene.reference, "reference"),
        (2 * MARGIN + widest, scene.predicted, "prediction"),
    ];
    let mut y = top;
    for plane in &planes {
        let pixels = [size(plane.down.0), size(plane.right.0)];
        let grey = on_screen(scene.image, plane, pixels);
        for (x, classes, side) in columns {
            let title =
                format!("{side}, {} slice {}", plane.name, lower[plane.across] + plane.slice);
            canvas.text(x as i32, y as i32, &title, GREY);
            canvas.grey(x, y + LINE, grey.view(), low, high, 1);
            let classes = on_screen(classes, plane, pixels);
            canvas.outlines(x, y + LINE, classes.view(), 1);
        }
        y += LINE + pixels[0] + MARGIN;
    }
    canvas
}

/// The part of the image that is shown: the foreground of both maps with surroundings of a quarter of its size, at least
/// [`SURROUNDINGS_MM`]. First voxel, and the geometry of the part (its place isn't needed).
fn view(scene: &Scene<'_>) -> ([usize; 3], Geometry) {
    let foreground = Zip::from(scene.reference)
        .and(scene.predicted)
        .map_collect(|&reference, &predicted| reference > 0 || predicted > 0);
    // Without any foreground this is the whole image.
    let ranges = bounding_box(&foreground);
    let mut geometry = scene.geometry.clone();
    let lower = [0, 1, 2].map(|axis| {
        let range = &ranges[axis];
        let least = (SURROUNDINGS_MM / geometry.spacing_mm[axis]).ceil() as usize;
        let margin = least.max(range.len() / 4);
        let lower = range.start.saturating_sub(margin);
        geometry.shape[axis] = (range.end + margin).min(scene.geometry.shape[axis]) - lower;
        lower
    });
    (lower, geometry)
}

fn cut<T>(volume: ArrayView3<'_, T>, lower: [usize; 3], shape: [usize; 3]) -> ArrayView3<'_, T> {
    (0..3).fold(volume, |mut volume, axis| {
        let slice = Slice::from(lower[axis]..lower[axis] + shape[axis]);
        volume.slice_axis_inplace(Axis(axis), slice);
        volume
    })
}

/// The classes in lines that fit the width; what doesn't fit is counted.
fn legend(entries: &[Entry], width: usize) -> Vec<Vec<(usize, Entry)>> {
    let mut lines: Vec<Vec<(usize, Entry)>> = vec![Vec::new()];
    let mut x = MARGIN;
    for (shown, entry) in entries.iter().enumerate() {
        let length = LETTER * entry.text.chars().count() + 24;
        if x > MARGIN && x + length > width {
            if lines.len() == LEGEND_LINES {
                let rest = format!("and {} more", entries.len() - shown);
                lines.push(vec![(MARGIN, Entry { class: 0, text: rest })]);
                break;
            }
            lines.push(Vec::new());
            x = MARGIN;
        }
        if let Some(line) = lines.last_mut() {
            line.push((x, entry.clone()));
        }
        x += length;
    }
    lines
}

fn draw_caption(canvas: &mut Canvas, title: &str, legend: &[Vec<(usize, Entry)>]) {
    canvas.text(MARGIN as i32, MARGIN as i32, title, WHITE);
    for (line, entries) in legend.iter().enumerate() {
        let y = (MARGIN + (1 + line) * LINE) as i32;
        for (x, entry) in entries {
            let mut x = *x as i32;
            if let Some(class) = usize::try_from(entry.class).ok().filter(|&class| class > 0) {
                canvas.fill(x, y, 8, 8, PALETTE[(class - 1) % PALETTE.len()]);
                x += 12;
            }
            canvas.text(x, y, &entry.text, WHITE);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    /// An image of 1 × 1 × 5 mm voxels whose axes run as the columns of `direction` (x, y, z) say.
    fn geometry(direction: [[f64; 3]; 3]) -> Geometry {
        Geometry { direction, ..Geometry::plain([6, 30, 40], [5.0, 1.0, 1.0]) }
    }

    const LPS: [[f64; 3]; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    const RAS: [[f64; 3]; 3] = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];

    fn scene_planes(geometry: &Geometry, maps: &Array3<i16>) -> Vec<Plane> {
        let image = Array3::zeros(maps.dim());
        planes(&Scene {
            title: "",
            entries: &[],
            geometry,
            image: image.view(),
            reference: maps.view(),
            predicted: maps.view(),
        })
    }

    #[test]
    fn planes_go_through_the_fullest_slice_and_turn_the_patient_upright() {
        let mut map = Array3::zeros((6, 30, 40));
        map[[1, 20, 7]] = 1;
        map[[1, 20, 8]] = 1;
        map[[2, 20, 8]] = 2;
        let plane = |name, across, slice, down, right| Plane { name, across, slice, down, right };
        let found = scene_planes(&geometry(LPS), &map);
        assert_eq!(
            found,
            [
                plane("axial", 0, 1, (1, false), (2, false)),
                plane("coronal", 1, 20, (0, true), (2, false)),
                plane("sagittal", 2, 8, (0, true), (1, false)),
            ]
        );
        let found = scene_planes(&geometry(RAS), &map);
        assert_eq!((found[0].down, found[0].right), ((1, true), (2, true)));
        assert_eq!((found[2].down, found[2].right), ((0, true), (1, true)));
        // x runs to superior, y to anterior, z to the left.
        let turned = [[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]];
        let found = scene_planes(&geometry(turned), &map);
        assert_eq!(found[0], plane("sagittal", 0, 1, (2, true), (1, true)));
        // A single slice has one plane.
        let flat = Geometry { shape: [1, 30, 40], ..geometry(LPS) };
        assert_eq!(scene_planes(&flat, &Array3::zeros((1, 30, 40))).len(), 1);
    }

    #[test]
    fn pixels_are_the_nearest_voxels_to_scale() {
        let volume = Array3::from_shape_fn((2, 2, 3), |(z, y, x)| 100 * z + 10 * y + x);
        let axial = Plane { name: "", across: 0, slice: 1, down: (1, false), right: (2, true) };
        let pixels = on_screen(volume.view(), &axial, [4, 3]);
        assert_eq!(pixels.column(0).to_vec(), [102, 102, 112, 112]);
        assert_eq!(pixels.row(0).to_vec(), [102, 101, 100]);
        let swapped = Plane { name: "", across: 0, slice: 0, down: (2, false), right: (1, false) };
        assert_eq!(on_screen(volume.view(), &swapped, [3, 2]).row(2).to_vec(), [2, 12]);
    }

    #[test]
    fn only_the_surroundings_of_the_foreground_are_shown() {
        let geometry = Geometry::plain([20, 100, 100], [5.0, 1.0, 1.0]);
        let image = Array3::zeros((20, 100, 100));
        let mut map = Array3::zeros((20, 100, 100));
        map[[10, 50, 3]] = 1;
        let mut scene = Scene {
            title: "",
            entries: &[],
            geometry: &geometry,
            image: image.view(),
            reference: map.view(),
            predicted: map.view(),
        };
        let (lower, part) = view(&scene);
        // 25 mm on each side: 5 slices, 25 rows, and to the left only what is there.
        assert_eq!((lower, part.shape), ([5, 25, 0], [11, 51, 29]));
        let empty = Array3::zeros(map.dim());
        (scene.reference, scene.predicted) = (empty.view(), empty.view());
        assert_eq!(view(&scene), ([0; 3], geometry.clone()));
    }

    #[test]
    fn a_legend_that_is_too_long_is_counted() {
        let entry = |class| Entry { class, text: format!("class {class:03} Dice 0.500") };
        let entries: Vec<Entry> = (1..=50).map(entry).collect();
        let lines = legend(&entries, 400);
        assert_eq!(lines.len(), LEGEND_LINES + 1);
        let shown: usize = lines[..LEGEND_LINES].iter().map(Vec::len).sum();
        assert_eq!(lines[LEGEND_LINES][0].1.text, format!("and {} more", 50 - shown));
        assert_eq!(legend(&entries[..2], 400).len(), 1);
    }
}
