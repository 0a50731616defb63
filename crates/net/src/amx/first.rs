//! The first convolution, whose few input channels would leave the matrix unit idle: every voxel's patch of the image
//! (kernel × channels) is laid out as one long list of channels, tile by tile, so that the layer becomes a product with
//! a single tap.

use super::linear::{Finishing, Place, Sums, Tiling};
use super::packing::Packed;
use super::tensor::{BLOCK, Chunk, Tensor, Wide};
use super::tile::{self, Nothing, SUMS, Steps, Tiles, most_rows};
use crate::cpu::Shared;
use crate::ops::linear::Geometry;
use crate::tensor::Layout;
use half::bf16;
use ndarray::ArrayView5;
use rayon::prelude::*;
use std::ops::Range;

/// `[part][sample][channel][z][y][x]` of bfloat16 with a halo of zeros on all sides.
#[derive(Debug, Default)]
pub(crate) struct Image {
    layout: Layout,
    parts: usize,
    data: Vec<u16>,
}

impl Image {
    pub(crate) fn zeros(layout: Layout, parts: usize) -> Self {
        Self { layout, parts, data: vec![0; Self::len(&layout, parts)] }
    }

    fn channel_pitch(l: &Layout) -> usize {
        l.block_pitch()
    }

    /// Numbers in an image.
    pub(crate) fn len(l: &Layout, parts: usize) -> usize {
        parts * l.batch * l.channels * Self::channel_pitch(l)
    }

    /// Numbers of a patch: weights of one output channel, `[channel][tap]`.
    pub(crate) fn patch(&self, geometry: &Geometry) -> usize {
        self.layout.channels * geometry.taps()
    }

    /// Reads `[n, c, z, y, x]`.
    pub(crate) fn import(&mut self, x: ArrayView5<'_, f32>) {
        let l = self.layout;
        assert_eq!(x.dim(), (l.batch, l.channels, l.size[0], l.size[1], l.size[2]), "image");
        let all = self.data.len() / self.parts;
        let plane = l.plane_pitch();
        let depth = l.size[0] + 2 * l.halo[0];
        for part in 0..self.parts {
            let planes = self.data[part * all..][..all].par_chunks_mut(plane).enumerate();
            planes.for_each(|(i, out)| {
                let (channel, z) = (i / depth, i % depth);
                if z < l.halo[0] || z >= l.halo[0] + l.size[0] {
                    return;
                }
                let (n, c) = (channel / l.channels, channel % l.channels);
                let from = x.slice(ndarray::s![n, c, z - l.halo[0], .., ..]);
                for (y, row) in from.outer_iter().enumerate() {
                    let start = l.plane_origin() + y * l.row_pitch();
                    for (to, &value) in out[start..start + l.size[2]].iter_mut().zip(row) {
                        let rounded = bf16::from_f32(value);
                        *to = match part {
                            0 => rounded.to_bits(),
                            _ => bf16::from_f32(value - rounded.to_f32()).to_bits(),
                        };
                    }
                }
            });
        }
    }

    /// Numbers of some blocks of 32 of the patches of `count` voxels along x from `voxel` (output z, y, x) on, as
    /// `set(voxel, block, number in the block, value)`.
    #[inline(always)]
    pub(super) fn patches(
        &self,
        geometry: &Geometry,
        sample: usize,
        voxel: [usize; 3],
        count: usize,
        part: usize,
        blocks: Range<usize>,
        mut set: impl FnMut(usize, usize, usize, u16),
    ) {
        let l = &self.layout;
        let pitch = [l.plane_pitch(), l.row_pitch(), 1];
        let (taps, step) = (geometry.taps(), geometry.stride[2]);
        let all = self.data.len() / self.parts;
        let of_voxel: usize = (0..3)
            .map(|a| (voxel[a] * geometry.stride[a] + l.halo[a] - geometry.pad[a]) * pitch[a])
            .sum();
        let last = (blocks.end * BLOCK).min(l.channels * taps);
        for number in blocks.start * BLOCK..last {
            let (channel, k) = (number / taps, geometry.position(number % taps));
            let start = part * all
                + (sample * l.channels + channel) * Self::channel_pitch(l)
                + of_voxel
                + (0..3).map(|a| k[a] * pitch[a]).sum::<usize>();
            let row = &self.data[start..start + (count - 1) * step + 1];
            for (x, value) in row.iter().step_by(step).enumerate() {
                set(x, number / BLOCK, number % BLOCK, *value);
            }
        }
    }
}

/// Voxels of the largest tile.
const ROWS: usize = 48;

/// The convolution of the image, with the sums of its outputs `[block][sample][unit]`.
pub(crate) fn convolve<const P: usize>(
    geometry: &Geometry,
    image: &Image,
    weights: &Packed,
    out: &mut Tensor,
    sums: &mut [Sums],
) {
    let g = out.grid;
    let patch_blocks = image.patch(geometry).div_ceil(BLOCK);
    assert_eq!(geometry.small(image.layout.size), g.size, "small size");
    assert_eq!((image.layout.batch, image.parts), (g.batch, P), "batch and precision");
    assert_eq!(weights.inputs.len(), patch_blocks, "input blocks of the packed weights");
    assert_eq!(weights.outputs.len(), g.blocks(), "output blocks of the packed weights");
    assert_eq!(out.data.len(), g.len() * P, "tensor of another precision");
    let [_, height, width] = g.size;
    let tiling = Tiling::new(g.size, [height * width, width, 1], g.pitches(), most_rows(P));
    let units = tiling.units.len();
    assert_eq!(sums.len(), g.blocks() * g.batch * units, "sums");
    let taps: Vec<isize> =
        (0..patch_blocks).map(|b| (b * ROWS * P * size_of::<Chunk>()) as isize).collect();
    let target = Shared(out.data.as_mut_ptr());
    sums.par_iter_mut().enumerate().for_each(|(task, sums)| {
        let (block, rest) = (task / (g.batch * units), task % (g.batch * units));
        let (sample, unit) = (rest / units, rest % units);
        let n = if weights.outputs[block].1 > 16 { 2 } else { 1 };
        let weights = &weights.chunks[block * patch_blocks * weights.pair_chunks()..];
        let mut patches = vec![Chunk::ZERO; patch_blocks * ROWS * P];
        let mut place = Place([0.0; SUMS]);
        let mut finishing = Finishing::<P> {
            bias: None,
            accumulate: false,
            n,
            step: 1,
            out: { target }.0.wrapping_add(g.origin(sample, block) * P),
            total: [[0.0; BLOCK]; 2],
            place: place.0.as_ptr(),
            runs: &[],
            row: 0,
            left: 0,
            sums: [Wide::ZERO; 2],
        };
        let _tiles = Tiles::open();
        for t in &tiling.tiles[tiling.units[unit].clone()] {
            let runs = &tiling.runs[t.runs.clone()];
            for run in runs {
                let (row, x) = (run.voxel / width, run.voxel % width);
                let voxel = [row / height, row % height, x];
                for part in 0..P {
                    let blocks = 0..patch_blocks;
                    image.patches(
                        geometry,
                        sample,
                        voxel,
                        run.count,
                        part,
                        blocks,
                        |x, b, k, v| {
                            patches[(b * ROWS + run.row + x) * P + part].0[k] = v;
                        },
                    );
                }
            }
            // SAFETY: tiles are open; patches and weights have as many blocks as taps; the task writes the voxels of its
            // own block, sample and unit, which `Tiling` keeps inside the tensor.
            unsafe {
                tile::zero();
                let sources = &[patches.as_ptr()];
                let steps = Steps { sources, taps: &taps, weights: weights.as_ptr() };
                tile::multiply(P, t.m, n, 1)(&steps, &mut Nothing);
                tile::store(t.m, n, place.0.as_mut_ptr());
                finishing.begin(place.0.as_ptr(), runs);
                finishing.end();
            }
        }
        *sums = finishing.total;
    });
}
