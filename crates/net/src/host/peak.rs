//! The most multiply-adds per second that all threads reach with operands in registers.

use super::format::Format;
use super::vector::{Vector, compiled};
use std::hint::black_box;
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

/// Operations per second of a vector unit on numbers of a format.
pub(crate) fn vectors<V: Vector, F: Format>() -> f64 {
    // SAFETY: an engine has only units that the CPU has.
    on_all_threads(|| unsafe { products::<V, F>() })
}

/// Enough products at a time to hide their latency, few enough for the registers.
const AT_ONCE: usize = 12;

const ROUNDS: usize = 20_000;

compiled! {
    /// Products with operands in registers; how many operations that was.
    unsafe fn products<V, F: Format>() -> f64 {
        let (factor, addend) = (black_box(0.999f32), black_box(1e-3f32));
        let mut out = crate::host::grid::Wide::ZERO;
        // SAFETY: both numbers and `out` are there.
        unsafe {
            let (factor, addend) = (V::splat(&raw const factor), V::splat(&raw const addend));
            let mut sums = [addend; AT_ONCE];
            for _ in 0..ROUNDS {
                for i in 0..AT_ONCE {
                    sums[i] = F::product(sums[i], factor, addend);
                }
            }
            let mut total = V::zero();
            for i in 0..AT_ONCE {
                total = total.add(sums[i]);
            }
            total.store(out.0.as_mut_ptr());
        }
        black_box(out);
        (2 * F::GROUP * ROUNDS * AT_ONCE * 16) as f64
    }
}
