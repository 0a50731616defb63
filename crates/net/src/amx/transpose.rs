//! From voxels of 32 channels to what the weight gradient multiplies: channels of 32 voxels, and pairs of voxels.

use super::tensor::Chunk;
use std::arch::x86_64::*;

/// Writes channel `c` of 32 voxels to `out + c · row` (in chunks).
///
/// # Safety
/// The CPU has AVX-512 F and BW; all of it can be read and written.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn transpose(voxels: &[*const Chunk; 32], out: *mut Chunk, row: usize) {
    // SAFETY: by the contract.
    unsafe {
        // [group of 8 voxels][i]: 16-byte part L holds channel 8 L + i of the group.
        let mut groups = [[_mm512_setzero_si512(); 8]; 4];
        for (g, group) in groups.iter_mut().enumerate() {
            let load = |i: usize| _mm512_load_si512(voxels[g * 8 + i].cast());
            let mut quads = [[_mm512_setzero_si512(); 4]; 2];
            for (q, quad) in quads.iter_mut().enumerate() {
                let (a, b) = (load(q * 4), load(q * 4 + 1));
                let (c, d) = (load(q * 4 + 2), load(q * 4 + 3));
                let (low0, high0) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
                let (low1, high1) = (_mm512_unpacklo_epi16(c, d), _mm512_unpackhi_epi16(c, d));
                *quad = [
                    _mm512_unpacklo_epi32(low0, low1),
                    _mm512_unpackhi_epi32(low0, low1),
                    _mm512_unpacklo_epi32(high0, high1),
                    _mm512_unpackhi_epi32(high0, high1),
                ];
            }
            for i in 0..4 {
                group[2 * i] = _mm512_unpacklo_epi64(quads[0][i], quads[1][i]);
                group[2 * i + 1] = _mm512_unpackhi_epi64(quads[0][i], quads[1][i]);
            }
        }
        for i in 0..8 {
            let [a, b, c, d] = [groups[0][i], groups[1][i], groups[2][i], groups[3][i]];
            let (ab, ab_high) =
                (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
            let (cd, cd_high) =
                (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
            let store = |channel: usize, v: __m512i| {
                _mm512_store_si512(out.add(channel * row).cast(), v);
            };
            store(i, _mm512_shuffle_i32x4::<0x88>(ab, cd));
            store(8 + i, _mm512_shuffle_i32x4::<0xDD>(ab, cd));
            store(16 + i, _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high));
            store(24 + i, _mm512_shuffle_i32x4::<0xDD>(ab_high, cd_high));
        }
    }
}

/// In which of the two lists of [`pair`] a channel of 32 lies, and in which place.
pub(super) fn pair_place(channel: usize) -> (usize, usize) {
    (channel % 8 / 4, channel / 8 * 4 + channel % 4)
}

/// Interleaves two voxels: 16 channels × 2 voxels to `low`, the other 16 to `high`, as [`pair_place`] has them.
///
/// # Safety
/// As [`transpose`].
#[inline(always)]
pub(super) unsafe fn pair(a: *const Chunk, b: *const Chunk, low: *mut Chunk, high: *mut Chunk) {
    // SAFETY: by the contract.
    unsafe {
        let (a, b) = (_mm512_load_si512(a.cast()), _mm512_load_si512(b.cast()));
        _mm512_store_si512(low.cast(), _mm512_unpacklo_epi16(a, b));
        _mm512_store_si512(high.cast(), _mm512_unpackhi_epi16(a, b));
    }
}

/// Pairs (0, 1), (2, 3), … of voxels that lie `step` chunks apart.
///
/// # Safety
/// As [`transpose`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pairs(
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
            pair(a, a.add(step), low.add(i), high.add(i));
        }
    }
}

/// As [`pairs`] from voxels that follow each other, for both alignments: also (1, 2), (3, 4), …
///
/// # Safety
/// As [`transpose`]; `2 · count + 1` voxels can be read.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pairs_both(
    from: *const Chunk,
    step: usize,
    count: usize,
    even: [*mut Chunk; 2],
    odd: [*mut Chunk; 2],
) {
    // SAFETY: by the contract.
    unsafe {
        let load = |i: usize| _mm512_load_si512(from.add(i * step).cast());
        let mut a = load(0);
        for i in 0..count {
            let (b, c) = (load(2 * i + 1), load(2 * i + 2));
            _mm512_store_si512(even[0].add(i).cast(), _mm512_unpacklo_epi16(a, b));
            _mm512_store_si512(even[1].add(i).cast(), _mm512_unpackhi_epi16(a, b));
            _mm512_store_si512(odd[0].add(i).cast(), _mm512_unpacklo_epi16(b, c));
            _mm512_store_si512(odd[1].add(i).cast(), _mm512_unpackhi_epi16(b, c));
            a = c;
        }
    }
}
