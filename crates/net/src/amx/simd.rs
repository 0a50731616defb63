//! Thirty-two channels of one voxel as two vectors of f32, whatever the parts in memory.

use super::tensor::{Chunk, Wide};
use std::arch::x86_64::*;

/// Two vectors: channels 0…15 and 16…31.
pub(super) type Pair = [__m512; 2];

#[inline(always)]
unsafe fn widen(chunk: *const Chunk) -> Pair {
    // SAFETY: the caller promises a readable chunk and AVX-512.
    unsafe {
        let bits = _mm512_load_si512(chunk.cast());
        let half =
            |h: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(h)));
        [half(_mm512_castsi512_si256(bits)), half(_mm512_extracti64x4_epi64::<1>(bits))]
    }
}

/// # Safety
/// `P` chunks can be read; the CPU passed [`super::available`] and the caller is compiled for AVX-512 F, BW, VL, DQ and
/// BF16. So for all functions here.
#[inline(always)]
pub(super) unsafe fn load<const P: usize>(voxel: *const Chunk) -> Pair {
    // SAFETY: passed on.
    unsafe {
        let value = widen(voxel);
        if P == 1 {
            return value;
        }
        let rest = widen(voxel.add(1));
        [_mm512_add_ps(value[0], rest[0]), _mm512_add_ps(value[1], rest[1])]
    }
}

#[inline(always)]
unsafe fn narrow(value: Pair, chunk: *mut Chunk) -> __m512i {
    // SAFETY: the caller promises a writable chunk and AVX-512 BF16; both types are 64 bytes of plain data.
    unsafe {
        let bits: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(value[1], value[0]));
        _mm512_store_si512(chunk.cast(), bits);
        bits
    }
}

/// # Safety
/// As [`load`], for writing.
#[inline(always)]
pub(super) unsafe fn store<const P: usize>(value: Pair, voxel: *mut Chunk) {
    // SAFETY: passed on.
    unsafe {
        narrow(value, voxel);
        if P == 2 {
            let rounded = widen(voxel);
            let rest = [_mm512_sub_ps(value[0], rounded[0]), _mm512_sub_ps(value[1], rounded[1])];
            narrow(rest, voxel.add(1));
        }
    }
}

/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn wide(values: &Wide) -> Pair {
    // SAFETY: 32 aligned numbers are there.
    unsafe {
        let at = values.0.as_ptr();
        [_mm512_load_ps(at), _mm512_load_ps(at.add(16))]
    }
}

/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn zero() -> Pair {
    // SAFETY: passed on.
    unsafe { [_mm512_setzero_ps(), _mm512_setzero_ps()] }
}

/// Adds 32 f32 to 32 f64.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn add_to(sums: &mut [f64; 32], values: Pair) {
    // SAFETY: passed on; every access is inside the 32 numbers.
    unsafe {
        for (i, v) in values.into_iter().enumerate() {
            let at = sums.as_mut_ptr().add(i * 16);
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
            let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v));
            _mm512_storeu_pd(at, _mm512_add_pd(_mm512_loadu_pd(at), low));
            _mm512_storeu_pd(at.add(8), _mm512_add_pd(_mm512_loadu_pd(at.add(8)), high));
        }
    }
}
