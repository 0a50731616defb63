//! What a network plans of an activation, before any engine says how it lies in memory.

/// Sizes of an activation as a network plans it, and pitches of an image of these sizes; offsets count voxels.
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
}
