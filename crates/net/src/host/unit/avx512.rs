//! AVX-512 (F, BW, VL, DQ): sixteen f32 in a register; with `BF16`, products and rounding of bfloat16 by instructions.

use crate::host::grid::Chunk;
use crate::host::vector::{Level, Vector};
use std::arch::x86_64::*;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(__m512);

#[inline(always)]
unsafe fn low(v: __m512) -> __m512 {
    // SAFETY: the caller promises AVX-512.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v))) }
}

#[inline(always)]
unsafe fn high(v: __m512) -> __m512 {
    // SAFETY: the caller promises AVX-512.
    unsafe { _mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(0xFFFF_0000_u32 as i32))) }
}

/// Rounded bits in the low halves of 32.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512i {
    // SAFETY: the caller promises AVX-512.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
        let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
        let quiet = _mm512_or_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(0x40));
        _mm512_mask_mov_epi32(nearest, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), quiet)
    }
}

impl<const BF16: bool> Vector for Avx512<BF16> {
    const LEVEL: Level = if BF16 { Level::Avx512Bf16 } else { Level::Avx512 };
    const ROWS: usize = 14;
    const HALVES: usize = 2;
    const CHANNELS: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_setzero_ps() })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX-512 and sixteen aligned numbers.
        Self(unsafe { _mm512_load_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises AVX-512 and an aligned place for sixteen numbers.
        unsafe { _mm512_store_ps(to, self.0) };
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX-512 and a number.
        Self(unsafe { _mm512_set1_ps(*from) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn mul_sub(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        Self(unsafe { _mm512_fnmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn leaky(self, sign: Self, slope: Self) -> Self {
        // SAFETY: the caller promises AVX-512.
        unsafe {
            let other = _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(sign.0, _mm512_setzero_ps());
            Self(_mm512_mask_mul_ps(self.0, other, self.0, slope.0))
        }
    }
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller promises AVX-512, and bfloat16 products where `BF16` says so; both types are 64 bytes of
        // plain data.
        unsafe {
            if BF16 {
                let a = std::mem::transmute::<__m512, __m512bh>(a.0);
                let b = std::mem::transmute::<__m512, __m512bh>(b.0);
                return Self(_mm512_dpbf16_ps(self.0, a, b));
            }
            let sum = _mm512_fmadd_ps(low(a.0), low(b.0), self.0);
            Self(_mm512_fmadd_ps(high(a.0), high(b.0), sum))
        }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> Self {
        // SAFETY: the caller promises AVX-512 and sixteen aligned numbers.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_load_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
        }
    }
    #[inline(always)]
    unsafe fn narrow(self, to: *mut u16) {
        // SAFETY: the caller promises AVX-512, the conversion where `BF16` says so, and an aligned place for sixteen.
        unsafe {
            let bits: __m256i = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0))
            } else {
                _mm512_cvtepi32_epi16(rounded(self.0))
            };
            _mm256_store_si256(to.cast(), bits);
        }
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64) {
        // SAFETY: the caller promises AVX-512 and sixteen sums.
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(self.0));
            let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(self.0));
            _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), low));
            let second = sums.add(8);
            _mm512_storeu_pd(second, _mm512_add_pd(_mm512_loadu_pd(second), high));
        }
    }

    #[inline(always)]
    unsafe fn transpose(voxels: &[*const Chunk; 32], out: *mut Chunk, row: usize) {
        // SAFETY: the caller promises AVX-512 BW, and that all of it can be read and written.
        unsafe {
            // [group of 8 voxels][i]: 16-byte part L holds channel 8 L + i of the group.
            let mut groups = [[_mm512_setzero_si512(); 8]; 4];
            for g in 0..4 {
                let mut quads = [[_mm512_setzero_si512(); 4]; 2];
                for q in 0..2 {
                    let first = g * 8 + q * 4;
                    let a = _mm512_load_si512(voxels[first].cast());
                    let b = _mm512_load_si512(voxels[first + 1].cast());
                    let c = _mm512_load_si512(voxels[first + 2].cast());
                    let d = _mm512_load_si512(voxels[first + 3].cast());
                    let (low0, high0) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
                    let (low1, high1) = (_mm512_unpacklo_epi16(c, d), _mm512_unpackhi_epi16(c, d));
                    quads[q] = [
                        _mm512_unpacklo_epi32(low0, low1),
                        _mm512_unpackhi_epi32(low0, low1),
                        _mm512_unpacklo_epi32(high0, high1),
                        _mm512_unpackhi_epi32(high0, high1),
                    ];
                }
                for i in 0..4 {
                    groups[g][2 * i] = _mm512_unpacklo_epi64(quads[0][i], quads[1][i]);
                    groups[g][2 * i + 1] = _mm512_unpackhi_epi64(quads[0][i], quads[1][i]);
                }
            }
            for i in 0..8 {
                let [a, b, c, d] = [groups[0][i], groups[1][i], groups[2][i], groups[3][i]];
                let (ab, ab_high) =
                    (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
                let (cd, cd_high) =
                    (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
                let channels = [
                    _mm512_shuffle_i32x4::<0x88>(ab, cd),
                    _mm512_shuffle_i32x4::<0xDD>(ab, cd),
                    _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
                    _mm512_shuffle_i32x4::<0xDD>(ab_high, cd_high),
                ];
                for k in 0..4 {
                    _mm512_store_si512(out.add((8 * k + i) * row).cast(), channels[k]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn pair(a: *const Chunk, b: *const Chunk, low: *mut Chunk, high: *mut Chunk) {
        // SAFETY: the caller promises AVX-512 BW, and that all of it can be read and written.
        unsafe {
            let (a, b) = (_mm512_load_si512(a.cast()), _mm512_load_si512(b.cast()));
            _mm512_store_si512(low.cast(), _mm512_unpacklo_epi16(a, b));
            _mm512_store_si512(high.cast(), _mm512_unpackhi_epi16(a, b));
        }
    }
}
