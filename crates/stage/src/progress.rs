//! Progress: a bar on a terminal, otherwise a line every 30 s, with rate and time left.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(30);

/// How far a loop has come. Shared by threads; dropped when the loop ends.
#[derive(Debug)]
pub struct Progress {
    label: String,
    what: String,
    total: u64,
    done: AtomicU64,
    begun: Instant,
    last_line: Mutex<Instant>,
    bar: Option<ProgressBar>,
    silent: bool,
}

impl Progress {
    pub(crate) fn new(label: &str, what: &str, total: usize, silent: bool) -> Self {
        let total = total as u64;
        let bar = (!silent && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta} left");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(what.to_string())
        });
        let now = Instant::now();
        Self {
            label: label.into(),
            what: what.into(),
            total,
            done: AtomicU64::new(0),
            begun: now,
            last_line: Mutex::new(now),
            bar,
            silent,
        }
    }

    /// `n` more units are done.
    pub fn add(&self, n: usize) {
        let done = self.done.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        if self.silent {
            return;
        }
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        eprintln!("{}: {}", self.label, self.line(done, self.begun.elapsed()));
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = Duration::from_secs_f64(self.total.saturating_sub(done) as f64 / rate.max(1e-9));
        format!("{} {done}/{}, {rate:.2}/s, {} left", self.what, self.total, short(left))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
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
        assert_eq!(p.line(10, Duration::from_secs(20)), "cases 10/40, 0.50/s, 1 min 0 s left");
        assert_eq!(short(Duration::from_secs(7500)), "2 h 5 min");
    }
}
