//! Kernels for the matrix unit of recent Xeons (AMX: tiles of 16 rows × 64 bytes, bfloat16 products, f32 sums).
//!
//! Activations are bfloat16, or sums of two bfloat16 ("parts": the rounded value and the rounded rest, 16 bits of
//! mantissa together). A product of split numbers is three products of parts; the fourth lies below the rounding.
//! Everything else (norms, statistics, loss, parameters, sums) is f32 or f64. AMX machines have AVX-512 with bfloat16
//! conversions, which all other passes use.
#![expect(
    unsafe_code,
    reason = "matrix and vector instructions behind a run-time check, and pointers whose bounds are asserted once per call"
)]

pub(crate) mod convolution;
pub(crate) mod first;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod outer;
pub(crate) mod packing;
pub(crate) mod pool;
pub(crate) mod residual;
mod simd;
pub(crate) mod tensor;
#[cfg(test)]
mod tests;
mod tile;
mod transpose;

use std::arch::asm;
use std::sync::OnceLock;

/// Whether this machine has the units and the kernel lets the process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(detect)
}

fn detect() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bf16");
    // OSXSAVE, then AMX-BF16 and AMX-TILE.
    if !vectors || __cpuid(0).eax < 7 || (__cpuid(1).ecx >> 27) & 1 == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if (features >> 22) & 1 == 0 || (features >> 24) & 1 == 0 {
        return false;
    }
    let state: u32;
    // SAFETY: OSXSAVE says that xgetbv exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack)) };
    // Tile configuration and tile data are saved at task switches.
    if (state >> 17) & 3 != 3 {
        return false;
    }
    let (arch_prctl, request_permission, tile_data) = (158i64, 0x1023i64, 18i64);
    let answer: i64;
    // SAFETY: a system call that changes nothing but the process's permission to use tiles.
    unsafe {
        asm!("syscall", inlateout("rax") arch_prctl => answer, in("rdi") request_permission,
            in("rsi") tile_data, out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
}

/// Multiply-adds per second of the unit, two operations each, in so many parts.
pub(crate) fn peak(parts: Parts) -> f64 {
    match parts {
        Parts::One => tile::peak(),
        Parts::Two => tile::peak() / 3.0,
    }
}

/// How many bfloat16 a number is the sum of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    One,
    Two,
}

impl Parts {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// Calls a function that is generic over the number of parts.
macro_rules! with_parts {
    ($parts:expr, $function:ident $(:: $next:ident)* ($($argument:expr),* $(,)?)) => {
        match $parts {
            $crate::amx::Parts::One => $function$(::$next)*::<1>($($argument),*),
            $crate::amx::Parts::Two => $function$(::$next)*::<2>($($argument),*),
        }
    };
}
pub(crate) use with_parts;
