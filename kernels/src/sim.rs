//! The simulator: the same unmodified kernels, on the CPU.
//!
//! One fiber for each thread of a block (`sim/` has the C++ half). What a card would do silently wrong is an error
//! here: see the README for what is found.
#![expect(unsafe_code, reason = "calls C++, and moves bytes by address")]

mod machine;
mod memory;
mod streams;

use crate::driver::{Card, Driver, EventId, GraphId, Launch, Memory, Pointer, StreamId};
use crate::error::GpuError;
use crate::gpu::{Gpu, Plain, bytes_of};
use memory::Allocations;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use streams::{Goal, Streams, Work};

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

/// When streams do their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When it is called for.
    AtOnce,
    /// When something waits for it. Of the streams that can go on then, some go far ahead of others, as a seed says:
    /// what doesn't wait for an event comes too early or too late. Errors come late, too.
    Later(u64),
}

/// What kind of card is simulated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimOptions {
    /// The order of threads and blocks.
    pub order: Order,
    /// When streams do their work.
    pub pace: Pace,
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
            pace: Pace::AtOnce,
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

/// What `run` makes of a card, the same in every order of threads and blocks, and of streams.
///
/// # Panics
/// If some order gives something else: then threads, blocks or streams race.
#[must_use]
pub fn in_every_order<T: Plain + Debug>(
    options: SimOptions,
    run: impl Fn(&Gpu) -> Vec<T>,
) -> Vec<T> {
    let in_order = |order| {
        let pace = if let Order::Random(seed) = order { Pace::Later(seed) } else { options.pace };
        run(&Gpu::sim(SimOptions { order, pace, ..options }))
    };
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
    /// Held by who does work that waited.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct State {
    allocations: Allocations,
    streams: Streams,
    /// What went wrong where no error could be given back.
    fault: Option<GpuError>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let later = match options.pace {
            Pace::AtOnce => None,
            Pace::Later(seed) => Some(seed),
        };
        let state = State {
            allocations: Allocations::new(options.memory),
            streams: Streams::new(later),
            fault: None,
        };
        Self { card, options, state: Mutex::new(state), turn: Mutex::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Does it, or writes it down.
    fn submit(&self, stream: StreamId, work: Work) -> Result<(), GpuError> {
        if let Work::Launch { launch, arguments } = &work {
            machine::check(launch, arguments, &self.options)?;
        }
        let mut state = self.state();
        state.allocations.check(&work)?;
        let now = state.streams.put(stream, work)?;
        drop(state);
        now.map_or(Ok(()), |work| self.run(&work))
    }

    fn run(&self, work: &Work) -> Result<(), GpuError> {
        self.state().allocations.check(work)?;
        match work {
            Work::Launch { launch, arguments } => {
                let card = self.state().allocations.card;
                machine::launch(launch, arguments, &self.options, card)?;
                let intact = self.state().allocations.intact();
                return intact.map_err(|found| machine::call_error(launch.kernel, found));
            }
            Work::Copy { from, to, bytes } => {
                // SAFETY: both ranges are in live allocations, as was checked; `copy` allows them to overlap.
                unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, *bytes) };
            }
            Work::Fill { to, value, bytes } => {
                // SAFETY: the range is in a live allocation, as was checked.
                unsafe { std::ptr::write_bytes(to.0 as *mut u8, *value, *bytes) };
            }
            Work::Write { to, data } => {
                // SAFETY: the range is in a live allocation, as was checked, which `data` is no part of.
                unsafe {
                    std::ptr::copy_nonoverlapping(data.as_ptr(), to.0 as *mut u8, data.len());
                }
            }
            Work::Upload { from, to, bytes } => {
                // SAFETY: the device's range is in a live allocation, the host's in a live pinned one, as was checked.
                unsafe { std::ptr::copy(*from as *const u8, to.0 as *mut u8, *bytes) };
            }
        }
        Ok(())
    }

    /// Does what waits, as far as something waits for it.
    fn reach(&self, goal: Goal) -> Result<(), GpuError> {
        let _turn = lock(&self.turn);
        loop {
            let mut state = self.state();
            let fault = state.fault.take();
            let next = fault.map_or_else(|| state.streams.next(goal), Err);
            drop(state);
            let done = match next {
                Ok(None) => return Ok(()),
                Ok(Some(work)) => self.run(&work),
                Err(fault) => Err(fault),
            };
            done.inspect_err(|_| self.state().streams.clear())?;
        }
    }

    /// Memory that is given back is not to be used by work that waits.
    fn refuse_use(state: &mut State, address: u64) {
        let bytes = state.allocations.bytes(address).unwrap_or(0);
        if state.streams.uses(address, bytes) {
            let reason = format!("of {bytes} bytes, which work that is not done uses");
            state.fault.get_or_insert(memory::refused("free", reason));
        }
    }
}

impl Driver for Simulator {
    fn card(&self) -> &Card {
        &self.card
    }

    fn memory(&self) -> Result<Memory, GpuError> {
        Ok(self.state().allocations.memory())
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer, GpuError> {
        let mut state = self.state();
        state.streams.nothing_captured("taking memory")?;
        state.allocations.allocate(bytes)
    }

    fn free(&self, pointer: Pointer) {
        let mut state = self.state();
        Self::refuse_use(&mut state, pointer.0);
        state.allocations.free(pointer);
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError> {
        let mut state = self.state();
        state.streams.nothing_captured("taking pinned memory")?;
        state.allocations.allocate_pinned(bytes)
    }

    unsafe fn free_pinned(&self, address: *mut u8) {
        let mut state = self.state();
        Self::refuse_use(&mut state, address as u64);
        state.allocations.free_pinned(address as u64);
    }

    fn stream(&self) -> Result<StreamId, GpuError> {
        Ok(self.state().streams.add())
    }

    fn free_stream(&self, stream: StreamId) {
        let done = self.reach(Goal::Empty(stream));
        let mut state = self.state();
        if let Err(fault) = done {
            state.fault.get_or_insert(fault);
        }
        state.streams.remove(stream);
    }

    fn upload(
        &self,
        stream: StreamId,
        to: Pointer,
        from: &[u8],
        pinned: bool,
    ) -> Result<(), GpuError> {
        if pinned {
            let from_address = from.as_ptr() as u64;
            return self.submit(stream, Work::Upload { from: from_address, to, bytes: from.len() });
        }
        self.state().streams.not_captured(stream, "an upload from memory that is not pinned")?;
        self.submit(stream, Work::Write { to, data: from.to_vec() })
    }

    fn download(&self, stream: StreamId, from: Pointer, to: &mut [u8]) -> Result<(), GpuError> {
        let mut state = self.state();
        state.streams.not_captured(stream, "a download")?;
        state.allocations.range("download from", from, to.len())?;
        drop(state);
        self.reach(Goal::Empty(stream))?;
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
        self.state().streams.record(stream)
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), GpuError> {
        self.state().streams.wait(stream, event)
    }

    fn elapsed(&self, from: EventId, to: EventId) -> Result<f64, GpuError> {
        self.reach(Goal::Passed(from))?;
        self.reach(Goal::Passed(to))?;
        self.state().streams.elapsed(from, to)
    }

    fn free_event(&self, event: EventId) {
        self.state().streams.free_event(event);
    }

    fn synchronise(&self, stream: StreamId) -> Result<(), GpuError> {
        self.state().streams.not_captured(stream, "waiting for a stream")?;
        self.reach(Goal::Empty(stream))
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), GpuError> {
        self.state().streams.begin_capture(stream)
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, GpuError> {
        self.state().streams.end_capture(stream)
    }

    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), GpuError> {
        let work = self.state().streams.graph(stream, graph)?;
        work.into_iter().try_for_each(|work| self.submit(stream, work))
    }

    fn free_graph(&self, graph: GraphId) {
        self.state().streams.free_graph(graph);
    }
}
