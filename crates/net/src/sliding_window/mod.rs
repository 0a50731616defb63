//! Whole images from a network that sees patches: overlapping tiles, mirrored views, a Gaussian weight per voxel.
//!
//! Rules of nnU-Net (2018 paper and v2): tiles at most `step` × patch apart and evenly spread; images smaller than the
//! patch are surrounded by zeros, the odd voxel at the end; each tile counts by a Gaussian around its centre; all
//! subsets of the mirror axes are averaged. With half-patch steps and three axes a voxel is seen up to 64 times. A 2D
//! patch has depth 1, so that every slice is tiled by itself.
//!
//! Sums are taken view after view, and threads share the work by slices: the same input gives the same bytes at any
//! thread count. [`Sums`] does all of it on the network's card, if it has one and the volume fits there.

mod accumulator;
mod card;
mod sums;

pub use accumulator::Accumulator;
#[cfg(test)]
pub(crate) use card::tiling;
pub use card::{CardMeans, CardSums, Decide, Resampling, Tap, card_bytes};
pub use sums::{Means, Sums, predict_volume};

use artifact::plan::Plan;
use artifact::recipe::Averaged;
use ndarray::parallel::prelude::*;
use ndarray::{Array3, Array4, ArrayView4, ArrayView5, ArrayViewMut5, Axis};

/// How tiles are laid and averaged. Axes are z, y, x.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// What the network sees at once, in voxels; depth 1 for 2D.
    pub patch: [usize; 3],
    /// Largest distance of neighbouring tiles as a fraction of the patch.
    pub step: f64,
    /// Width of the Gaussian weight as a fraction of the patch.
    pub gaussian_sigma: f64,
    /// All subsets of these axes are flipped; empty: no mirroring. Axes where the patch is 1 are left out.
    pub mirror_axes: Vec<usize>,
    /// What is averaged: probabilities, or network outputs that become probabilities at the end.
    pub averaged: Averaged,
    /// How network outputs become probabilities.
    pub activation: Activation,
    /// Tiles and mirrored views that go through the network at once, at most.
    pub tile_batch: usize,
}

/// How network outputs become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Classes that exclude each other: probabilities add up to 1.
    Softmax,
    /// Regions that may overlap: each for itself.
    Sigmoid,
}

impl Activation {
    /// Sigmoid where the plan has regions.
    pub fn of(plan: &Plan) -> Self {
        if plan.regions.is_empty() { Self::Softmax } else { Self::Sigmoid }
    }

    /// In place, over the rows of `[output, width]`.
    fn apply(self, scores: &mut [f32], width: usize) {
        match self {
            Self::Softmax => softmax_rows(scores, width),
            Self::Sigmoid => scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
        }
    }
}

/// The network: reads patches `[n, channel, z, y, x]`, writes logits `[n, class, z, y, x]`. `n` is at most
/// [`Window::tile_batch`] and the same in all calls for an image. What a patch gives must depend on nothing but the patch.
pub type Forward<'a, E> =
    dyn FnMut(ArrayView5<'_, f32>, ArrayViewMut5<'_, f32>) -> Result<(), E> + 'a;

/// Told how many views are done since the last call; an error ends the prediction.
pub type Tick<'a, E> = dyn FnMut(usize) -> Result<(), E> + 'a;

/// Class probabilities `[class, z, y, x]` of an image `[channel, z, y, x]`.
///
/// # Errors
/// Those of `forward` and `tick`.
///
/// # Panics
/// As [`Accumulator::new`] and [`Accumulator::add`].
pub fn predict<E>(
    image: ArrayView4<'_, f32>,
    classes: usize,
    window: &Window,
    forward: &mut Forward<'_, E>,
    tick: &mut Tick<'_, E>,
) -> Result<Array4<f32>, E> {
    let (_, z, y, x) = image.dim();
    let mut accumulator = Accumulator::new([z, y, x], classes, window);
    accumulator.add(image, forward, tick)?;
    Ok(accumulator.finish())
}

/// First voxels of the tiles along one axis of at least `tile` voxels: evenly spread, at most `step` × `tile` apart but
/// not closer than one voxel, rounded half to even.
///
/// An axis shorter than `tile` has one tile, at 0 of the surrounding zeros.
pub fn positions(image: usize, tile: usize, step: f64) -> Vec<usize> {
    let slack = image.saturating_sub(tile);
    let intervals = (slack as f64 / (tile as f64 * step).max(1.0)).ceil();
    if slack == 0 {
        return vec![0];
    }
    let distance = slack as f64 / intervals;
    // Both numbers are small and not negative: `as` is exact.
    (0..=intervals as usize).map(|i| (distance * i as f64).round_ties_even() as usize).collect()
}

/// Weight of a tile's voxels `[z, y, x]`: a Gaussian of `sigma` × patch around voxel `patch / 2`, cut off at 4 standard
/// deviations, 1 at the peak; where it is 0, the smallest other weight, so that every voxel counts.
pub fn gaussian(patch: [usize; 3], sigma: f64) -> Array3<f32> {
    let curves = curves(patch, sigma);
    let mut weight = Array3::from_shape_fn(patch, |(z, y, x)| {
        (curves[0][z] * curves[1][y] * curves[2][x]) as f32
    });
    let smallest = weight.iter().copied().filter(|w| *w > 0.0).fold(1.0, f32::min);
    weight.mapv_inplace(|w| if w > 0.0 { w } else { smallest });
    weight
}

/// The Gaussian along each axis.
fn curves(patch: [usize; 3], sigma: f64) -> [Vec<f64>; 3] {
    patch.map(|edge| curve(edge, sigma * edge as f64))
}

/// The Gaussian along one axis. Cut off as `scipy.ndimage.gaussian_filter` does: beyond ⌊4σ + ½⌋ voxels.
fn curve(edge: usize, sigma: f64) -> Vec<f64> {
    let radius = (4.0 * sigma + 0.5).floor();
    let value = |i: usize| {
        let distance = i.abs_diff(edge / 2) as f64;
        if distance > radius { 0.0 } else { (-0.5 * (distance / sigma).powi(2)).exp() }
    };
    (0..edge).map(value).collect()
}

/// How often the network runs over an image of this shape: tiles times mirrored views.
pub fn views(shape: [usize; 3], window: &Window) -> usize {
    let tiles: usize =
        (0..3).map(|a| positions(shape[a], window.patch[a], window.step).len()).product();
    tiles * flips(window).len()
}

/// Which axes each view flips.
fn flips(window: &Window) -> Vec<[bool; 3]> {
    let may = |axis: usize| window.patch[axis] > 1 && window.mirror_axes.contains(&axis);
    (0..8usize)
        .map(|subset| [0, 1, 2].map(|axis| subset >> axis & 1 == 1))
        .filter(|flip| (0..3).all(|axis| !flip[axis] || may(axis)))
        .collect()
}

/// The part of an image that a tile covers.
#[derive(Debug, Clone, Copy)]
struct Tile {
    /// First voxel of the part in the image.
    image: [usize; 3],
    /// The same voxel in the tile: not 0 where zeros surround the image.
    tile: [usize; 3],
    /// Voxels of the part.
    shape: [usize; 3],
}

fn tiles(shape: [usize; 3], window: &Window) -> Vec<Tile> {
    let patch = window.patch;
    let along = [0, 1, 2].map(|a| positions(shape[a], patch[a], window.step));
    let before = [0, 1, 2].map(|a| patch[a].saturating_sub(shape[a]) / 2);
    let extent = [0, 1, 2].map(|a| patch[a].min(shape[a]));
    let mut tiles = Vec::new();
    for &z in &along[0] {
        for &y in &along[1] {
            for &x in &along[2] {
                tiles.push(Tile { image: [z, y, x], tile: before, shape: extent });
            }
        }
    }
    tiles
}

/// Every view, in the order in which they are added: tile after tile, each with all its flips.
fn view_list(shape: [usize; 3], window: &Window) -> Vec<(Tile, [bool; 3])> {
    let flips = flips(window);
    let each = |tile| flips.iter().map(move |flip| (tile, *flip));
    tiles(shape, window).into_iter().flat_map(each).collect()
}

/// Averages `[class, z, y, x]` of what [`Window::averaged`] names, as probabilities.
fn probabilities(mut means: Array4<f32>, window: &Window) -> Array4<f32> {
    if window.averaged == Averaged::Logits {
        means.axis_iter_mut(Axis(1)).into_par_iter().for_each(|mut slice| {
            let mut scratch = Vec::new();
            for y in 0..slice.dim().1 {
                let mut rows = slice.index_axis_mut(Axis(1), y);
                scratch.clear();
                scratch.extend(rows.iter().copied());
                window.activation.apply(&mut scratch, rows.dim().1);
                rows.iter_mut().zip(&scratch).for_each(|(row, p)| *row = *p);
            }
        });
    }
    means
}

/// Softmax over the rows of `[class, width]`, in place; the largest logit is subtracted first.
fn softmax_rows(scores: &mut [f32], width: usize) {
    let mut largest = vec![f32::NEG_INFINITY; width];
    let mut sum = vec![0.0f32; width];
    for row in scores.chunks_exact(width) {
        largest.iter_mut().zip(row).for_each(|(m, &s)| *m = m.max(s));
    }
    for row in scores.chunks_exact_mut(width) {
        for ((score, &m), sum) in row.iter_mut().zip(&largest).zip(&mut sum) {
            *score = (*score - m).exp();
            *sum += *score;
        }
    }
    for row in scores.chunks_exact_mut(width) {
        row.iter_mut().zip(&sum).for_each(|(score, sum)| *score /= sum);
    }
}
