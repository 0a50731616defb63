//! Weighted sums of views in the host's memory.
//!
//! Tiles that hold one value per channel (air that was clipped, a background of zeros) are the same input to the
//! network, mirrored or not: it sees the first of them only, and its logits count for all.

use super::{
    Activation, Forward, Tick, Tile, Window, curves, flips, gaussian, positions, probabilities,
    tiles,
};
use artifact::recipe::Averaged;
use ndarray::parallel::prelude::*;
use ndarray::{
    Array3, Array4, Array5, ArrayView2, ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4, Axis,
    Slice, s,
};
use std::collections::BTreeMap;

/// Weighted sums of views; several models may add theirs, which averages over models too.
#[derive(Debug)]
pub struct Accumulator {
    window: Window,
    /// `[z, y, x]` of the patch.
    gaussian: Array3<f32>,
    /// `[class, z, y, x]`.
    sums: Array4<f32>,
    /// Networks whose views are in the sums.
    networks: usize,
}

/// A tile and the axes that are flipped.
type View = (Tile, [bool; 3]);

impl Accumulator {
    /// Empty sums for an image of this shape.
    ///
    /// # Panics
    /// If the patch has an edge of 0, or step or sigma is not positive.
    pub fn new(shape: [usize; 3], classes: usize, window: &Window) -> Self {
        assert!(!window.patch.contains(&0), "patch {:?} has an edge of 0", window.patch);
        assert!(window.step > 0.0 && window.gaussian_sigma > 0.0, "step and sigma are positive");
        let [z, y, x] = shape;
        Self {
            window: window.clone(),
            gaussian: gaussian(window.patch, window.gaussian_sigma),
            sums: Array4::zeros((classes, z, y, x)),
            networks: 0,
        }
    }

    /// Bytes beside the image: sums of so many classes, the Gaussian, a batch of patches and their logits.
    pub fn bytes(shape: [usize; 3], channels: usize, classes: usize, window: &Window) -> u64 {
        let volume = |shape: [usize; 3]| shape.iter().product::<usize>();
        let patches = 1 + (channels + classes) * window.tile_batch;
        4 * (classes * volume(shape) + patches * volume(window.patch)) as u64
    }

    /// Adds all views of one network. After an error the sums are incomplete and of no use.
    ///
    /// # Errors
    /// Those of `forward` and `tick`.
    ///
    /// # Panics
    /// If the image's shape isn't the accumulator's.
    pub fn add<E>(
        &mut self,
        image: ArrayView4<'_, f32>,
        forward: &mut Forward<'_, E>,
        tick: &mut Tick<'_, E>,
    ) -> Result<(), E> {
        let (channels, z, y, x) = image.dim();
        let (classes, depth, height, width) = self.sums.dim();
        assert_eq!((depth, height, width), (z, y, x), "an image of another shape");
        let inputs = inputs(image, &self.window);
        let [pz, py, px] = self.window.patch;
        let batch = inputs.len().div_ceil(inputs.len().div_ceil(self.window.tile_batch.max(1)));
        let mut input = Array5::zeros((batch, channels, pz, py, px));
        let mut logits = Array5::zeros((batch, classes, pz, py, px));
        for group in inputs.chunks(batch) {
            for (patch, views) in input.outer_iter_mut().zip(group) {
                let (tile, flip) = views[0];
                cut(image, tile, flip, patch);
            }
            // The last batch may end in patches of the one before: a smaller one would have the network lay out its
            // memory anew.
            forward(input.view(), logits.view_mut())?;
            for (logits, views) in logits.outer_iter().zip(group) {
                for &(tile, flip) in views {
                    self.add_view(logits, tile, flip);
                }
            }
            tick(group.iter().map(Vec::len).sum())?;
        }
        self.networks += 1;
        Ok(())
    }

    /// One view `[class, z, y, x]`, its flip undone; threads take slices of it.
    fn add_view(&mut self, mut logits: ArrayView4<'_, f32>, tile: Tile, flip: [bool; 3]) {
        for axis in 0..3 {
            // Rows stay as they are and are read backwards.
            let backwards = axis == 2 && flip[axis];
            if flip[axis] && !backwards {
                logits.invert_axis(Axis(axis + 1));
            }
            let (first, after) = (tile.tile[axis], tile.tile[axis] + tile.shape[axis]);
            let patch = self.window.patch[axis];
            let range = if backwards { patch - after..patch - first } else { first..after };
            logits.slice_axis_inplace(Axis(axis + 1), Slice::from(range));
        }
        let gaussian = part3(self.gaussian.view(), tile.tile, tile.shape);
        let window = &self.window;
        let activation = (window.averaged == Averaged::Probabilities).then_some(window.activation);
        let mut sums = self.sums.view_mut();
        for axis in 0..3 {
            let range = Slice::from(tile.image[axis]..tile.image[axis] + tile.shape[axis]);
            sums.slice_axis_inplace(Axis(axis + 1), range);
        }
        sums.axis_iter_mut(Axis(1))
            .into_par_iter()
            .zip(logits.axis_iter(Axis(1)))
            .zip(gaussian.axis_iter(Axis(0)))
            .for_each(|((sums, logits), gaussian)| match activation {
                None => add_slice(sums, logits, gaussian, flip[2]),
                Some(activation) => add_activated(sums, logits, gaussian, flip[2], activation),
            });
    }

    /// The averages as probabilities `[class, z, y, x]`.
    pub fn finish(self) -> Array4<f32> {
        let window = self.window.clone();
        probabilities(self.means(), &window)
    }

    /// The averages of what [`Window::averaged`] names, `[class, z, y, x]`: logits stay logits, for those who resample
    /// them first.
    pub fn means(mut self) -> Array4<f32> {
        let (_, depth, height, width) = self.sums.dim();
        let smallest = self.gaussian.iter().copied().fold(1.0, f32::min);
        let coverage = Coverage::new([depth, height, width], &self.window, smallest.into());
        let times = (flips(&self.window).len() * self.networks) as f64;
        let slices = self.sums.axis_iter_mut(Axis(1)).into_par_iter().enumerate();
        slices.for_each_init(
            || vec![0.0f32; width],
            |weights, (z, mut slice)| {
                for y in 0..height {
                    for (x, weight) in weights.iter_mut().enumerate() {
                        *weight = (times * coverage.at([z, y, x])) as f32;
                    }
                    for mut row in slice.index_axis_mut(Axis(1), y).outer_iter_mut() {
                        row.iter_mut().zip(weights.iter()).for_each(|(sum, w)| *sum /= w);
                    }
                }
            },
        );
        self.sums
    }
}

/// Sums of the weights of all tiles over a voxel, by axes: tiles stand in a grid, and the Gaussian is a product but for
/// the voxels beyond its cut, which all have the smallest weight.
struct Coverage {
    /// Σ of the Gaussian along the axis.
    weight: [Vec<f64>; 3],
    /// Tiles along the axis, and those within whose cut the voxel lies.
    tiles: [Vec<f64>; 3],
    within: [Vec<f64>; 3],
    smallest: f64,
}

impl Coverage {
    fn new(shape: [usize; 3], window: &Window, smallest: f64) -> Self {
        let curves = curves(window.patch, window.gaussian_sigma);
        let sums = |axis: usize, of: &dyn Fn(f64) -> f64| {
            let (edge, patch) = (shape[axis], window.patch[axis]);
            let before = patch.saturating_sub(edge) / 2;
            let mut sums = vec![0.0; edge];
            for first in positions(edge, patch, window.step) {
                let part = &curves[axis][before..before + patch.min(edge)];
                sums[first..].iter_mut().zip(part).for_each(|(sum, &w)| *sum += of(w));
            }
            sums
        };
        Self {
            weight: [0, 1, 2].map(|axis| sums(axis, &|w| w)),
            tiles: [0, 1, 2].map(|axis| sums(axis, &|_| 1.0)),
            within: [0, 1, 2].map(|axis| sums(axis, &|w| if w > 0.0 { 1.0 } else { 0.0 })),
            smallest,
        }
    }

    fn at(&self, [z, y, x]: [usize; 3]) -> f64 {
        let product = |of: &[Vec<f64>; 3]| of[0][z] * of[1][y] * of[2][x];
        product(&self.weight) + self.smallest * (product(&self.tiles) - product(&self.within))
    }
}

/// Every view, in the order in which they are added: tile after tile, each with all its flips; those that are the same
/// input to the network stand together with the first of them.
fn inputs(image: ArrayView4<'_, f32>, window: &Window) -> Vec<Vec<View>> {
    let (_, z, y, x) = image.dim();
    let flips = flips(window);
    let mut inputs: Vec<Vec<View>> = Vec::new();
    let mut even = BTreeMap::new();
    for tile in tiles([z, y, x], window) {
        let views = flips.iter().map(|flip| (tile, *flip));
        match one_value(image, tile, window.patch) {
            None => inputs.extend(views.map(|view| vec![view])),
            Some(values) => {
                let at = *even.entry(values).or_insert(inputs.len());
                inputs.resize(inputs.len().max(at + 1), Vec::new());
                inputs[at].extend(views);
            }
        }
    }
    inputs
}

/// The bits of each channel's value, if a tile and what surrounds it hold no other.
fn one_value(image: ArrayView4<'_, f32>, tile: Tile, patch: [usize; 3]) -> Option<Vec<u32>> {
    let part = part4(image, tile.image, tile.shape);
    let mut values = Vec::with_capacity(part.dim().0);
    for channel in part.outer_iter() {
        let value = channel.first()?.to_bits();
        let surrounded = tile.shape != patch;
        if surrounded && value != 0 || channel.iter().any(|v| v.to_bits() != value) {
            return None;
        }
        values.push(value);
    }
    Some(values)
}

/// Copies a tile into a patch `[channel, z, y, x]`, flipped, zeros where the image ends.
fn cut(image: ArrayView4<'_, f32>, tile: Tile, flip: [bool; 3], mut patch: ArrayViewMut4<'_, f32>) {
    let (_, z, y, x) = patch.dim();
    if tile.shape != [z, y, x] {
        patch.fill(0.0);
    }
    for axis in 0..3 {
        if flip[axis] {
            patch.invert_axis(Axis(axis + 1));
        }
        let range = Slice::from(tile.tile[axis]..tile.tile[axis] + tile.shape[axis]);
        patch.slice_axis_inplace(Axis(axis + 1), range);
    }
    let part = part4(image, tile.image, tile.shape);
    let slices = patch.axis_iter_mut(Axis(1)).into_par_iter().zip(part.axis_iter(Axis(1)));
    slices.for_each(|(mut to, from)| to.assign(&from));
}

fn part3(array: ArrayView3<'_, f32>, from: [usize; 3], shape: [usize; 3]) -> ArrayView3<'_, f32> {
    let range = |a: usize| from[a]..from[a] + shape[a];
    array.slice_move(s![range(0), range(1), range(2)])
}

fn part4(array: ArrayView4<'_, f32>, from: [usize; 3], shape: [usize; 3]) -> ArrayView4<'_, f32> {
    let range = |a: usize| from[a]..from[a] + shape[a];
    array.slice_move(s![.., range(0), range(1), range(2)])
}

/// Adds one slice `[class, y, x]`, each voxel times its weight.
fn add_slice(
    mut sums: ArrayViewMut3<'_, f32>,
    logits: ArrayView3<'_, f32>,
    gaussian: ArrayView2<'_, f32>,
    backwards: bool,
) {
    for (mut sums, logits) in sums.outer_iter_mut().zip(logits.outer_iter()) {
        let rows = sums.outer_iter_mut().zip(logits.outer_iter()).zip(gaussian.outer_iter());
        for ((mut sums, logits), weights) in rows {
            let sums = sums.as_slice_mut().expect(ROWS);
            let logits = logits.to_slice().expect(ROWS);
            let weights = weights.to_slice().expect(ROWS);
            if backwards {
                add_products(sums, logits.iter().rev(), weights);
            } else {
                add_products(sums, logits.iter(), weights);
            }
        }
    }
}

const ROWS: &str = "rows lie together in memory";

fn add_products<'a>(sums: &mut [f32], values: impl Iterator<Item = &'a f32>, weights: &[f32]) {
    for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
        *sum += value * weight;
    }
}

/// As [`add_slice`], of probabilities.
fn add_activated(
    mut sums: ArrayViewMut3<'_, f32>,
    logits: ArrayView3<'_, f32>,
    gaussian: ArrayView2<'_, f32>,
    backwards: bool,
    activation: Activation,
) {
    let (classes, height, width) = logits.dim();
    let mut scores = Vec::with_capacity(classes * width);
    for y in 0..height {
        scores.clear();
        for row in logits.index_axis(Axis(1), y).outer_iter() {
            let row = row.to_slice().expect(ROWS);
            if backwards {
                scores.extend(row.iter().rev());
            } else {
                scores.extend(row);
            }
        }
        activation.apply(&mut scores, width);
        let weights = gaussian.row(y).to_slice().expect(ROWS);
        let mut sums = sums.index_axis_mut(Axis(1), y);
        for (mut sums, scores) in sums.outer_iter_mut().zip(scores.chunks_exact(width)) {
            add_products(sums.as_slice_mut().expect(ROWS), scores.iter(), weights);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(patch: [usize; 3], gaussian_sigma: f64, mirror_axes: Vec<usize>) -> Window {
        Window {
            patch,
            step: 0.5,
            gaussian_sigma,
            mirror_axes,
            averaged: Averaged::Logits,
            activation: Activation::Softmax,
            tile_batch: 3,
        }
    }

    #[test]
    fn weights_of_all_tiles_are_sums_by_axes() {
        // With the widths below 1/8, voxels lie beyond the cut.
        for sigma in [0.05, 0.09, 0.125, 0.3] {
            for (shape, patch) in [([11, 9, 14], [5, 9, 8]), ([3, 20, 7], [8, 6, 7])] {
                let window = window(patch, sigma, vec![]);
                let gaussian = gaussian(patch, sigma);
                let smallest = gaussian.iter().copied().fold(1.0, f32::min);
                let coverage = Coverage::new(shape, &window, smallest.into());
                let mut expected = Array3::<f64>::zeros(shape);
                for tile in tiles(shape, &window) {
                    let part = part3(gaussian.view(), tile.tile, tile.shape);
                    for ((z, y, x), weight) in part.indexed_iter() {
                        let [z0, y0, x0] = tile.image;
                        expected[[z0 + z, y0 + y, x0 + x]] += f64::from(*weight);
                    }
                }
                for ((z, y, x), e) in expected.indexed_iter() {
                    let found = coverage.at([z, y, x]);
                    // Each summand of the definition was rounded to f32.
                    let near = (found - e).abs() <= f64::from(f32::EPSILON) * e;
                    assert!(near, "{sigma} {shape:?} at {:?}: {found}, {e}", [z, y, x]);
                }
            }
        }
    }

    /// Two tiles of air, twice, and noise between; the stand-in tells places in the patch apart.
    #[test]
    fn tiles_of_one_value_are_seen_once_and_count_as_if_each_were() {
        let mut image = Array4::from_shape_fn((2, 4, 6, 40), |(c, z, y, x)| {
            ((c * 5 + z * 7 + y * 3 + x * 11) % 13) as f32
        });
        for (from, to, value) in [(0, 12, -0.5), (20, 28, 0.0), (32, 40, -0.5)] {
            image.slice_mut(s![.., .., .., from..to]).fill(value);
        }
        let window = window([4, 6, 8], 0.125, vec![2]);
        let run = |image: ArrayView4<'_, f32>, window: &Window| {
            let mut seen = 0;
            let mut views = 0;
            let mut sums = Accumulator::new([4, 6, 40], 2, window);
            let mut forward =
                |x: ndarray::ArrayView5<'_, f32>, mut out: ndarray::ArrayViewMut5<'_, f32>| {
                    seen += x.dim().0;
                    for ((n, k, z, y, u), out) in out.indexed_iter_mut() {
                        *out = x[[n, k, z, y, u]] + (z + 2 * y + 3 * u) as f32;
                    }
                    Ok::<(), ()>(())
                };
            let tick = &mut |n| {
                views += n;
                Ok(())
            };
            sums.add(image, &mut forward, tick).unwrap();
            assert_eq!(views, super::super::views([4, 6, 40], window));
            (sums.means(), seen)
        };
        let (found, seen) = run(image.view(), &window);
        // Nine tiles, two views each. Those at 0, 4 and 32 are the same, that at 20 is another: 10 + 1 + 1 inputs.
        assert_eq!(seen, 12);
        // A second class of voxels that no network looks at makes all tiles different.
        let [z, y, x] = [4, 6, 40];
        let place =
            Array4::from_shape_fn((1, z, y, x), |(_, z, y, x)| (z * 240 + y * 40 + x) as f32);
        let marked = ndarray::concatenate![Axis(0), image, place];
        let (expected, seen) = run(marked.view(), &window);
        assert_eq!(seen, 18);
        for ((at, f), e) in found.indexed_iter().zip(&expected) {
            // At most eight summands below 64 in another order; each sum rounds once.
            assert!((f - e).abs() <= 8.0 * 64.0 * f32::EPSILON, "{at:?}: {f}, expected {e}");
        }
    }
}
