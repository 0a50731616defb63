//! Sixteen f32 as one value on each instruction set, and functions that are compiled for all of them.

use super::grid::Chunk;
use super::transpose;

/// Instruction sets that functions are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Sixteen f32, or sixteen pairs of bfloat16 (the first of a pair in the low half of its 32 bits).
///
/// Every function but the constants asks of its caller that the CPU has the instructions of [`Vector::LEVEL`], and that it
/// is compiled for them: it lies in a function that [`compiled`] made, or is inlined into one.
pub(crate) trait Vector: Copy + Send + Sync + 'static {
    const LEVEL: Level;
    /// Voxels whose sums stay in registers, for [`Vector::HALVES`] × 16 output channels.
    const ROWS: usize;
    const HALVES: usize;
    /// Channels of the small side whose weight gradients stay in registers, for three lists of 16 channels.
    const CHANNELS: usize;

    /// # Safety
    /// See [`Vector`]; so for all that follow.
    unsafe fn zero() -> Self;
    /// # Safety
    /// See [`Vector`]; 16 numbers, aligned to 64 bytes, can be read.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// See [`Vector`]; 16 numbers, aligned to 64 bytes, can be written.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// See [`Vector`]; the number can be read.
    unsafe fn splat(from: *const f32) -> Self;
    /// # Safety
    /// See [`Vector`].
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// See [`Vector`].
    unsafe fn sub(self, other: Self) -> Self;
    /// # Safety
    /// See [`Vector`].
    unsafe fn mul(self, other: Self) -> Self;
    /// self + a · b.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// self − a · b.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn mul_sub(self, a: Self, b: Self) -> Self;
    /// self where `sign` > 0, else self · slope.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn leaky(self, sign: Self, slope: Self) -> Self;
    /// Pairs of bfloat16: self + a₀ · b₀ + a₁ · b₁, in an order and with roundings of the unit's own.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn dot(self, a: Self, b: Self) -> Self;
    /// Sixteen bfloat16.
    ///
    /// # Safety
    /// See [`Vector`]; they can be read, and are aligned to 32 bytes.
    unsafe fn widen(from: *const u16) -> Self;
    /// Rounds to bfloat16, to the nearest, ties to even.
    ///
    /// # Safety
    /// See [`Vector`]; sixteen can be written, aligned to 32 bytes.
    unsafe fn narrow(self, to: *mut u16);
    /// Adds them to 16 f64.
    ///
    /// # Safety
    /// See [`Vector`]; the numbers can be read and written.
    unsafe fn add_to(self, sums: *mut f64);

    /// See [`transpose::transpose`].
    ///
    /// # Safety
    /// See [`Vector`]; all of it can be read and written.
    #[inline(always)]
    unsafe fn transpose(voxels: &[*const Chunk; 32], out: *mut Chunk, row: usize) {
        // SAFETY: passed on.
        unsafe { transpose::plain(voxels, out, row) }
    }
    /// See [`transpose::pair`].
    ///
    /// # Safety
    /// See [`Vector`]; all of it can be read and written.
    #[inline(always)]
    unsafe fn pair(a: *const Chunk, b: *const Chunk, low: *mut Chunk, high: *mut Chunk) {
        // SAFETY: passed on.
        unsafe { transpose::plain_pair(a, b, low, high) }
    }
}

/// A function of a [`Vector`] `V`, compiled for each instruction set. Closures in its body would not be.
macro_rules! compiled {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<V $(, $g:ident: $bound:path)* $(; $(const $c:ident: $ct:ty),+)?>(
        $($a:ident: $t:ty),* $(,)?
    ) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The CPU has the instructions of `V`; besides, as the body says.
        $vis unsafe fn $name<V: $crate::host::vector::Vector $(, $g: $bound)* $($(, const $c: $ct)+)?>(
            $($a: $t),*
        ) $(-> $out)? {
            use $crate::host::vector::{Level, Vector};
            #[inline(always)]
            unsafe fn body<V: Vector $(, $g: $bound)* $($(, const $c: $ct)+)?>($($a: $t),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            use $crate::host::unit::{Avx2, Avx512};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2<$($g: $bound,)* $($(const $c: $ct),+)?>($($a: $t),*) $(-> $out)? {
                // SAFETY: passed on.
                unsafe { body::<Avx2 $(, $g)* $($(, $c)+)?>($($a),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn avx512<$($g: $bound,)* $($(const $c: $ct),+)?>($($a: $t),*) $(-> $out)? {
                // SAFETY: passed on.
                unsafe { body::<Avx512<false> $(, $g)* $($(, $c)+)?>($($a),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
            unsafe fn avx512_bf16<$($g: $bound,)* $($(const $c: $ct),+)?>($($a: $t),*) $(-> $out)? {
                // SAFETY: passed on.
                unsafe { body::<Avx512<true> $(, $g)* $($(, $c)+)?>($($a),*) }
            }
            // SAFETY: the caller's promise, and what the body asks for.
            unsafe {
                match V::LEVEL {
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => avx2::<$($g,)* $($($c),+)?>($($a),*),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => avx512::<$($g,)* $($($c),+)?>($($a),*),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512Bf16 => avx512_bf16::<$($g,)* $($($c),+)?>($($a),*),
                    // Portable, and where the architecture has its vectors always.
                    _ => body::<V $(, $g)* $($(, $c)+)?>($($a),*),
                }
            }
        }
    };
}
pub(crate) use compiled;
