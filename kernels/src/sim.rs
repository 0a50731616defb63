//! The simulator: the same unmodified kernels, on the CPU.
//!
//! One fiber for each thread of a block (`sim/` has the C++ half). Work is done when it is called for, except while a
//! stream is captured. What a card would do silently wrong is an error here: see the README for what is found.
#![expect(unsafe_code, reason = "calls C++, and moves bytes by address")]

mod machine;
mod state;

use crate::driver::{Card, Driver, EventId, GraphId, Launch, Memory, Pointer, StreamId};
use crate::error::GpuError;
use crate::gpu::{Gpu, Plain, bytes_of};
use state::{State, Work};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use machine::{Kernel, kernels};

/// Which of the threads that can go on goes on. No result may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The lowest: warps one after the other.
    Ascending,
    /// The highest, from the last block on.
    Descending,
    /// Any, as a seed says.
    Random(u64),
}

impl Order {
    /// Those that a result should be compared in.
    pub const ALL: [Self; 5] =
        [Self::Ascending, Self::Descending, Self::Random(1), Self::Random(2), Self::Random(3)];
}

/// What kind of card is simulated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimOptions {
    /// The order of threads and blocks.
    pub order: Order,
    /// Bytes of device memory.
    pub memory: u64,
    /// Threads of the machine that work on a launch.
    pub threads: u32,
    /// Most dynamic shared memory of a block, bytes.
    pub shared_memory: u32,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            order: Order::Ascending,
            memory: 8 << 30,
            threads: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            shared_memory: 99 << 10,
            capability: (8, 0),
            multiprocessors: 4,
        }
    }
}

impl Gpu {
    /// The simulator.
    #[must_use]
    pub fn sim(options: SimOptions) -> Self {
        Self::new(Arc::new(Simulator::new(options)))
    }
}

/// What `run` makes of a card, the same in every order of threads and blocks.
///
/// # Panics
/// If some order gives something else: then threads or blocks race.
#[must_use]
pub fn in_every_order<T: Plain + Debug>(
    options: SimOptions,
    run: impl Fn(&Gpu) -> Vec<T>,
) -> Vec<T> {
    let in_order = |order| run(&Gpu::sim(SimOptions { order, ..options }));
    let [first, others @ ..] = Order::ALL;
    let expected = in_order(first);
    for order in others {
        let result = in_order(order);
        assert_eq!(expected.len(), result.len(), "values in order {order:?}");
        // As bytes: NaN is equal to itself.
        let differs = (0..result.len()).find(|&i| {
            bytes_of(std::slice::from_ref(&expected[i]))
                != bytes_of(std::slice::from_ref(&result[i]))
        });
        if let Some(i) = differs {
            panic!(
                "value {i} is {:?} in order {first:?}, {:?} in {order:?}",
                expected[i], result[i]
            );
        }
    }
    expected
}

/// A [`Driver`] that runs kernels on the CPU.
#[derive(Debug)]
pub struct Simulator {
    card: Card,
    options: SimOptions,
    state: Mutex<State>,
}

impl Simulator {
    /// A card with nothing on it.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        let card = Card {
            name: "simulator".to_owned(),
            capability: options.capability,
            multiprocessors: options.multiprocessors,
            shared_memory: options.shared_memory,
        };
        Self { card, options, state: Mutex::new(State::new(options.memory)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it, or writes it down if the stream is being captured.
    fn submit(&self, stream: StreamId, work: Work) -> Result<(), GpuError> {
        let mut state = self.state();
        state.check(&work)?;
        if let Some(recording) = state.recording(stream)? {
            recording.push(work);
            return Ok(());
        }
        drop(state);
        self.run(&work)
    }

    fn run(&self, work: &Work) -> Result<(), GpuError> {
        self.state().check(work)?;
        match work {
            Work::Launch { launch, arguments } => {
                machine::launch(launch, arguments, &self.options)?;
                let intact = self.state().intact();
                intact.map_err(|found| machine::call_error(launch.kernel, found))
            }
            Work::Copy { from, to, bytes } => {
                // SAFETY: both ranges are in live allocations, as was checked; `copy` allows them to overlap.
                unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, *bytes) };
                Ok(())
            }
            Work::Fill { to, value, bytes } => {
                // SAFETY: the range is in a live allocation, as was checked.
                unsafe { std::ptr::write_bytes(to.0 as *mut u8, *value, *bytes) };
                Ok(())
            }
            Work::Upload { from, to, bytes } => {
                // SAFETY: the device's range is in a live allocation, the host's in a live pinned one, as was checked.
                unsafe { std::ptr::copy(*from as *const u8, to.0 as *mut u8, *bytes) };
                Ok(())
            }
        }
    }
}

impl Driver for Simulator {
    fn card(&self) -> &Card {
        &self.card
    }

    fn memory(&self) -> Result<Memory, GpuError> {
        Ok(self.state().memory())
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer, GpuError> {
        self.state().allocate(bytes)
    }

    fn free(&self, pointer: Pointer) {
        self.state().free(pointer);
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError> {
        self.state().allocate_pinned(bytes)
    }

    unsafe fn free_pinned(&self, address: *mut u8) {
        self.state().free_pinned(address as usize);
    }

    fn stream(&self) -> Result<StreamId, GpuError> {
        Ok(self.state().stream())
    }

    fn free_stream(&self, stream: StreamId) {
        self.state().free_stream(stream);
    }

    fn upload(
        &self,
        stream: StreamId,
        to: Pointer,
        from: &[u8],
        pinned: bool,
    ) -> Result<(), GpuError> {
        let mut state = self.state();
        state.range("upload to", to, from.len())?;
        if pinned {
            drop(state);
            let from_address = from.as_ptr() as usize;
            return self.submit(stream, Work::Upload { from: from_address, to, bytes: from.len() });
        }
        state.not_captured(stream, "an upload from memory that is not pinned")?;
        // SAFETY: the range is in a live allocation, as was checked, which no Rust reference points into.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.0 as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, stream: StreamId, from: Pointer, to: &mut [u8]) -> Result<(), GpuError> {
        let mut state = self.state();
        state.range("download from", from, to.len())?;
        state.not_captured(stream, "a download")?;
        // SAFETY: the range is in a live allocation, as was checked, which no Rust reference points into.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(
        &self,
        stream: StreamId,
        from: Pointer,
        to: Pointer,
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.submit(stream, Work::Copy { from, to, bytes })
    }

    fn fill(&self, stream: StreamId, to: Pointer, value: u8, bytes: usize) -> Result<(), GpuError> {
        self.submit(stream, Work::Fill { to, value, bytes })
    }

    fn launch(&self, stream: StreamId, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError> {
        self.submit(stream, Work::Launch { launch: *launch, arguments: arguments.to_vec() })
    }

    fn record(&self, stream: StreamId) -> Result<EventId, GpuError> {
        self.state().record(stream)
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), GpuError> {
        self.state().wait(stream, event)
    }

    fn elapsed(&self, from: EventId, to: EventId) -> Result<f64, GpuError> {
        self.state().elapsed(from, to)
    }

    fn free_event(&self, event: EventId) {
        self.state().free_event(event);
    }

    fn synchronise(&self, stream: StreamId) -> Result<(), GpuError> {
        self.state().not_captured(stream, "waiting for a stream")
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), GpuError> {
        self.state().begin_capture(stream)
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, GpuError> {
        self.state().end_capture(stream)
    }

    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), GpuError> {
        let work = self.state().replay(stream, graph)?;
        work.iter().try_for_each(|work| self.run(work))
    }

    fn free_graph(&self, graph: GraphId) {
        self.state().free_graph(graph);
    }
}
