//! Progress: a bar on a terminal, otherwise a line every 30 s, with rate and time left.

use crate::Shown;
use crate::say::say;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(30);

/// How far a loop has come. Shared by threads; dropped when the loop ends.
#[derive(Debug)]
pub struct Progress {
    count: Arc<Count>,
    bar: Option<ProgressBar>,
    /// Writes the lines, also while a long unit is under way.
    clock: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Count {
    label: String,
    what: String,
    total: u64,
    done: AtomicU64,
    begun: Instant,
    over: AtomicBool,
}

impl Progress {
    pub(crate) fn new(label: &str, what: &str, total: usize, silent: bool) -> Self {
        let count = Arc::new(Count {
            label: label.into(),
            what: Shown(what).to_string(),
            total: total as u64,
            done: AtomicU64::new(0),
            begun: Instant::now(),
            over: AtomicBool::new(false),
        });
        let terminal = std::io::stderr().is_terminal();
        let bar = (!silent && terminal).then(|| {
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta} left");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(count.total).with_style(style).with_message(count.what.clone())
        });
        // Where no thread can be had there are no lines.
        let clock = (!silent && !terminal).then(|| {
            let count = Arc::clone(&count);
            Builder::new().spawn(move || count.lines(LINE_EVERY)).ok()
        });
        Self { count, bar, clock: clock.flatten() }
    }

    /// `n` more units are done.
    pub fn add(&self, n: usize) {
        let done = self.count.done.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Count {
    /// A line at each interval until the loop is over.
    fn lines(&self, every: Duration) {
        let mut next = self.begun + every;
        while !self.over.load(Ordering::Acquire) {
            match next.checked_duration_since(Instant::now()) {
                Some(left) => std::thread::park_timeout(left),
                None => {
                    let done = self.done.load(Ordering::Relaxed);
                    say(format_args!("{}: {}", self.label, self.line(done, self.begun.elapsed())));
                    next += every;
                }
            }
        }
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let (what, total) = (&self.what, self.total);
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
        if done == 0 {
            return format!("{what} 0/{total} after {}", short(elapsed));
        }
        let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate);
        format!("{what} {done}/{total}, {rate:.2}/s, {} left", short(left))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.count.over.store(true, Ordering::Release);
        if let Some(clock) = self.clock.take() {
            clock.thread().unpark();
            let _ = clock.join();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `5.2 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn short(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_rate_and_time_left() {
        let p = Progress::new("nnu-x", "cases", 40, true);
        let line = |done| p.count.line(done, Duration::from_secs(20));
        assert_eq!(line(10), "cases 10/40, 0.50/s, 1 min 0 s left");
        assert_eq!(line(0), "cases 0/40 after 20.0 s");
        assert_eq!(short(Duration::from_secs(7500)), "2 h 5 min");
    }
}
