//! What multiplies: one small file per instruction set, the only home of intrinsics and assembly.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tiles;
mod vectors;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use amx::Amx;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;
#[cfg(test)]
pub(crate) use tiles::Tiles;
pub(crate) use vectors::Vectors;

use super::format::Format;
use super::grid::Chunk;
use super::vector::Vector;

/// Most voxels that any unit sums up at once.
pub(super) const MOST_ROWS: usize = 48;

/// Floats of the place for all sums: `[half of 32 outputs][row][16 outputs]`.
pub(super) const SUMS: usize = 2 * MOST_ROWS * 16;

/// Where the sums of a row and a half lie in that place.
#[inline(always)]
pub(super) const fn sum_place(row: usize, half: usize) -> usize {
    (half * MOST_ROWS + row) * 16
}

/// One block of 32 input channels of a tile: its first voxel, and how many groups of channels are in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub voxel: *const Chunk,
    pub groups: usize,
}

/// What one tile sums up: for each block of input channels its first voxel, and at each the taps in bytes; weights lie
/// block by block, tap by tap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps<'a> {
    pub inputs: &'a [Input],
    pub taps: &'a [isize],
    pub weights: *const Chunk,
}

/// What a tile is: voxels, halves of the 32 outputs, and every which voxel of the input it takes (1 or 2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub rows: usize,
    pub halves: usize,
    pub step: usize,
}

/// Work of the vector units to be done meanwhile, in so many pieces.
pub(crate) trait Meanwhile {
    /// Does some of it, when there are so many occasions in all.
    ///
    /// # Safety
    /// As the implementation says.
    unsafe fn some(&mut self, occasions: usize);
}

/// Nothing to do.
pub(crate) struct Nothing;

impl Meanwhile for Nothing {
    #[inline(always)]
    unsafe fn some(&mut self, _occasions: usize) {}
}

/// Factors of a weight gradient: 32 channels of the small side, and `N` lists of 16 channels of the large side, at groups of
/// voxels that follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outer<const N: usize> {
    pub small: *const Chunk,
    /// Bytes from one channel to the next, and from one group of voxels to the next.
    pub small_step: [usize; 2],
    pub large: [*const Chunk; N],
    /// Chunks from one group to the next.
    pub large_step: usize,
    pub groups: usize,
}

/// A way to multiply chunks on one instruction set.
///
/// # Safety
/// [`Unit::rows`] is at most [`MOST_ROWS`], and [`Unit::reduce`] reads no voxel behind the next multiple of
/// [`Unit::ROUND`].
pub(crate) unsafe trait Unit: Copy + Send + Sync + 'static {
    /// For everything but products.
    type Vector: Vector;
    /// While it lives, its thread may multiply.
    type Open;
    /// Voxels are summed up by so many.
    const ROUND: usize;

    /// Most voxels of a tile.
    fn rows<F: Format>() -> usize;

    /// # Safety
    /// The CPU has the unit.
    unsafe fn open() -> Self::Open;

    /// sums[half][row][output] = Σ over steps.
    ///
    /// # Safety
    /// The unit is open; all voxels at the taps of all inputs can be read, up to a multiple of [`Unit::ROUND`], and as many
    /// taps of weights; `sums` has room for [`SUMS`]; and what `M` asks for.
    unsafe fn reduce<F: Format, M: Meanwhile>(
        steps: &Steps<'_>,
        extent: Extent,
        sums: *mut f32,
        meanwhile: &mut M,
    );

    /// sums[list][small channel][large channel] += Σ over jobs and their groups.
    ///
    /// # Safety
    /// The unit is open; everything at these places is there; behind each pointer to sums there are 32 × 16.
    unsafe fn outer<F: Format, const N: usize>(jobs: &[Outer<N>], sums: [*mut f32; N]);
}
