//! Loops that the compiler turns into the vector instructions of the CPU it meets: AVX-512, AVX2 or what every x86-64 has.
#![expect(
    unsafe_code,
    reason = "code compiled for a CPU's features may be called once they were asked for"
)]

/// Work whose loops gain from wider vectors. Implementations are `#[inline(always)]`, and so is all they call: what isn't
/// melted into [`run`]'s entry points is compiled without their features.
pub(super) trait Task {
    /// `FMA` tells whether [`f64::mul_add`] is one instruction; otherwise it would be a slow call.
    fn run<const FMA: bool>(self);
}

/// `a · b + c`.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f64, b: f64, c: f64) -> f64 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Vector instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Avx512,
    Avx2,
    Portable,
}

impl Level {
    /// Those of this CPU, widest first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        [Self::Avx512, Self::Avx2, Self::Portable].into_iter().filter(|level| level.is_here())
    }

    fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Avx512 => {
                return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
            }
            Self::Avx2 => {
                return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            }
            Self::Portable => {}
        }
        self == Self::Portable
    }
}

/// Does the task with the widest vectors there are.
pub(super) fn run(task: impl Task) {
    run_at(Level::available().next().unwrap_or(Level::Portable), task);
}

/// Does the task with the vectors of a level.
///
/// # Panics
/// If the CPU doesn't have it.
pub(super) fn run_at(level: Level, task: impl Task) {
    assert!(level.is_here(), "{level:?} on a CPU without it");
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has the features, as was just asserted.
        Level::Avx512 => unsafe { avx512(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2(task) },
        _ => task.run::<false>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn avx512(task: impl Task) {
    task.run::<true>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(task: impl Task) {
    task.run::<true>();
}
