//! Owned handles over a [`Driver`].
#![expect(unsafe_code, reason = "plain data to bytes and back")]

use crate::driver::{Card, Driver, EventId, GraphId, Launch, Memory, Pointer, StreamId};
use crate::error::GpuError;
use std::sync::Arc;

/// Numbers that any bytes are a value of, and that have no gaps.
///
/// # Safety
/// Exactly that.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: a primitive number.
        unsafe impl Plain for $type {}
    )* };
}
plain!(u8, i16, u16, i32, u32, f32, u64, i64, f64);

/// The argument struct of a kernel: `repr(C)`, fields as in the `.cu` file. Made by [`crate::arguments`].
///
/// # Safety
/// The layout is that of the kernel's struct.
pub unsafe trait Arguments: Copy + 'static {}

/// Declares the Rust twin of a kernel's argument struct. Padding between fields must be written out as fields.
#[macro_export]
macro_rules! arguments {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        $visibility struct $name { $($(#[$field_meta])* pub $field: $type),* }
        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$type>())*,
            "an argument struct has padding that is not written out"
        );
        #[allow(unsafe_code, reason = "declares the layout")]
        // SAFETY: `repr(C)` without padding; the fields are held against the kernel's struct by the tests that launch it.
        unsafe impl $crate::Arguments for $name {}
    };
}

pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no gaps.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` has no gaps, and any bytes are values.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A card, or the simulator.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<dyn Driver>);

impl Gpu {
    /// Over a driver.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self(driver)
    }

    /// What it is.
    pub fn card(&self) -> &Card {
        self.0.card()
    }

    /// How much memory is left.
    ///
    /// # Errors
    /// If the driver doesn't tell.
    pub fn memory(&self) -> Result<Memory, GpuError> {
        self.0.memory()
    }

    /// Takes memory; its content is undefined.
    ///
    /// # Errors
    /// [`GpuError::Memory`] if there isn't as much.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, GpuError> {
        let pointer = self.0.allocate(bytes.max(1))?;
        Ok(Buffer { driver: self.0.clone(), pointer, bytes })
    }

    /// Takes pinned memory of the host; its content is undefined.
    ///
    /// # Errors
    /// If there isn't as much.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        let address = self.0.allocate_pinned(bytes.max(1))?;
        Ok(Pinned { driver: self.0.clone(), address, bytes })
    }

    /// A new queue.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn stream(&self) -> Result<Stream, GpuError> {
        Ok(Stream { id: self.0.stream()?, driver: self.0.clone() })
    }
}

/// Device memory, given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    driver: Arc<dyn Driver>,
    pointer: Pointer,
    bytes: usize,
}

impl Buffer {
    /// Where it begins.
    pub fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.driver.free(self.pointer);
    }
}

/// Pinned memory of the host, which the card reads while the program goes on; given back when dropped.
#[derive(Debug)]
pub struct Pinned {
    driver: Arc<dyn Driver>,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: the address is this value's alone, and any thread may use it.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared, it is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `values` to byte `at`. Uploads from there must be done.
    ///
    /// # Panics
    /// If they go beyond the end.
    pub fn write<T: Plain>(&mut self, at: usize, values: &[T]) {
        let from = bytes_of(values);
        assert!(
            at.checked_add(from.len()).is_some_and(|end| end <= self.bytes),
            "a write past pinned memory's end"
        );
        // SAFETY: within the allocation, as asserted, which `values` is no part of.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.address.add(at), from.len()) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: from `allocate_pinned`, and this value's alone.
        unsafe { self.driver.free_pinned(self.address) };
    }
}

/// A queue of work.
#[derive(Debug)]
pub struct Stream {
    driver: Arc<dyn Driver>,
    id: StreamId,
}

impl Stream {
    /// Starts a kernel.
    ///
    /// # Errors
    /// If there is no such kernel or the launch is refused. What fails while it runs is reported by a later call.
    pub fn launch<A: Arguments>(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &A,
    ) -> Result<(), GpuError> {
        // SAFETY: `Arguments` are plain data without gaps.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(arguments).cast(), size_of::<A>())
        };
        self.driver.launch(self.id, &Launch { kernel, grid, threads, shared }, bytes)
    }

    /// From the host; returns when `from` was read.
    ///
    /// # Errors
    /// If the driver fails, here or in earlier work.
    pub fn upload<T: Plain>(&self, to: Pointer, from: &[T]) -> Result<(), GpuError> {
        self.driver.upload(self.id, to, bytes_of(from), false)
    }

    /// The first `bytes` of pinned memory. Doesn't wait: `from` must stay as it is until the stream has come past.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn upload_pinned(&self, to: Pointer, from: &Pinned, bytes: usize) -> Result<(), GpuError> {
        assert!(bytes <= from.bytes, "an upload past pinned memory's end");
        // SAFETY: within the allocation, as asserted; nothing writes to it while it is borrowed.
        let from = unsafe { std::slice::from_raw_parts(from.address, bytes) };
        self.driver.upload(self.id, to, from, true)
    }

    /// To the host; waits for all work of this stream.
    ///
    /// # Errors
    /// If the driver fails, here or in earlier work.
    pub fn download<T: Plain>(&self, from: Pointer, to: &mut [T]) -> Result<(), GpuError> {
        self.driver.download(self.id, from, bytes_of_mut(to))
    }

    /// Within the device.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn copy(&self, from: Pointer, to: Pointer, bytes: usize) -> Result<(), GpuError> {
        self.driver.copy(self.id, from, to, bytes)
    }

    /// Sets bytes.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn fill(&self, to: Pointer, value: u8, bytes: usize) -> Result<(), GpuError> {
        self.driver.fill(self.id, to, value, bytes)
    }

    /// Marks the queue's present end.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn record(&self) -> Result<Event, GpuError> {
        Ok(Event { id: self.driver.record(self.id)?, driver: self.driver.clone() })
    }

    /// Later work of this queue waits for a mark of another.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn wait(&self, event: &Event) -> Result<(), GpuError> {
        self.driver.wait(self.id, event.id)
    }

    /// Waits until the queue is empty.
    ///
    /// # Errors
    /// What failed in it.
    pub fn synchronise(&self) -> Result<(), GpuError> {
        self.driver.synchronise(self.id)
    }

    /// Records what `work` puts into this queue instead of running it.
    ///
    /// # Errors
    /// Those of `work`, and if the driver fails.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<Graph, GpuError> {
        self.driver.begin_capture(self.id)?;
        let done = work();
        // The capture must end, whatever happened.
        let graph = self.driver.end_capture(self.id);
        let graph = graph.map(|id| Graph { id, driver: self.driver.clone() });
        done?;
        graph
    }

    /// Runs a recording.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn replay(&self, graph: &Graph) -> Result<(), GpuError> {
        self.driver.replay(self.id, graph.id)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.free_stream(self.id);
    }
}

/// A mark in a queue.
#[derive(Debug)]
pub struct Event {
    driver: Arc<dyn Driver>,
    id: EventId,
}

impl Event {
    /// Seconds from `earlier` to this mark; both must have been passed.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn since(&self, earlier: &Self) -> Result<f64, GpuError> {
        self.driver.elapsed(earlier.id, self.id)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.driver.free_event(self.id);
    }
}

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    driver: Arc<dyn Driver>,
    id: GraphId,
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.driver.free_graph(self.id);
    }
}
