//! The most multiply-adds per second that all threads reach with operands in registers.

use crate::device::SimdLevel;
use std::time::{Duration, Instant};

/// Long enough for a clock that changes with the load to settle.
const TIME: Duration = Duration::from_millis(300);

/// Operations per second of `work`, which says how many it has done, on every thread at once.
pub(crate) fn on_all_threads(work: impl Fn() -> f64 + Sync) -> f64 {
    let rates = rayon::broadcast(|_| {
        let (begun, mut done) = (Instant::now(), 0.0);
        while begun.elapsed() < TIME {
            done += work();
        }
        done / begun.elapsed().as_secs_f64()
    });
    rates.into_iter().sum()
}

/// f32 operations per second at a level; none for the portable one, where it says little.
pub(crate) fn vectors(level: SimdLevel) -> Option<f64> {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level above portable exists only where `SimdLevel::detect` found its features.
        SimdLevel::Avx512 => Some(on_all_threads(|| unsafe { x86::avx512() })),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => Some(on_all_threads(|| unsafe { x86::avx2() })),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::cpu::simd::{Avx2, Avx512, Vector};
    use crate::tensor::{LANES, Lane};
    use std::hint::black_box;

    const ROUNDS: usize = 20_000;

    /// `S` sums that depend on nothing but themselves: as many multiply-adds in flight as the ports can take, as few as
    /// there are registers for.
    ///
    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    unsafe fn multiply_adds<V: Vector, const S: usize>() -> f64 {
        let (factor, addend) = (black_box(0.999f32), black_box(1e-3f32));
        let mut out = Lane::ZERO;
        // SAFETY: by the contract; both numbers and `out` are there.
        unsafe {
            let (factor, addend) = (V::splat(&raw const factor), V::splat(&raw const addend));
            let mut sums = [addend; S];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = addend.mul_add(*sum, factor);
                }
            }
            let mut total = V::zero();
            for sum in sums {
                total = total.add(sum);
            }
            total.store(&raw mut out);
        }
        black_box(out);
        (2 * ROUNDS * S * LANES) as f64
    }

    /// # Safety
    /// The CPU has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512() -> f64 {
        // SAFETY: passed on.
        unsafe { multiply_adds::<Avx512, 12>() }
    }

    /// # Safety
    /// The CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2() -> f64 {
        // SAFETY: passed on.
        unsafe { multiply_adds::<Avx2, 5>() }
    }
}
