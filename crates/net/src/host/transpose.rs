//! From voxels of 32 bfloat16 channels to what the weight gradient multiplies: channels of 32 voxels, and pairs of voxels.

use super::grid::{BLOCK, Chunk};
use super::vector::compiled;

/// As [`super::vector::Vector::transpose`], on any machine.
///
/// # Safety
/// All of it can be read and written.
#[inline(always)]
pub(super) unsafe fn plain(voxels: &[*const Chunk; 32], out: *mut Chunk, row: usize) {
    // SAFETY: by the contract.
    unsafe {
        for (i, voxel) in voxels.iter().enumerate() {
            for c in 0..BLOCK {
                (*out.add(c * row)).0[i] = (**voxel).0[c];
            }
        }
    }
}

/// As [`super::vector::Vector::pair`], on any machine.
///
/// # Safety
/// All of it can be read and written.
#[inline(always)]
pub(super) unsafe fn plain_pair(
    a: *const Chunk,
    b: *const Chunk,
    low: *mut Chunk,
    high: *mut Chunk,
) {
    // SAFETY: by the contract.
    unsafe {
        for c in 0..BLOCK {
            let (list, column) = pair_place(c);
            let to = if list == 0 { low } else { high };
            (*to).0[2 * column] = (*a).0[c];
            (*to).0[2 * column + 1] = (*b).0[c];
        }
    }
}

/// In which of the two lists of [`super::vector::Vector::pair`] a channel of 32 lies, and in which place: the order in which AVX-512
/// interleaves.
pub(super) fn pair_place(channel: usize) -> (usize, usize) {
    (channel % 8 / 4, channel / 8 * 4 + channel % 4)
}

compiled! {
    /// Writes channel `c` of 32 voxels to `out + c · row` (in chunks). All of it can be read and written.
    pub(super) unsafe fn transpose<V>(voxels: &[*const Chunk; 32], out: *mut Chunk, row: usize) {
        // SAFETY: passed on.
        unsafe { V::transpose(voxels, out, row) }
    }
}

compiled! {
    /// Pairs (0, 1), (2, 3), … of voxels that lie `step` chunks apart: 16 channels × 2 voxels to `low`, the other 16 to
    /// `high`, as [`pair_place`] has them. All of it can be read and written.
    pub(super) unsafe fn pairs<V>(
        from: *const Chunk,
        step: usize,
        count: usize,
        low: *mut Chunk,
        high: *mut Chunk,
    ) {
        for i in 0..count {
            // SAFETY: by the contract.
            unsafe {
                let a = from.add(2 * i * step);
                V::pair(a, a.add(step), low.add(i), high.add(i));
            }
        }
    }
}

compiled! {
    /// As [`pairs`] from voxels that follow each other, for both alignments: also (1, 2), (3, 4), … `2 · count + 1` voxels
    /// can be read.
    pub(super) unsafe fn pairs_both<V>(
        from: *const Chunk,
        step: usize,
        count: usize,
        even: [*mut Chunk; 2],
        odd: [*mut Chunk; 2],
    ) {
        for i in 0..count {
            // SAFETY: by the contract.
            unsafe {
                let a = from.add(2 * i * step);
                let b = a.add(step);
                V::pair(a, b, even[0].add(i), even[1].add(i));
                V::pair(b, b.add(step), odd[0].add(i), odd[1].add(i));
            }
        }
    }
}
