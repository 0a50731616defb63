//! The first convolution, whose few input channels would leave pairs and tiles idle: every voxel's patch of the image
//! (kernel × channels) is laid out as one long list of channels, tile by tile, so that the layer becomes a product with
//! a single tap.

use super::Shared;
use super::format::Format;
use super::grid::{BLOCK, Chunk, Tensor};
use super::linear::{Finishing, Place, Sums, Tiling, groups};
use super::packing::Packed;
use super::unit::{Extent, Input, MOST_ROWS, Nothing, SUMS, Steps, Unit};
use crate::geometry::Geometry;
use crate::layout::Layout;
use ndarray::ArrayView5;
use rayon::prelude::*;
use std::ops::Range;

/// `[sample][channel][z][y][x]` of bits as [`Format::bits`] has them, with a halo of zeros on all sides.
#[derive(Debug, Default)]
pub(crate) struct Image {
    layout: Layout,
    data: Vec<u32>,
}

impl Image {
    pub(crate) fn zeros(layout: Layout) -> Self {
        Self { layout, data: vec![0; Self::len(&layout)] }
    }

    fn channel_pitch(l: &Layout) -> usize {
        l.block_pitch()
    }

    /// Numbers in an image.
    pub(crate) fn len(l: &Layout) -> usize {
        l.batch * l.channels * Self::channel_pitch(l)
    }

    /// Numbers of a patch: weights of one output channel, `[channel][tap]`.
    pub(crate) fn patch(&self, geometry: &Geometry) -> usize {
        self.layout.channels * geometry.taps()
    }

    /// Reads `[n, c, z, y, x]`.
    pub(crate) fn import<F: Format>(&mut self, x: ArrayView5<'_, f32>) {
        let l = self.layout;
        assert_eq!(x.dim(), (l.batch, l.channels, l.size[0], l.size[1], l.size[2]), "image");
        let depth = l.size[0] + 2 * l.halo[0];
        self.data.par_chunks_mut(l.plane_pitch()).enumerate().for_each(|(i, out)| {
            let (channel, z) = (i / depth, i % depth);
            if z < l.halo[0] || z >= l.halo[0] + l.size[0] {
                return;
            }
            let (n, c) = (channel / l.channels, channel % l.channels);
            let from = x.slice(ndarray::s![n, c, z - l.halo[0], .., ..]);
            for (y, row) in from.outer_iter().enumerate() {
                let start = l.plane_origin() + y * l.row_pitch();
                for (to, &value) in out[start..start + l.size[2]].iter_mut().zip(row) {
                    *to = F::bits(value);
                }
            }
        });
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
        blocks: Range<usize>,
        mut set: impl FnMut(usize, usize, usize, u32),
    ) {
        let l = &self.layout;
        let pitch = [l.plane_pitch(), l.row_pitch(), 1];
        let (taps, step) = (geometry.taps(), geometry.stride[2]);
        let of_voxel: usize = (0..3)
            .map(|a| (voxel[a] * geometry.stride[a] + l.halo[a] - geometry.pad[a]) * pitch[a])
            .sum();
        let last = (blocks.end * BLOCK).min(l.channels * taps);
        for number in blocks.start * BLOCK..last {
            let (channel, k) = (number / taps, geometry.position(number % taps));
            let start = (sample * l.channels + channel) * Self::channel_pitch(l)
                + of_voxel
                + (0..3).map(|a| k[a] * pitch[a]).sum::<usize>();
            let row = &self.data[start..start + (count - 1) * step + 1];
            for (x, value) in row.iter().step_by(step).enumerate() {
                set(x, number / BLOCK, number % BLOCK, *value);
            }
        }
    }
}

/// The convolution of the image, with the sums of its outputs `[block][sample][unit]`.
pub(crate) fn convolve<U: Unit, F: Format>(
    geometry: &Geometry,
    image: &Image,
    weights: &Packed,
    out: &mut Tensor,
    sums: &mut [Sums],
) {
    let g = out.grid;
    let patch = image.patch(geometry);
    let patch_blocks = patch.div_ceil(BLOCK);
    assert_eq!(geometry.small(image.layout.size), g.size, "small size");
    assert_eq!(image.layout.batch, g.batch, "batch");
    assert_eq!(weights.inputs.len(), patch_blocks, "input blocks of the packed weights");
    assert_eq!(weights.outputs.len(), g.blocks(), "output blocks of the packed weights");
    assert_eq!(out.data.len(), g.len() * F::CHUNKS, "tensor of another precision");
    let [_, height, width] = g.size;
    let tiling = Tiling::new(g.size, [height * width, width, 1], g.pitches(), U::rows::<F>());
    let units = tiling.units.len();
    assert_eq!(sums.len(), g.blocks() * g.batch * units, "sums");
    let target = Shared(out.data.as_mut_ptr());
    sums.par_iter_mut().enumerate().for_each(|(task, sums)| {
        let (block, rest) = (task / (g.batch * units), task % (g.batch * units));
        let (sample, unit) = (rest / units, rest % units);
        let halves = if weights.outputs[block].1 > 16 { 2 } else { 1 };
        let mut patches = vec![Chunk::ZERO; patch_blocks * MOST_ROWS * F::CHUNKS];
        let mut place = Place([0.0; SUMS]);
        let out = target.get().wrapping_add(g.origin(sample, block) * F::CHUNKS);
        let mut finishing = Finishing::new(None, false, halves, 1, out);
        // SAFETY: an engine has only units that the CPU has.
        let _open = unsafe { U::open() };
        for t in &tiling.tiles[tiling.units[unit].clone()] {
            let runs = &tiling.runs[t.runs.clone()];
            for run in runs {
                let (row, x) = (run.voxel / width, run.voxel % width);
                let voxel = [row / height, row % height, x];
                let set = |x: usize, block: usize, number: usize, bits: u32| {
                    let at = (block * MOST_ROWS + run.row + x) * F::CHUNKS;
                    F::put(&mut patches[at..at + F::CHUNKS], number, bits);
                };
                image.patches(geometry, sample, voxel, run.count, 0..patch_blocks, set);
            }
            // SAFETY: the unit is open; patches and weights have as many blocks, and any unit's rows find a place among
            // them; the task writes the voxels of its own block, sample and unit, which `Tiling` keeps inside the tensor.
            unsafe {
                let input = |b: usize| Input {
                    voxel: patches.as_ptr().add(b * MOST_ROWS * F::CHUNKS),
                    groups: groups::<F>(patch - b * BLOCK),
                };
                let inputs: Vec<Input> = (0..patch_blocks).map(input).collect();
                let weights = weights.of_block(block).as_ptr();
                let steps = Steps { inputs: &inputs, taps: &[0], weights };
                let extent = Extent { rows: t.rows, halves, step: 1 };
                U::reduce::<F, _>(&steps, extent, place.0.as_mut_ptr(), &mut Nothing);
                finishing.begin(place.0.as_ptr(), runs);
                finishing.end::<U::Vector, F>();
            }
        }
        *sums = finishing.total();
    });
}
