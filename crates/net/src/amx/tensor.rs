//! Activations as the matrix kernels want them: `[sample][block][z][y][x][part][32 channels]` of bfloat16.
//!
//! Around the voxels lies a halo of zeros that neighbours share: behind each row lie `halo[2]` voxels, which are also
//! in front of the next row, behind each plane `halo[1]` rows, in front of each block as many planes, rows and voxels
//! as a convolution reaches back. Voxels of a block thus have one running position, taps are constant offsets, and a
//! tile of consecutive positions crosses row ends at the price of the few halo voxels in between.

use super::Parts;
use crate::tensor::Layout;

/// Channels per block.
pub(crate) const BLOCK: usize = 32;

/// Voxels behind the end that tiles may read.
const SLACK: usize = 160;

/// One part of 32 channels of one voxel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub [u16; BLOCK]);

impl Chunk {
    pub(crate) const ZERO: Self = Self([0; BLOCK]);
}

/// Thirty-two f32, one per channel of a block.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Wide(pub [f32; BLOCK]);

impl Wide {
    pub(crate) const ZERO: Self = Self([0.0; BLOCK]);
}

/// Sizes and pitches; positions count voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grid {
    pub batch: usize,
    pub channels: usize,
    /// z, y, x without halo.
    pub size: [usize; 3],
    pub halo: [usize; 3],
}

impl Grid {
    pub(crate) fn of(l: Layout) -> Self {
        Self { batch: l.batch, channels: l.channels, size: l.size, halo: l.halo }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(BLOCK)
    }

    pub(crate) fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// Positions per step of z, y, x.
    pub(crate) fn pitches(&self) -> [usize; 3] {
        let row = self.size[2] + self.halo[2];
        [row * (self.size[1] + self.halo[1]), row, 1]
    }

    /// From the start of a block to its voxel (0, 0, 0).
    pub(crate) fn lead(&self) -> usize {
        let pitch = self.pitches();
        (0..3).map(|a| self.halo[a] * pitch[a]).sum()
    }

    pub(crate) fn block_pitch(&self) -> usize {
        self.lead() + self.size[0] * self.pitches()[0]
    }

    pub(crate) fn sample_pitch(&self) -> usize {
        self.block_pitch() * self.blocks()
    }

    /// Positions of a whole tensor.
    pub(crate) fn len(&self) -> usize {
        self.batch * self.sample_pitch() + self.lead() + SLACK
    }

    /// Position of voxel (0, 0, 0).
    pub(crate) fn origin(&self, sample: usize, block: usize) -> usize {
        sample * self.sample_pitch() + block * self.block_pitch() + self.lead()
    }

    /// Whether voxels of the two have the same places in their blocks.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        (self.batch, self.size, self.halo) == (other.batch, other.size, other.halo)
    }
}

/// One activation or its gradient.
#[derive(Debug, Default)]
pub(crate) struct Tensor {
    pub grid: Grid,
    /// Empty for images and logits.
    pub data: Vec<Chunk>,
    /// What only the first convolution reads.
    pub image: Option<super::first::Image>,
    /// What only heads write: f32 `[sample][class][z][y][x]`.
    pub logits: Vec<f32>,
}

impl Tensor {
    /// Chunks that a tensor takes.
    pub(crate) fn chunks(grid: &Grid, parts: Parts) -> usize {
        grid.len() * parts.count()
    }

    pub(crate) fn zeros(grid: Grid, parts: Parts) -> Self {
        Self { grid, data: vec![Chunk::ZERO; Self::chunks(&grid, parts)], ..Self::default() }
    }
}
