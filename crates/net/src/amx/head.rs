//! Segmentation heads: 1×1×1 convolutions from activations to logits, which are f32 `[sample][class][z][y][x]` as the
//! loss reads them. With a few classes the matrix unit has little to do here; only the forward pass uses it.

use super::linear::{Place, Tiling};
use super::norm::{Planes, Writable, rows};
use super::packing::Packed;
use super::simd;
use super::tensor::{BLOCK, Chunk, Tensor, Wide};
use super::tile::{self, Nothing, SUMS, Steps, Tiles, most_rows, sum_place};
use crate::cpu::Shared;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// logits = weights · a + bias.
pub(crate) fn forward<const P: usize>(
    a: &Tensor,
    weights: &Packed,
    bias: &[f32],
    logits: &mut Tensor,
) {
    let (g, classes) = (a.grid, logits.grid.channels);
    assert_eq!((g.batch, g.size), (logits.grid.batch, logits.grid.size), "logits");
    assert_eq!((weights.inputs.len(), weights.taps), (g.blocks(), 1), "packed weights");
    assert_eq!(a.data.len(), g.len() * P, "tensor of another precision");
    assert_eq!(bias.len(), classes, "bias");
    let tiling = Tiling::new(g.size, g.pitches(), g.pitches(), most_rows(P));
    assert!(g.lead() + tiling.reach(1) < g.block_pitch() + g.lead() + ROWS_BEHIND, "tiles");
    let (units, voxels) = (tiling.units.len(), g.voxels());
    let taps: Vec<isize> =
        (0..g.blocks()).map(|b| (b * g.block_pitch() * P * size_of::<Chunk>()) as isize).collect();
    let out = Shared(logits.logits.as_mut_ptr());
    let tasks = weights.outputs.len() * g.batch * units;
    (0..tasks).into_par_iter().for_each(|task| {
        let (block, rest) = (task / (g.batch * units), task % (g.batch * units));
        let (sample, unit) = (rest / units, rest % units);
        let (first, count) = weights.outputs[block];
        let n = if count > 16 { 2 } else { 1 };
        let packed = &weights.chunks[block * g.blocks() * weights.pair_chunks()..];
        let mut place = Place([0.0; SUMS]);
        let _tiles = Tiles::open();
        for t in &tiling.tiles[tiling.units[unit].clone()] {
            let base = &raw const a.data[(g.origin(sample, 0) + t.input) * P];
            // SAFETY: tiles are open; blocks of a sample follow each other, and behind the last voxel of a tensor there
            // is more than a tile; weights of a block's inputs follow each other as the taps do.
            unsafe {
                tile::zero();
                let steps = Steps { sources: &[base], taps: &taps, weights: packed.as_ptr() };
                tile::multiply(P, t.m, n, 1)(&steps, &mut Nothing);
                tile::store(t.m, n, place.0.as_mut_ptr());
            }
            for run in &tiling.runs[t.runs.clone()] {
                for c in 0..count {
                    let start = (sample * classes + first + c) * voxels + run.voxel;
                    for i in 0..run.count {
                        let row = run.row + i;
                        let at = sum_place(row / 16, c / 16) + row % 16 * 16 + c % 16;
                        let value = place.0[at] + bias[first + c];
                        // SAFETY: the voxel lies inside the logits, and belongs to this task.
                        unsafe { *{ out }.0.add(start + i) = value };
                    }
                }
            }
        }
    });
}

/// Voxels that a tile may read behind a block: fewer than a tensor has behind its end.
const ROWS_BEHIND: usize = 48;

/// Weights `[class][channel]` of one block of channels, filled up to 32.
fn class_weights(weights: &[f32], channels: usize, block: usize) -> Vec<Wide> {
    let first = block * BLOCK;
    let rows = weights.chunks_exact(channels).map(|row| {
        let mut wide = Wide::ZERO;
        let part = &row[first..channels.min(first + BLOCK)];
        wide.0[..part.len()].copy_from_slice(part);
        wide
    });
    rows.collect()
}

/// One row: da = Σ over classes of gradient · weights, or added.
///
/// # Safety
/// The unit is available; `width` numbers are there behind every gradient, and as many voxels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn backward_row<const P: usize>(
    gradients: &[&[f32]],
    weights: &[Wide],
    width: usize,
    add: bool,
    to: *mut Chunk,
) {
    // SAFETY: by the contract.
    unsafe {
        for x in 0..width {
            let at = to.add(x * P);
            let mut sum = if add { simd::load::<P>(at) } else { simd::zero() };
            for (gradient, weights) in gradients.iter().zip(weights) {
                let (g, w) = (_mm512_set1_ps(*gradient.get_unchecked(x)), simd::wide(weights));
                sum = [_mm512_fmadd_ps(g, w[0], sum[0]), _mm512_fmadd_ps(g, w[1], sum[1])];
            }
            simd::store::<P>(sum, at);
        }
    }
}

/// The gradient rows of all classes at row `y` of plane `z` of a sample.
fn gradient_rows(dy: &Tensor, sample: usize, z: usize, y: usize) -> Vec<&[f32]> {
    let ([depth, height, width], classes) = (dy.grid.size, dy.grid.channels);
    let row = |c: usize| (((sample * classes + c) * depth + z) * height + y) * width;
    (0..classes).map(|c| &dy.logits[row(c)..][..width]).collect()
}

/// Gradient of a head's input, written or added. `weights` are `[class][channel]`.
pub(crate) fn input_backward<const P: usize>(
    weights: &[f32],
    dy: &Tensor,
    add: bool,
    da: &mut Tensor,
) {
    let planes = Planes::of(&[da], P);
    let g = da.grid;
    let blocks: Vec<_> = (0..g.blocks()).map(|b| class_weights(weights, g.channels, b)).collect();
    let out = Writable::of(da);
    planes.each(|i| {
        let to = { out }.0.rows::<P>(planes, i);
        let (block, z) = (planes.block(i), i % g.size[0]);
        for y in 0..g.size[1] {
            let gradients = gradient_rows(dy, block / g.blocks(), z, y);
            let weights = &blocks[block % g.blocks()];
            // SAFETY: tensors of a precision exist where the unit is available; each plane belongs to one task.
            unsafe {
                let to = to.base.add(y * to.pitch);
                backward_row::<P>(&gradients, weights, g.size[2], add, to);
            }
        }
    });
}

/// One row of up to four classes: Σ gradient · a, added to `sums`.
///
/// # Safety
/// As [`backward_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn weights_row<const P: usize>(
    gradients: &[&[f32]],
    width: usize,
    a: *const Chunk,
    sums: &mut [[f64; BLOCK]],
) {
    // SAFETY: by the contract.
    unsafe {
        for (gradients, sums) in gradients.chunks(4).zip(sums.chunks_mut(4)) {
            let mut sum = [simd::zero(); 4];
            for x in 0..width {
                let v = simd::load::<P>(a.add(x * P));
                for (gradient, sum) in gradients.iter().zip(&mut sum) {
                    let g = _mm512_set1_ps(*gradient.get_unchecked(x));
                    *sum = [_mm512_fmadd_ps(g, v[0], sum[0]), _mm512_fmadd_ps(g, v[1], sum[1])];
                }
            }
            for (total, sum) in sums.iter_mut().zip(sum) {
                simd::add_to(total, sum);
            }
        }
    }
}

/// Gradient of a head's weights `[class][channel]`, overwritten.
pub(crate) fn weights_backward<const P: usize>(a: &Tensor, dy: &Tensor, gradient: &mut [f32]) {
    let planes = Planes::of(&[a], P);
    let (g, classes) = (a.grid, dy.grid.channels);
    assert_eq!((g.batch, g.size), (dy.grid.batch, dy.grid.size), "logits");
    assert_eq!(gradient.len(), classes * g.channels, "weight gradient");
    let sums: Vec<Vec<[f64; BLOCK]>> = (0..planes.count())
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![[0.0; BLOCK]; classes];
            let from = rows::<P>(a, planes, i);
            for y in 0..g.size[1] {
                let sample = planes.block(i) / g.blocks();
                let gradients = gradient_rows(dy, sample, i % g.size[0], y);
                // SAFETY: as in `input_backward`; only `sums` is written.
                unsafe {
                    let a = from.base.add(y * from.pitch);
                    weights_row::<P>(&gradients, g.size[2], a, &mut sums);
                }
            }
            sums
        })
        .collect();
    gradient.fill(0.0);
    let mut totals = vec![0.0f64; gradient.len()];
    for (i, sums) in sums.iter().enumerate() {
        let first = planes.block(i) % g.blocks() * BLOCK;
        for (c, sums) in sums.iter().enumerate() {
            for (k, sum) in sums.iter().take(g.channels - first).enumerate() {
                totals[c * g.channels + first + k] += sum;
            }
        }
    }
    for (value, total) in gradient.iter_mut().zip(totals) {
        *value = total as f32;
    }
}

/// Gradient of a head's bias.
pub(crate) fn bias_backward(dy: &Tensor, gradient: &mut [f32]) {
    let (classes, voxels) = (dy.grid.channels, dy.grid.voxels());
    gradient.par_iter_mut().enumerate().for_each(|(c, value)| {
        let of_sample = |n: usize| {
            let from = &dy.logits[(n * classes + c) * voxels..][..voxels];
            let rows = from.chunks(4096).map(|row| f64::from(lane_sum(row)));
            rows.sum::<f64>()
        };
        *value = (0..dy.grid.batch).map(of_sample).sum::<f64>() as f32;
    });
}

/// Sixteen running sums, so that they vectorise.
fn lane_sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let mut parts = values.chunks_exact(16);
    for part in parts.by_ref() {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + parts.remainder().iter().sum::<f32>()
}

/// # Safety
/// The unit is available; rows of `size` (height, width) voxels are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn plane_sum<const P: usize>(
    base: *const Chunk,
    pitch: usize,
    size: [usize; 2],
) -> [f64; BLOCK] {
    let mut total = [0.0; BLOCK];
    // SAFETY: by the contract.
    unsafe {
        for y in 0..size[0] {
            let mut sum = simd::zero();
            for x in 0..size[1] {
                let v = simd::load::<P>(base.add(y * pitch + x * P));
                sum = [_mm512_add_ps(sum[0], v[0]), _mm512_add_ps(sum[1], v[1])];
            }
            simd::add_to(&mut total, sum);
        }
    }
    total
}

/// Bias gradient of a tensor's channels: the sum over its samples and voxels.
pub(crate) fn sum<const P: usize>(t: &Tensor, gradient: &mut [f32]) {
    let planes = Planes::of(&[t], P);
    let g = t.grid;
    let sums: Vec<[f64; BLOCK]> = (0..planes.count())
        .into_par_iter()
        .map(|i| {
            let from = rows::<P>(t, planes, i);
            // SAFETY: as in `input_backward`; nothing is written.
            unsafe { plane_sum::<P>(from.base, from.pitch, [g.size[1], g.size[2]]) }
        })
        .collect();
    let mut totals = vec![0.0f64; g.blocks() * BLOCK];
    for (i, sum) in sums.iter().enumerate() {
        let first = planes.block(i) % g.blocks() * BLOCK;
        for (total, value) in totals[first..].iter_mut().zip(sum) {
            *total += value;
        }
    }
    for (value, total) in gradient.iter_mut().zip(totals) {
        *value = total as f32;
    }
}
