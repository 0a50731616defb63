//! AVX2 with fused multiply-add: sixteen f32 in two registers.

use crate::host::vector::{Level, Vector};
use std::arch::x86_64::*;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// Both registers alike.
macro_rules! both {
    ($function:ident, $($operand:expr),+) => {
        // SAFETY: the caller promises AVX2 and FMA.
        unsafe { Avx2($function($($operand.0),+), $function($($operand.1),+)) }
    };
}

/// The bfloat16 in the low halves of 32 bits.
#[inline(always)]
unsafe fn low(v: __m256) -> __m256 {
    // SAFETY: the caller promises AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v))) }
}

/// Those in the high halves.
#[inline(always)]
unsafe fn high(v: __m256) -> __m256 {
    // SAFETY: the caller promises AVX2.
    unsafe { _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0xFFFF_0000_u32 as i32))) }
}

#[inline(always)]
unsafe fn dot(sum: __m256, a: __m256, b: __m256) -> __m256 {
    // SAFETY: the caller promises AVX2 and FMA.
    unsafe { _mm256_fmadd_ps(high(a), high(b), _mm256_fmadd_ps(low(a), low(b), sum)) }
}

#[inline(always)]
unsafe fn leaky(v: __m256, sign: __m256, slope: __m256) -> __m256 {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(sign, _mm256_setzero_ps());
        _mm256_blendv_ps(_mm256_mul_ps(v, slope), v, positive)
    }
}

#[inline(always)]
unsafe fn widen(from: *const u16) -> __m256 {
    // SAFETY: the caller promises AVX2 and eight numbers.
    unsafe {
        let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
    }
}

/// Rounded bits in the low halves of 32.
#[inline(always)]
unsafe fn rounded(v: __m256) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
        let nearest = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
        let quiet = _mm256_or_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        _mm256_blendv_epi8(nearest, quiet, nan)
    }
}

#[inline(always)]
unsafe fn add_to(v: __m256, sums: *mut f64) {
    // SAFETY: the caller promises AVX2 and eight sums.
    unsafe {
        let halves = [_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)];
        for i in 0..2 {
            let at = sums.add(4 * i);
            _mm256_storeu_pd(at, _mm256_add_pd(_mm256_loadu_pd(at), _mm256_cvtps_pd(halves[i])));
        }
    }
}

impl Vector for Avx2 {
    const LEVEL: Level = Level::Avx2;
    const ROWS: usize = 6;
    const HALVES: usize = 1;
    const CHANNELS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller promises AVX2.
        unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX2 and sixteen aligned numbers.
        unsafe { Self(_mm256_load_ps(from), _mm256_load_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises AVX2 and an aligned place for sixteen numbers.
        unsafe {
            _mm256_store_ps(to, self.0);
            _mm256_store_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller promises AVX2 and a number.
        let x = unsafe { _mm256_set1_ps(*from) };
        Self(x, x)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        both!(_mm256_add_ps, self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        both!(_mm256_sub_ps, self, other)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        both!(_mm256_mul_ps, self, other)
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        both!(_mm256_fmadd_ps, a, b, self)
    }
    #[inline(always)]
    unsafe fn mul_sub(self, a: Self, b: Self) -> Self {
        both!(_mm256_fnmadd_ps, a, b, self)
    }
    #[inline(always)]
    unsafe fn leaky(self, sign: Self, slope: Self) -> Self {
        both!(leaky, self, sign, slope)
    }
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        both!(dot, self, a, b)
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> Self {
        // SAFETY: passed on.
        unsafe { Self(widen(from), widen(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn narrow(self, to: *mut u16) {
        // SAFETY: the caller promises AVX2 and an aligned place for sixteen.
        unsafe {
            let packed = _mm256_packus_epi32(rounded(self.0), rounded(self.1));
            _mm256_store_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64) {
        // SAFETY: passed on.
        unsafe {
            add_to(self.0, sums);
            add_to(self.1, sums.add(8));
        }
    }
}
