//! Which case may start: within the memory, and no more at a time than there are threads to compute with.
//!
//! A case that is only being written computes nothing, so another one may start while the disk is waited for.

use std::sync::{Condvar, Mutex, MutexGuard};

/// What cases in work together may take.
pub(crate) struct Budget {
    bytes: f64,
    threads: usize,
    taken: Mutex<Taken>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: f64,
    cases: usize,
    computing: usize,
}

/// A case's part of the budget, given back when dropped.
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    bytes: f64,
    computing: bool,
}

impl Budget {
    pub(crate) fn new(bytes: f64, threads: usize) -> Self {
        Self { bytes, threads, taken: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until a case that takes so much may start; one that exceeds the budget waits until it's alone.
    pub(crate) fn share(&self, bytes: f64) -> Share<'_> {
        let full = |taken: &mut Taken| {
            let fits = taken.cases == 0 || taken.bytes + bytes <= self.bytes;
            !fits || taken.computing >= self.threads
        };
        let waited = self.changed.wait_while(self.taken(), full);
        let mut taken = waited.expect("no thread panics with the lock");
        taken.bytes += bytes;
        taken.cases += 1;
        taken.computing += 1;
        Share { budget: self, bytes, computing: true }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no thread panics with the lock")
    }
}

impl Share<'_> {
    /// What the case takes, if that is more than the budget: then it's alone.
    pub(crate) fn excess(&self) -> Option<f64> {
        Some(self.bytes).filter(|bytes| *bytes > self.budget.bytes)
    }

    /// The case is only being written from now on, and takes `bytes` for that.
    pub(crate) fn computed(&mut self, bytes: f64) {
        let mut taken = self.budget.taken();
        taken.bytes -= self.bytes - bytes;
        taken.computing -= usize::from(self.computing);
        (self.bytes, self.computing) = (bytes, false);
        self.budget.changed.notify_all();
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.computed(0.0);
        self.budget.taken().cases -= 1;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Runs cases of these sizes on `workers` threads; the most bytes, computing and cases at a time, where bytes count
    /// only if several cases share them.
    fn most(budget: &Budget, workers: usize, sizes: &[usize]) -> [usize; 3] {
        let [next, bytes, computing, cases] = [const { AtomicUsize::new(0) }; 4];
        let peaks = [const { AtomicUsize::new(0) }; 3];
        let up = |counter: &AtomicUsize, by: usize| counter.fetch_add(by, Ordering::SeqCst) + by;
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(&size) = sizes.get(next.fetch_add(1, Ordering::SeqCst)) {
                        let mut share = budget.share(size as f64);
                        let together = up(&bytes, size);
                        if up(&cases, 1) > 1 {
                            peaks[0].fetch_max(together, Ordering::SeqCst);
                        }
                        peaks[1].fetch_max(up(&computing, 1), Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_micros(300));
                        computing.fetch_sub(1, Ordering::SeqCst);
                        bytes.fetch_sub(size / 2, Ordering::SeqCst);
                        share.computed((size - size / 2) as f64);
                        peaks[2].fetch_max(cases.load(Ordering::SeqCst), Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_micros(300));
                        bytes.fetch_sub(size - size / 2, Ordering::SeqCst);
                        cases.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        peaks.map(AtomicUsize::into_inner)
    }

    #[test]
    fn cases_stay_within_memory_and_threads() {
        let sizes: Vec<usize> = (0..60).map(|i| 10 + i * 37 % 41).collect();
        let [bytes, computing, cases] = most(&Budget::new(100.0, 2), 6, &sizes);
        assert!(bytes <= 100, "{bytes} bytes of 100 at a time");
        assert!(computing <= 2, "{computing} of 2 computing");
        assert!(cases > 2, "{cases} cases at a time, expected some being written");
    }

    #[test]
    fn what_exceeds_the_budget_is_done_alone() {
        let budget = Budget::new(5.0, 2);
        assert_eq!(budget.share(7.0).excess(), Some(7.0));
        assert_eq!(most(&budget, 4, &[7; 12]), [0, 1, 1]);
    }
}
