//! Activations: `[sample][block][z][y][x][32 channels]`, in one or two chunks of 64 bytes a voxel, as the
//! [format](super::format::Format) has them.
//!
//! Around the voxels lies a halo of zeros that neighbours share: behind each row lie `halo[2]` voxels, which are also
//! in front of the next row, behind each plane `halo[1]` rows, in front of each block as many planes, rows and voxels
//! as a convolution reaches back. Voxels of a block thus have one running position, taps are constant offsets, and a
//! tile of consecutive positions crosses row ends at the price of the few halo voxels in between.

use super::first::Image;
use crate::layout::Layout;

/// Channels per block.
pub(crate) const BLOCK: usize = 32;

/// Voxels behind the end that tiles may read.
const SLACK: usize = 160;

/// Sixty-four bytes: 32 bfloat16, or 16 f32.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub [u16; BLOCK]);

impl Chunk {
    pub(crate) const ZERO: Self = Self([0; BLOCK]);

    /// Number `i` of its 16 words.
    pub(crate) fn put_word(&mut self, i: usize, bits: u32) {
        let bytes = bits.to_ne_bytes();
        self.0[2 * i] = u16::from_ne_bytes([bytes[0], bytes[1]]);
        self.0[2 * i + 1] = u16::from_ne_bytes([bytes[2], bytes[3]]);
    }
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
    pub image: Option<Image>,
    /// What only heads write: f32 `[sample][class][z][y][x]`.
    pub logits: Vec<f32>,
}

impl Tensor {
    /// Of so many chunks a voxel.
    pub(crate) fn zeros(grid: Grid, chunks: usize) -> Self {
        Self { grid, data: vec![Chunk::ZERO; grid.len() * chunks], ..Self::default() }
    }
}
