//! Segmentation heads: 1×1×1 convolutions from activations to logits, which are f32 `[sample][class][z][y][x]` as the
//! loss reads them. With a few classes there is little to multiply; only the forward pass asks the unit for products.

use super::Shared;
use super::format::Format;
use super::grid::{BLOCK, Chunk, Tensor, Wide};
use super::linear::{Place, Tiling, groups};
use super::norm::{Planes, Writable, add_to, rows, wide};
use super::packing::Packed;
use super::unit::{Extent, Input, MOST_ROWS, Nothing, SUMS, Steps, Unit, sum_place};
use super::vector::{Vector, compiled};
use rayon::prelude::*;

/// logits = weights · a + bias.
pub(crate) fn forward<U: Unit, F: Format>(
    a: &Tensor,
    weights: &Packed,
    bias: &[f32],
    logits: &mut Tensor,
) {
    let (g, classes) = (a.grid, logits.grid.channels);
    assert_eq!((g.batch, g.size), (logits.grid.batch, logits.grid.size), "logits");
    assert_eq!((weights.inputs.len(), weights.taps), (g.blocks(), 1), "packed weights");
    assert_eq!(a.data.len(), g.len() * F::CHUNKS, "tensor of another precision");
    assert_eq!(bias.len(), classes, "bias");
    let tiling = Tiling::new(g.size, g.pitches(), g.pitches(), U::rows::<F>());
    // Behind the last voxel of a tensor there is more than a tile.
    let reach = tiling.reach(1, U::ROUND);
    assert!(g.lead() + reach < g.block_pitch() + g.lead() + MOST_ROWS, "tiles");
    let (units, voxels) = (tiling.units.len(), g.voxels());
    let out = Shared(logits.logits.as_mut_ptr());
    let tasks = weights.outputs.len() * g.batch * units;
    (0..tasks).into_par_iter().for_each(|task| {
        let (block, rest) = (task / (g.batch * units), task % (g.batch * units));
        let (sample, unit) = (rest / units, rest % units);
        let (first, count) = weights.outputs[block];
        let halves = if count > 16 { 2 } else { 1 };
        let packed = weights.of_block(block).as_ptr();
        let mut place = Place([0.0; SUMS]);
        // SAFETY: an engine has only units that the CPU has.
        let _open = unsafe { U::open() };
        for t in &tiling.tiles[tiling.units[unit].clone()] {
            let input = |b: usize| Input {
                voxel: &raw const a.data[(g.origin(sample, b) + t.input) * F::CHUNKS],
                groups: groups::<F>(g.channels - b * BLOCK),
            };
            let inputs: Vec<Input> = (0..g.blocks()).map(input).collect();
            let extent = Extent { rows: t.rows, halves, step: 1 };
            // SAFETY: the unit is open; tiles end inside the tensor, and there are weights for each of its blocks.
            unsafe {
                let steps = Steps { inputs: &inputs, taps: &[0], weights: packed };
                U::reduce::<F, _>(&steps, extent, place.0.as_mut_ptr(), &mut Nothing);
            }
            for run in &tiling.runs[t.runs.clone()] {
                for c in 0..count {
                    let start = (sample * classes + first + c) * voxels + run.voxel;
                    for i in 0..run.count {
                        let at = sum_place(run.row + i, c / 16) + c % 16;
                        let value = place.0[at] + bias[first + c];
                        // SAFETY: the voxel lies inside the logits, and belongs to this task.
                        unsafe { *out.get().add(start + i) = value };
                    }
                }
            }
        }
    });
}

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

compiled! {
    /// One row: da = Σ over classes of gradient · weights, or added. `width` numbers are there behind every gradient, and as
    /// many voxels.
    unsafe fn backward_row<V, F: Format>(
        gradients: &[&[f32]],
        weights: &[Wide],
        width: usize,
        add: bool,
        to: *mut Chunk,
    ) {
        // SAFETY: by the contract.
        unsafe {
            for x in 0..width {
                let at = to.add(x * F::CHUNKS);
                let mut sum = if add { F::load::<V>(at) } else { [V::zero(); 2] };
                for (gradient, weights) in gradients.iter().zip(weights) {
                    let (g, w) = (V::splat(gradient.get_unchecked(x)), wide::<V>(weights));
                    sum = [sum[0].mul_add(g, w[0]), sum[1].mul_add(g, w[1])];
                }
                F::store(sum, at);
            }
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
pub(crate) fn input_backward<V: Vector, F: Format>(
    weights: &[f32],
    dy: &Tensor,
    add: bool,
    da: &mut Tensor,
) {
    let planes = Planes::of::<F>(&[da]);
    let g = da.grid;
    let blocks: Vec<_> = (0..g.blocks()).map(|b| class_weights(weights, g.channels, b)).collect();
    let out = Writable::of(da);
    planes.each(|i| {
        let to = out.rows::<F>(planes, i);
        let (block, z) = (planes.block(i), i % g.size[0]);
        for y in 0..g.size[1] {
            let gradients = gradient_rows(dy, block / g.blocks(), z, y);
            let weights = &blocks[block % g.blocks()];
            // SAFETY: an engine has only units that the CPU has; each plane belongs to one task.
            unsafe {
                let to = to.base.add(y * to.pitch);
                backward_row::<V, F>(&gradients, weights, g.size[2], add, to);
            }
        }
    });
}

compiled! {
    /// One row of classes, four at a time: Σ gradient · a, added to `sums`. As [`backward_row`].
    unsafe fn weights_row<V, F: Format>(
        gradients: &[&[f32]],
        width: usize,
        a: *const Chunk,
        sums: &mut [[f64; BLOCK]],
    ) {
        // SAFETY: by the contract.
        unsafe {
            for (gradients, sums) in gradients.chunks(4).zip(sums.chunks_mut(4)) {
                let mut sum = [[V::zero(); 2]; 4];
                for x in 0..width {
                    let v = F::load::<V>(a.add(x * F::CHUNKS));
                    for (gradient, sum) in gradients.iter().zip(&mut sum) {
                        let g = V::splat(gradient.get_unchecked(x));
                        *sum = [sum[0].mul_add(g, v[0]), sum[1].mul_add(g, v[1])];
                    }
                }
                for (total, sum) in sums.iter_mut().zip(sum) {
                    add_to(total, sum);
                }
            }
        }
    }
}

/// Gradient of a head's weights `[class][channel]`, overwritten.
pub(crate) fn weights_backward<V: Vector, F: Format>(
    a: &Tensor,
    dy: &Tensor,
    gradient: &mut [f32],
) {
    let planes = Planes::of::<F>(&[a]);
    let (g, classes) = (a.grid, dy.grid.channels);
    assert_eq!((g.batch, g.size), (dy.grid.batch, dy.grid.size), "logits");
    assert_eq!(gradient.len(), classes * g.channels, "weight gradient");
    let sums: Vec<Vec<[f64; BLOCK]>> = (0..planes.count())
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![[0.0; BLOCK]; classes];
            let from = rows::<F>(a, planes, i);
            for y in 0..g.size[1] {
                let sample = planes.block(i) / g.blocks();
                let gradients = gradient_rows(dy, sample, i % g.size[0], y);
                // SAFETY: as in `input_backward`; only `sums` is written.
                unsafe {
                    let a = from.base.add(y * from.pitch);
                    weights_row::<V, F>(&gradients, g.size[2], a, &mut sums);
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

compiled! {
    /// Rows of `size` (height, width) voxels are there.
    unsafe fn plane_sum<V, F: Format>(base: *const Chunk, pitch: usize, size: [usize; 2]) -> [f64; BLOCK] {
        let mut total = [0.0; BLOCK];
        // SAFETY: by the contract.
        unsafe {
            for y in 0..size[0] {
                let mut sum = [V::zero(); 2];
                for x in 0..size[1] {
                    let v = F::load::<V>(base.add(y * pitch + x * F::CHUNKS));
                    sum = [sum[0].add(v[0]), sum[1].add(v[1])];
                }
                add_to(&mut total, sum);
            }
        }
        total
    }
}

/// Bias gradient of a tensor's channels: the sum over its samples and voxels.
pub(crate) fn sum<V: Vector, F: Format>(t: &Tensor, gradient: &mut [f32]) {
    let planes = Planes::of::<F>(&[t]);
    let g = t.grid;
    let sums: Vec<[f64; BLOCK]> = (0..planes.count())
        .into_par_iter()
        .map(|i| {
            let from = rows::<F>(t, planes, i);
            // SAFETY: as in `input_backward`; nothing is written.
            unsafe { plane_sum::<V, F>(from.base, from.pitch, [g.size[1], g.size[2]]) }
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
