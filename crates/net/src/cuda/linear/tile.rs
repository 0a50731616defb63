//! Tiles of voxels in shared memory: boxes whose edges are powers of two, with the halo that their taps reach.

use super::reciprocal;

/// Bytes of a group of 8 channels of a voxel, as bfloat16.
pub(super) const GROUP_BYTES: usize = 16;

/// Edges of a tile, z, y, x, as powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edges(pub [u32; 3]);

impl Edges {
    /// All tiles of 2^`log` voxels whose rows fit a copy (x up to 32).
    pub(super) fn all(log: u32) -> impl Iterator<Item = Self> {
        (0..=log.min(5)).flat_map(move |x| (0..=log - x).map(move |y| Self([log - x - y, y, x])))
    }

    pub(super) fn voxels(self) -> usize {
        1 << self.0.iter().sum::<u32>()
    }

    /// Tiles that cover `extent`.
    pub(super) fn count(self, extent: [usize; 3]) -> [usize; 3] {
        [0, 1, 2].map(|a| extent[a].div_ceil(1 << self.0[a]))
    }
}

/// What a tile holds of the other side: the box of all voxels that its taps reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halo {
    /// The first tap offset per axis.
    pub origin: [isize; 3],
    /// Voxels per axis; 0 without taps.
    pub size: [usize; 3],
    stride: usize,
}

impl Halo {
    pub(super) fn new(edges: Edges, stride: [usize; 3], taps: &[[isize; 3]]) -> Self {
        let ends = |a: usize| {
            let at = || taps.iter().map(move |t| t[a]);
            at().min().zip(at().max())
        };
        let origin = [0, 1, 2].map(|a| ends(a).map_or(0, |(first, _)| first));
        let size = [0, 1, 2].map(|a| {
            ends(a).map_or(0, |(first, last)| {
                ((1usize << edges.0[a]) - 1) * stride[a] + (last - first) as usize + 1
            })
        });
        Self { origin, size, stride: stride[2] }
    }

    /// Voxels of a row whose x has the same remainder by the stride. They lie together, so that the voxels that a
    /// tap needs are neighbours.
    pub(super) fn part(&self) -> usize {
        self.size[2].div_ceil(self.stride)
    }

    /// Voxels in memory.
    pub(super) fn voxels(&self) -> usize {
        self.size[0] * self.size[1] * self.part() * self.stride
    }

    /// Where a tap's voxels lie, seen from the tile's base voxels.
    pub(super) fn voxel(&self, tap: [isize; 3]) -> usize {
        let [z, y, x] = [0, 1, 2].map(|a| (tap[a] - self.origin[a]) as usize);
        let row = self.part() * self.stride;
        (z * self.size[1] + y) * row + x % self.stride * self.part() + x / self.stride
    }

    /// How often shared memory is read for eight consecutive voxels of a tile, on average: those that are equal modulo 8
    /// lie in the same banks and wait for each other. 1 is the least.
    pub(super) fn wavefronts(&self, edges: Edges, stride: [usize; 3]) -> f64 {
        let [_, log_y, log_x] = edges.0;
        let row = self.part() * self.stride;
        let base = |v: usize| {
            let (x, y, z) = (v % (1 << log_x), (v >> log_x) % (1 << log_y), v >> (log_x + log_y));
            (z * stride[0] * self.size[1] + y * stride[1]) * row + x
        };
        let phases = edges.voxels().div_ceil(8);
        let reads = |phase: usize| {
            let mut banks = [0u32; 8];
            (8 * phase..(8 * phase + 8).min(edges.voxels())).for_each(|v| banks[base(v) % 8] += 1);
            banks.into_iter().max().unwrap_or(1)
        };
        (0..phases).map(|phase| f64::from(reads(phase))).sum::<f64>() / phases as f64
    }

    /// Reciprocals of the edges x and y.
    pub(super) fn divisors(&self) -> [u32; 2] {
        [reciprocal(self.size[2]), reciprocal(self.size[1])]
    }
}

/// Voxels from one 8-channel group to the next: 2 modulo 8, so that the four groups of two voxels, which neighbouring
/// threads copy, lie in different banks.
pub(super) fn plane(voxels: usize) -> usize {
    (voxels + 5) / 8 * 8 + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wavefronts(edges: [u32; 3], stride: [usize; 3]) -> f64 {
        let taps: Vec<[isize; 3]> =
            (0..27).map(|t| [t / 9 - 1, t / 3 % 3 - 1, t % 3 - 1]).collect();
        let edges = Edges(edges);
        Halo::new(edges, stride, &taps).wavefronts(edges, stride)
    }

    #[test]
    fn eight_voxels_of_a_row_are_read_at_once() {
        assert_eq!(wavefronts([2, 3, 3], [1; 3]), 1.0);
        assert_eq!(wavefronts([0, 3, 5], [1; 3]), 1.0);
        // By stride 2 the row's even voxels are neighbours.
        assert_eq!(wavefronts([2, 2, 3], [2; 3]), 1.0);
        // Rows of 4, 6 apart: voxels 0 to 3 and 6 to 9.
        assert_eq!(wavefronts([3, 3, 2], [1; 3]), 2.0);
    }
}
