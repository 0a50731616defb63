//! Activations as the CPU kernels want them: `[sample][block][z][y][x][16 channels]`, with a halo of zeros.
//!
//! Channels are grouped by 16 (one AVX-512 vector, one cache line); the last group is filled up with zeros, so 30
//! features occupy 32. Around each sample lies a halo of `halo` voxels per axis that is zero from allocation on and
//! that no operation writes: a convolution reads past the edge without asking where the edge is.

use ndarray::{ArrayView5, ArrayViewMut5};
use rayon::prelude::*;

/// Channels per block.
pub(crate) const LANES: usize = 16;

/// Sixteen channels of one voxel.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Lane(pub [f32; LANES]);

impl Lane {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
}

/// Sizes and pitches of a [`Tensor`]; every offset counts [`Lane`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    pub batch: usize,
    pub channels: usize,
    /// z, y, x without halo.
    pub size: [usize; 3],
    /// z, y, x on either side.
    pub halo: [usize; 3],
}

impl Layout {
    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Channels in use in one block.
    pub(crate) fn block_channels(&self, block: usize) -> usize {
        (self.channels - block * LANES).min(LANES)
    }

    pub(crate) fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    pub(crate) fn row_pitch(&self) -> usize {
        self.size[2] + 2 * self.halo[2]
    }

    pub(crate) fn plane_pitch(&self) -> usize {
        self.row_pitch() * (self.size[1] + 2 * self.halo[1])
    }

    pub(crate) fn block_pitch(&self) -> usize {
        self.plane_pitch() * (self.size[0] + 2 * self.halo[0])
    }

    pub(crate) fn sample_pitch(&self) -> usize {
        self.block_pitch() * self.blocks()
    }

    pub(crate) fn len(&self) -> usize {
        self.sample_pitch() * self.batch
    }

    /// From the start of a block to its voxel (0, 0, 0).
    pub(crate) fn origin(&self) -> usize {
        self.halo[0] * self.plane_pitch() + self.plane_origin()
    }

    /// From the start of a plane to its voxel (0, 0).
    pub(crate) fn plane_origin(&self) -> usize {
        self.halo[1] * self.row_pitch() + self.halo[2]
    }

    pub(crate) fn with_channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    pub(crate) fn without_halo(mut self) -> Self {
        self.halo = [0; 3];
        self
    }

    /// Planes of all samples and blocks, halo planes left out.
    pub(crate) fn planes(&self) -> usize {
        self.batch * self.blocks() * self.size[0]
    }

    /// Maps the index of a stored plane (halo planes included) to the index among [`Layout::planes`].
    pub(crate) fn inner_plane(&self, stored: usize) -> Option<usize> {
        let depth = self.size[0] + 2 * self.halo[0];
        let (block, z) = (stored / depth, stored % depth);
        (z >= self.halo[0] && z < self.halo[0] + self.size[0])
            .then(|| block * self.size[0] + z - self.halo[0])
    }

    /// Where plane `inner` of [`Layout::planes`] starts.
    pub(crate) fn plane_start(&self, inner: usize) -> usize {
        let (block, z) = (inner / self.size[0], inner % self.size[0]);
        block * self.block_pitch() + (z + self.halo[0]) * self.plane_pitch()
    }
}

/// One activation or its gradient.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tensor {
    pub layout: Layout,
    pub data: Vec<Lane>,
}

impl Tensor {
    pub(crate) fn zeros(layout: Layout) -> Self {
        Self { layout, data: vec![Lane::ZERO; layout.len()] }
    }

    /// The stored rows of plane `inner` (see [`Layout::planes`]), halo included.
    pub(crate) fn plane(&self, inner: usize) -> &[Lane] {
        let start = self.layout.plane_start(inner);
        &self.data[start..start + self.layout.plane_pitch()]
    }

    /// Every plane without the halo planes, in parallel, with its index.
    pub(crate) fn par_planes_mut(&mut self) -> impl ParallelIterator<Item = (usize, &mut [Lane])> {
        let layout = self.layout;
        self.data
            .par_chunks_mut(layout.plane_pitch())
            .enumerate()
            .filter_map(move |(i, plane)| layout.inner_plane(i).map(|inner| (inner, plane)))
    }

    /// Reads `[n, c, z, y, x]`.
    pub(crate) fn import(&mut self, x: ArrayView5<'_, f32>) {
        let l = self.layout;
        debug_assert_eq!(x.dim(), (l.batch, l.channels, l.size[0], l.size[1], l.size[2]));
        self.par_planes_mut().for_each(|(inner, plane)| {
            let (block, z) = (inner / l.size[0], inner % l.size[0]);
            let (n, block) = (block / l.blocks(), block % l.blocks());
            for c in 0..l.block_channels(block) {
                let channel = x.slice(ndarray::s![n, block * LANES + c, z, .., ..]);
                for (y, row) in channel.outer_iter().enumerate() {
                    let start = l.plane_origin() + y * l.row_pitch();
                    for (lane, value) in plane[start..start + l.size[2]].iter_mut().zip(row) {
                        lane.0[c] = *value;
                    }
                }
            }
        });
    }

    /// Writes `[n, c, z, y, x]`.
    pub(crate) fn export(&self, mut out: ArrayViewMut5<'_, f32>) {
        let l = self.layout;
        for n in 0..l.batch {
            for c in 0..l.channels {
                for z in 0..l.size[0] {
                    let plane = self.plane((n * l.blocks() + c / LANES) * l.size[0] + z);
                    let mut target = out.slice_mut(ndarray::s![n, c, z, .., ..]);
                    for (y, mut row) in target.outer_iter_mut().enumerate() {
                        let start = l.plane_origin() + y * l.row_pitch();
                        for (value, lane) in row.iter_mut().zip(&plane[start..start + l.size[2]]) {
                            *value = lane.0[c % LANES];
                        }
                    }
                }
            }
        }
    }

    /// Copies to `[sample][channel][z][y][x]`; without halo.
    pub(crate) fn to_planes(&self, planes: &mut [f32]) {
        let l = self.layout;
        assert_eq!(l.halo, [0; 3], "planes of a tensor without halo");
        planes.par_chunks_mut(l.voxels()).enumerate().for_each(|(i, plane)| {
            let (n, c) = (i / l.channels, i % l.channels);
            let start = n * l.sample_pitch() + c / LANES * l.block_pitch();
            for (value, lane) in plane.iter_mut().zip(&self.data[start..]) {
                *value = lane.0[c % LANES];
            }
        });
    }

    /// The reverse.
    pub(crate) fn of_planes(&mut self, planes: &[f32]) {
        let l = self.layout;
        assert_eq!(l.halo, [0; 3], "planes of a tensor without halo");
        self.data.par_chunks_mut(l.block_pitch()).enumerate().for_each(|(i, lanes)| {
            let (n, block) = (i / l.blocks(), i % l.blocks());
            for c in 0..l.block_channels(block) {
                let plane = &planes[(n * l.channels + block * LANES + c) * l.voxels()..];
                for (lane, value) in lanes.iter_mut().zip(plane) {
                    lane.0[c] = *value;
                }
            }
        });
    }
}
