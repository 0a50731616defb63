//! The narrow interface under the CUDA engine.

use crate::GpuError;
use std::fmt::Debug;

/// A place in device memory: an address, 0 for none. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Pointer(pub u64);

impl Pointer {
    /// So many bytes further.
    #[must_use]
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A queue of work; [`Driver`]s number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

/// A mark in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId(pub u32);

/// Recorded work that can be launched at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GraphId(pub u32);

/// What is known of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Such as `NVIDIA H100 80GB HBM3`; `simulator` for the simulator.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Most dynamic shared memory of a block, bytes, after asking for it.
    pub shared_memory: u32,
}

/// Bytes of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Not in use by anyone.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// A launch without its arguments. Blocks are one-dimensional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Blocks along x, y, z; none may be 0.
    pub grid: [u32; 3],
    /// Threads of a block, as the kernel's `KERNEL` line says.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// What the engine needs of a card. Work on a stream runs in order, and later than the call; addresses must stay
/// valid until then. Copies between host and device return when the host's side may be used again.
pub trait Driver: Debug + Send + Sync {
    /// The card.
    fn card(&self) -> &Card;
    /// How much memory is left.
    fn memory(&self) -> Result<Memory, GpuError>;
    /// Takes memory, aligned to 256 bytes.
    fn allocate(&self, bytes: usize) -> Result<Pointer, GpuError>;
    /// Gives it back. Work that uses it must be done.
    fn free(&self, pointer: Pointer);
    /// Pinned memory of the host, as an address of this process, aligned to 64 bytes.
    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError>;
    /// Gives it back.
    ///
    /// # Safety
    /// The address is from [`Driver::allocate_pinned`] and not used any more.
    #[expect(unsafe_code, reason = "host memory by address")]
    unsafe fn free_pinned(&self, address: *mut u8);
    /// A new queue.
    fn stream(&self) -> Result<StreamId, GpuError>;
    /// Ends a queue, once its work is done.
    fn free_stream(&self, stream: StreamId);
    /// From the host; returns when `from` was read. From pinned memory it doesn't wait for the stream:
    /// `from` must then stay as it is until the stream has come past.
    fn upload(
        &self,
        stream: StreamId,
        to: Pointer,
        from: &[u8],
        pinned: bool,
    ) -> Result<(), GpuError>;
    /// To the host; waits for the stream.
    fn download(&self, stream: StreamId, from: Pointer, to: &mut [u8]) -> Result<(), GpuError>;
    /// Within the device.
    fn copy(
        &self,
        stream: StreamId,
        from: Pointer,
        to: Pointer,
        bytes: usize,
    ) -> Result<(), GpuError>;
    /// Sets bytes.
    fn fill(&self, stream: StreamId, to: Pointer, value: u8, bytes: usize) -> Result<(), GpuError>;
    /// Starts a kernel with the bytes of its argument struct.
    fn launch(&self, stream: StreamId, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError>;
    /// Marks the queue's present end.
    fn record(&self, stream: StreamId) -> Result<EventId, GpuError>;
    /// Lets a queue wait for a mark in another.
    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), GpuError>;
    /// Seconds between two marks that have been passed.
    fn elapsed(&self, from: EventId, to: EventId) -> Result<f64, GpuError>;
    /// Ends a mark.
    fn free_event(&self, event: EventId);
    /// Waits until the queue is empty, and reports what failed in it.
    fn synchronise(&self, stream: StreamId) -> Result<(), GpuError>;
    /// From here on, work on the stream is recorded instead of run.
    fn begin_capture(&self, stream: StreamId) -> Result<(), GpuError>;
    /// Ends the recording.
    fn end_capture(&self, stream: StreamId) -> Result<GraphId, GpuError>;
    /// Runs a recording.
    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), GpuError>;
    /// Ends a recording's life.
    fn free_graph(&self, graph: GraphId);
}
