//! The engine of the CPU: one set of drivers over the kinds of numbers ([`format`]) and the instruction sets ([`unit`]).
//!
//! Activations are f32, bfloat16, or sums of two bfloat16; everything else (sums, norms' statistics, loss, parameters) is
//! f32 or f64. A driver says where chunks of 64 bytes lie, a unit multiplies them; norms, pooling and their like are
//! written once and compiled for each vector width ([`vector::compiled`]).
#![expect(
    unsafe_code,
    reason = "vector and matrix instructions behind a run-time check, and pointers whose bounds are asserted once per call"
)]

pub(crate) mod convolution;
pub(crate) mod engine;
pub(crate) mod first;
pub(crate) mod format;
pub(crate) mod grid;
pub(crate) mod head;
pub(crate) mod level;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod outer;
pub(crate) mod packing;
pub(crate) mod peak;
pub(crate) mod pool;
pub(crate) mod residual;
#[cfg(test)]
mod tests;
mod transpose;
pub(crate) mod unit;
pub(crate) mod vector;

/// A pointer that the parallel tasks of one call share.
#[derive(Debug)]
pub(crate) struct Shared<T>(*mut T);

impl<T> Shared<T> {
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the drivers hand every task its own voxels, so that no two tasks write the same, and nobody writes what is read
// meanwhile; they hold the borrows of all buffers until the call ends.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}
