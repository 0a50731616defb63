//! Sixteen f32 as one value, for each vector level, and the entry points that are compiled for a level.

use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane};

/// Sixteen f32. Implementations for a level above portable are meant for code that runs under [`run`] at that level,
/// or under a function with the same `target_feature`s: there the calls melt into single instructions.
pub(crate) trait Vector: Copy {
    /// Sixteen zeros.
    ///
    /// # Safety
    /// The CPU has the features of the implementing level; so for every function of this trait.
    unsafe fn zero() -> Self;
    /// # Safety
    /// `from` can be read.
    unsafe fn load(from: *const Lane) -> Self;
    /// # Safety
    /// `to` can be written.
    unsafe fn store(self, to: *mut Lane);
    /// # Safety
    /// `from` can be read.
    unsafe fn splat(from: *const f32) -> Self;
    /// `self + a · b` per lane.
    ///
    /// # Safety
    /// See [`Vector::zero`].
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// # Safety
    /// See [`Vector::zero`].
    unsafe fn add(self, other: Self) -> Self;
}

/// Plain Rust, which the compiler turns into four SSE registers.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Vector for Portable {
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const Lane) -> Self {
        // SAFETY: the caller promises that `from` can be read.
        Self(unsafe { (*from).0 })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut Lane) {
        // SAFETY: the caller promises that `to` can be written.
        unsafe { (*to).0 = self.0 };
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller promises that `from` can be read.
        Self([unsafe { *from }; LANES])
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        let mut out = self.0;
        for i in 0..LANES {
            // Not f32::mul_add: without the instruction that is a slow library call.
            out[i] += a.0[i] * b.0[i];
        }
        Self(out)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let mut out = self.0;
        for i in 0..LANES {
            out[i] += other.0[i];
        }
        Self(out)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lane, Vector};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    impl Vector for Avx512 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller promises AVX-512F.
            Self(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn load(from: *const Lane) -> Self {
            // SAFETY: the caller promises AVX-512F and a readable lane; lanes are 64-byte aligned.
            Self(unsafe { _mm512_load_ps(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut Lane) {
            // SAFETY: the caller promises AVX-512F and a writable lane; lanes are 64-byte aligned.
            unsafe { _mm512_store_ps(to.cast(), self.0) };
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: the caller promises AVX-512F and a readable number.
            Self(unsafe { _mm512_set1_ps(*from) })
        }
        #[inline(always)]
        unsafe fn mul_add(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller promises AVX-512F.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller promises AVX-512F.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    impl Vector for Avx2 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller promises AVX2.
            unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn load(from: *const Lane) -> Self {
            let half = from.cast::<f32>();
            // SAFETY: the caller promises AVX2 and a readable lane of 16 numbers, aligned to 64 bytes.
            unsafe { Self(_mm256_load_ps(half), _mm256_load_ps(half.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut Lane) {
            let half = to.cast::<f32>();
            // SAFETY: the caller promises AVX2 and a writable lane of 16 numbers, aligned to 64 bytes.
            unsafe {
                _mm256_store_ps(half, self.0);
                _mm256_store_ps(half.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: the caller promises AVX2 and a readable number.
            let x = unsafe { _mm256_set1_ps(*from) };
            Self(x, x)
        }
        #[inline(always)]
        unsafe fn mul_add(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller promises AVX2 with FMA.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller promises AVX2.
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
    }
}

/// A loop in safe Rust that the compiler shall vectorise for a level. `run` must be `#[inline(always)]`.
pub(crate) trait Body {
    type Output;
    fn run(self) -> Self::Output;
}

/// Runs `body` compiled for `level`.
#[inline]
pub(crate) fn run<B: Body>(level: SimdLevel, body: B) -> B::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn avx512<B: Body>(body: B) -> B::Output {
            body.run()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<B: Body>(body: B) -> B::Output {
            body.run()
        }
        match level {
            // SAFETY: a level above portable exists only where `SimdLevel::detect` found its features.
            SimdLevel::Avx512 => return unsafe { avx512(body) },
            // SAFETY: as above.
            SimdLevel::Avx2 => return unsafe { avx2(body) },
            SimdLevel::Portable => {}
        }
    }
    let _ = level;
    body.run()
}
