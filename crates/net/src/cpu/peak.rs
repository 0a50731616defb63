//! The most multiply-adds per second that all threads reach with operands in registers.

use super::simd::{Body, run};
use crate::device::SimdLevel;
use crate::tensor::LANES;
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

/// Twelve sums that depend on nothing but themselves: as many multiply-adds in flight as the ports can take.
struct MultiplyAdds;

const SUMS: usize = 12;
const ROUNDS: usize = 20_000;

impl Body for MultiplyAdds {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        let (factor, addend) = (black_box([0.999f32; LANES]), black_box([1e-3f32; LANES]));
        let mut sums = [[1.0f32; LANES]; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                for c in 0..LANES {
                    sum[c] = sum[c].mul_add(factor[c], addend[c]);
                }
            }
        }
        black_box(sums);
        (2 * ROUNDS * SUMS * LANES) as f64
    }
}

/// f32 operations per second at a level; none for the portable one, where a multiply-add is a call.
pub(crate) fn vectors(level: SimdLevel) -> Option<f64> {
    (level != SimdLevel::Portable).then(|| on_all_threads(|| run(level, MultiplyAdds)))
}
