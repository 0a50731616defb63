//! Loops in safe Rust that are compiled for each vector level.

use crate::device::SimdLevel;

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
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
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
