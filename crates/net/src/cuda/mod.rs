//! The CUDA engine's operations: plain functions over device tensors, each a launch or a few of the kernels in
//! `kernels/*.cu`. Shapes are asserted here, the kernels assume them.

pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod pool;
mod ranges;
pub(crate) mod residual;
pub(crate) mod tensor;
pub(crate) mod transfer;
pub(crate) mod window;

#[cfg(test)]
mod tests;

use kernels::{Arguments, Buffer, Gpu, GpuError, Pointer, Stream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tensor::Element;

/// Where and how the operations run. Work is queued; a failure is kept and told by [`Context::check`], so that the
/// passes read as on the CPU.
#[derive(Debug)]
pub(crate) struct Context {
    pub gpu: Gpu,
    pub stream: Stream,
    /// Of activations and their gradients.
    pub element: Element,
    scratch: Mutex<Option<Buffer>>,
    failed: Mutex<Option<GpuError>>,
    /// How often memory that recorded work may point to was replaced.
    moves: AtomicU64,
}

impl Context {
    pub(crate) fn new(gpu: Gpu, element: Element) -> Result<Self, GpuError> {
        let stream = gpu.stream()?;
        Ok(Self {
            gpu,
            stream,
            element,
            scratch: Mutex::new(None),
            failed: Mutex::new(None),
            moves: AtomicU64::new(0),
        })
    }

    /// Starts a kernel of one-dimensional blocks.
    pub(crate) fn launch<A: Arguments>(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
        arguments: &A,
    ) {
        let grid = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        self.keep(self.stream.launch(kernel, grid, threads, shared, arguments));
    }

    /// Memory that lasts until the next operation asks for scratch. Grown by [`Context::reserve`] alone: an iteration
    /// allocates nothing.
    pub(crate) fn scratch(&self, bytes: usize) -> Pointer {
        let scratch = lock(&self.scratch);
        let found = scratch.as_ref().map_or(0, Buffer::bytes);
        assert!(bytes <= found, "scratch of {bytes} bytes was planned as {found}");
        scratch.as_ref().map_or(Pointer::default(), Buffer::pointer)
    }

    /// Makes scratch at least this large.
    pub(crate) fn reserve(&self, bytes: usize) {
        let mut scratch = lock(&self.scratch);
        if scratch.as_ref().is_none_or(|b| b.bytes() < bytes) {
            // Work that uses the old one must be done before it is given back.
            self.keep(self.stream.synchronise());
            self.moved();
            *scratch = None;
            match self.gpu.buffer(bytes) {
                Ok(buffer) => *scratch = Some(buffer),
                Err(error) => self.keep(Err(error)),
            }
        }
    }

    /// Memory that recorded work may point to is replaced: recordings made before are void.
    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever recordings become void.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Keeps the first failure.
    pub(crate) fn keep(&self, result: Result<(), GpuError>) {
        if let Err(error) = result {
            lock(&self.failed).get_or_insert(error);
        }
    }

    /// The first failure since the last call.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        lock(&self.failed).take().map_or(Ok(()), Err)
    }
}

/// A poisoned lock means that a thread panicked; the panic is the news.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
