//! How much memory a target holds at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Memory for inputs of any size: tables, thread pools, a decompressor's window.
pub const FLOOR: usize = 16 << 20;
/// Memory per byte of input.
pub const TIMES: usize = 64;

/// Bytes that a target may hold at a time beside its input.
pub fn allowed(input: usize) -> usize {
    FLOOR.max(TIMES * input)
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The largest peak of all calls of [`watch`].
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts.
struct Meter;

#[global_allocator]
static ALLOCATOR: Meter = Meter;

fn more(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(live, Relaxed);
}

#[expect(unsafe_code, reason = "the only way to see what is allocated")]
// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: same contract as ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: same contract as ours.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new block can be there at once.
        more(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: same contract as ours.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: same contract as ours.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Calls `target` on an input of so many bytes.
///
/// # Panics
/// If it held more memory than [`allowed`].
pub fn watch(input: usize, target: impl FnOnce()) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    target();
    let held = PEAK.load(Relaxed).saturating_sub(before);
    LARGEST.fetch_max(held, Relaxed);
    let most = allowed(input);
    assert!(held <= most, "held {held} bytes for an input of {input}, allowed are {most}");
}

/// Forgets and returns the largest amount that any call of [`watch`] held.
pub fn largest() -> usize {
    LARGEST.swap(0, Relaxed)
}
