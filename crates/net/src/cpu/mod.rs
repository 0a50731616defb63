//! The CPU kernels. Everything `unsafe` of this crate lies in this folder.
#![expect(
    unsafe_code,
    reason = "vector instructions behind a run-time check, and pointers whose bounds are asserted once per call"
)]

pub(crate) mod linear;
pub(crate) mod outer;
pub(crate) mod peak;
pub(crate) mod simd;

/// A pointer that the parallel tasks of one call share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<T>(pub T);

// SAFETY: the kernels hand every task its own output voxels, so that no two tasks write the same lane, and nobody
// writes what is read meanwhile; the front functions hold the borrows of all buffers until the call ends.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}
