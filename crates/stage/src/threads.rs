//! Threads, of which the system may have none left.

use crate::{Error, Result, memory};
use rayon::{ThreadBuilder, ThreadPoolBuilder};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// More than this is a slip of the pen.
pub(crate) const MOST: usize = 1024;

/// Left to be started beside the pool's where the system grants fewer than were wanted: a stage reads, writes and shows
/// its progress on threads of their own.
const BESIDE: usize = 4;

/// Starts the threads that everything is computed on; how many were wanted and how many there are.
pub(crate) fn start(asked: Option<usize>) -> Result<(usize, usize)> {
    let wanted = match asked {
        Some(n) if n == 0 || n > MOST => {
            return Err(Error::usage(format!("--threads {n}, expected 1 to {MOST}")));
        }
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from).min(MOST),
    };
    // Stacks and arenas take of the address space, of which `ulimit -v` leaves little: half of it is for the work.
    let kept = memory::half_of_what_is_left();
    // The pool can be built only once, so the threads are there before it is.
    let mut waiting: Vec<Sender<ThreadBuilder>> = (0..wanted).map_while(|_| worker()).collect();
    drop(kept);
    if waiting.len() < wanted && !waiting.is_empty() {
        // One of the pool's at least: work on threads beside it would wait for this one, which waits for them.
        waiting.truncate(waiting.len().saturating_sub(BESIDE).max(1));
    }
    let failed = |e| Error::failed(format!("cannot start threads: {e}"));
    if waiting.is_empty() {
        ALONE.store(true, Ordering::Relaxed);
        let here = ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        here.build_global().map_err(failed)?;
        return Ok((wanted, 1));
    }
    let threads = waiting.len();
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .spawn_handler(|thread| {
            let ended = |_| std::io::Error::other("a thread ended before its work began");
            waiting[thread.index()].send(thread).map_err(ended)
        })
        .build_global()
        .map_err(failed)?;
    Ok((wanted, threads))
}

static ALONE: AtomicBool = AtomicBool::new(false);

/// Whether everything is computed on the thread that the program began with. It does all work itself then: another
/// thread's would wait for it, and never begin while this one waits for that thread.
pub fn alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// Starts a thread beside this one whose work may be computed on all threads; none where the system has no thread left.
pub fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<T>> {
    if alone() { None } else { Builder::new().spawn(work).ok() }
}

/// As [`beside`], with what the scope outlives.
pub fn beside_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    if alone() { None } else { Builder::new().spawn_scoped(scope, work).ok() }
}

/// A thread that becomes one of the pool's, or ends when nothing is sent.
fn worker() -> Option<Sender<ThreadBuilder>> {
    let (sender, receiver) = channel::<ThreadBuilder>();
    let run = move || {
        if let Ok(thread) = receiver.recv() {
            thread.run();
        }
    };
    Builder::new().spawn(run).ok().map(|_| sender)
}

/// Work on a thread beside this one, or done here where the system had no thread left.
#[derive(Debug)]
pub enum Beside<T> {
    /// Under way.
    Thread(JoinHandle<Option<T>>),
    /// Done.
    Done(T),
}

impl<T: Send + 'static> Beside<T> {
    /// Does `work` with `input` on a new thread, or here and now if none can be started.
    pub fn run<I: Send + 'static>(input: I, work: fn(I) -> T) -> Self {
        let (sender, receiver) = channel();
        // The input follows once there is a thread for it.
        match beside(move || receiver.recv().ok().map(work)) {
            None => Self::Done(work(input)),
            Some(thread) => {
                // The thread waits for it.
                let _ = sender.send(input);
                Self::Thread(thread)
            }
        }
    }

    /// Waits for the result; none if the thread panicked.
    pub fn join(self) -> Option<T> {
        match self {
            Self::Thread(thread) => thread.join().ok().flatten(),
            Self::Done(result) => Some(result),
        }
    }
}
