//! Memory, streams, marks and recordings.

use super::machine;
use crate::driver::{EventId, GraphId, Launch, Memory, Pointer, StreamId};
use crate::error::GpuError;
use std::collections::BTreeMap;
use std::time::Instant;

/// CUDA's allocations begin and end at multiples of this.
const GRAIN: u64 = 256;

/// What a stream can be asked to do.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// A kernel.
    Launch { launch: Launch, arguments: Vec<u8> },
    /// Within the device.
    Copy { from: Pointer, to: Pointer, bytes: usize },
    /// Sets bytes.
    Fill { to: Pointer, value: u8, bytes: usize },
    /// From pinned memory, by address.
    Upload { from: usize, to: Pointer, bytes: usize },
}

/// A mark: when it was passed, or the capture that it belongs to.
#[derive(Debug, Clone, Copy)]
enum Mark {
    Passed(Instant),
    /// In the capture that began on `origin`; `work` pieces of `stream` lie before it.
    Captured {
        origin: u32,
        stream: u32,
        serial: u64,
    },
}

/// A stream that takes part in a capture.
#[derive(Debug, Clone, Copy)]
struct Part {
    origin: u32,
    /// Counts what was put into the stream since it takes part.
    serial: u64,
    /// Up to where the origin waits for it.
    joined: u64,
}

#[derive(Debug, Default)]
struct Queue {
    part: Option<Part>,
    /// Of a capture that began here.
    recorded: Vec<Work>,
}

/// The state of a simulated card.
#[derive(Debug)]
pub(super) struct State {
    total: u64,
    used: u64,
    allocations: BTreeMap<u64, usize>,
    pinned: BTreeMap<usize, usize>,
    streams: BTreeMap<u32, Queue>,
    events: BTreeMap<u32, Mark>,
    graphs: BTreeMap<u32, Vec<Work>>,
    numbered: u32,
}

fn refused(call: &str, reason: impl Into<String>) -> GpuError {
    GpuError::Call { call: call.to_owned(), reason: reason.into() }
}

impl State {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            used: 0,
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            graphs: BTreeMap::new(),
            numbered: 0,
        }
    }

    fn number(&mut self) -> u32 {
        self.numbered += 1;
        self.numbered
    }

    pub(super) fn memory(&self) -> Memory {
        Memory { free: self.total - self.used, total: self.total }
    }

    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Pointer, GpuError> {
        self.nothing_captured("taking memory")?;
        let out_of_memory = |state: &Self| GpuError::Memory {
            what: "an allocation".to_owned(),
            wanted: bytes as u64,
            free: state.memory().free,
            way_out: "simulate a card with more memory".to_owned(),
        };
        let size = (bytes as u64).max(1).checked_next_multiple_of(GRAIN);
        let size = size.filter(|size| *size <= self.memory().free).ok_or(out_of_memory(self))?;
        let address = machine::allocate(bytes).ok_or(out_of_memory(self))?;
        self.used += size;
        self.allocations.insert(address, bytes);
        Ok(Pointer(address))
    }

    pub(super) fn free(&mut self, pointer: Pointer) {
        let bytes = self.allocations.remove(&pointer.0).expect("the address of an allocation");
        self.used -= (bytes as u64).max(1).next_multiple_of(GRAIN);
        // SAFETY: it was in the map, so it is from `allocate` and wasn't given back.
        unsafe { machine::free(pointer.0, bytes) };
    }

    pub(super) fn allocate_pinned(&mut self, bytes: usize) -> Result<*mut u8, GpuError> {
        self.nothing_captured("taking pinned memory")?;
        let address = machine::allocate(bytes)
            .ok_or_else(|| refused("pinned memory", format!("{bytes} bytes are not there")))?;
        self.pinned.insert(address as usize, bytes);
        Ok(address as *mut u8)
    }

    pub(super) fn free_pinned(&mut self, address: usize) {
        let bytes = self.pinned.remove(&address).expect("the address of a pinned allocation");
        // SAFETY: it was in the map, so it is from `allocate` and wasn't given back.
        unsafe { machine::free(address as u64, bytes) };
    }

    /// Refuses ranges that aren't in an allocation.
    pub(super) fn range(&self, what: &str, pointer: Pointer, bytes: usize) -> Result<(), GpuError> {
        let within =
            self.allocations.range(..=pointer.0).next_back().is_some_and(|(start, size)| {
                let offset = pointer.0 - start;
                (*size as u64).checked_sub(offset).is_some_and(|rest| bytes as u64 <= rest)
            });
        if within || bytes == 0 {
            return Ok(());
        }
        Err(refused(what, format!("{bytes} bytes at {:#x} are not in an allocation", pointer.0)))
    }

    /// Reports what a kernel wrote outside of allocations, as far as it is seen.
    pub(super) fn intact(&self) -> Result<(), String> {
        for (&address, &bytes) in &self.allocations {
            // SAFETY: in the map, so from `allocate`.
            if let Some(offset) = unsafe { machine::written_outside(address, bytes) } {
                return Err(format!("byte {offset} of an allocation of {bytes} was written"));
            }
        }
        Ok(())
    }

    /// Refuses work on memory that isn't there.
    pub(super) fn check(&self, work: &Work) -> Result<(), GpuError> {
        match work {
            Work::Launch { .. } => Ok(()),
            Work::Copy { from, to, bytes } => {
                self.range("copy from", *from, *bytes)?;
                self.range("copy to", *to, *bytes)
            }
            Work::Fill { to, bytes, .. } => self.range("fill", *to, *bytes),
            Work::Upload { from, to, bytes } => {
                self.range("upload to", *to, *bytes)?;
                let pinned = self.pinned.range(..=*from).next_back();
                let within = pinned.is_some_and(|(start, size)| from - start + bytes <= *size);
                if within || *bytes == 0 {
                    return Ok(());
                }
                Err(refused("upload from", "the memory is not pinned (any more)"))
            }
        }
    }

    fn queue(&mut self, stream: StreamId) -> Result<&mut Queue, GpuError> {
        self.streams.get_mut(&stream.0).ok_or_else(|| refused("stream", "there is no such stream"))
    }

    pub(super) fn stream(&mut self) -> StreamId {
        let id = self.number();
        self.streams.insert(id, Queue::default());
        StreamId(id)
    }

    pub(super) fn free_stream(&mut self, stream: StreamId) {
        self.streams.remove(&stream.0);
    }

    /// Where work on a stream is to be written down, if it is captured.
    pub(super) fn recording(
        &mut self,
        stream: StreamId,
    ) -> Result<Option<&mut Vec<Work>>, GpuError> {
        let Some(part) = &mut self.queue(stream)?.part else { return Ok(None) };
        part.serial += 1;
        let origin = StreamId(part.origin);
        Ok(Some(&mut self.queue(origin)?.recorded))
    }

    /// What a captured stream doesn't allow.
    pub(super) fn not_captured(&mut self, stream: StreamId, what: &str) -> Result<(), GpuError> {
        if self.queue(stream)?.part.is_some() {
            return Err(refused(what, "not permitted while the stream is being captured"));
        }
        Ok(())
    }

    fn nothing_captured(&self, what: &str) -> Result<(), GpuError> {
        if self.streams.values().any(|queue| queue.part.is_some()) {
            return Err(refused(what, "not permitted while a stream is being captured"));
        }
        Ok(())
    }

    pub(super) fn record(&mut self, stream: StreamId) -> Result<EventId, GpuError> {
        let mark = match self.queue(stream)?.part {
            None => Mark::Passed(Instant::now()),
            Some(part) => {
                Mark::Captured { origin: part.origin, stream: stream.0, serial: part.serial }
            }
        };
        let id = self.number();
        self.events.insert(id, mark);
        Ok(EventId(id))
    }

    fn mark(&self, event: EventId) -> Result<Mark, GpuError> {
        self.events.get(&event.0).copied().ok_or_else(|| refused("event", "there is no such event"))
    }

    /// A stream that waits for a captured mark takes part in the capture from there on.
    pub(super) fn wait(&mut self, stream: StreamId, event: EventId) -> Result<(), GpuError> {
        let mark = self.mark(event)?;
        let part = &mut self.queue(stream)?.part;
        let (origin, from, serial) = match (mark, &part) {
            (Mark::Passed(_), None) => return Ok(()),
            (Mark::Passed(_), Some(_)) => {
                return Err(refused("wait", "a captured stream can't wait for work outside"));
            }
            (Mark::Captured { origin, stream, serial }, _) => (origin, stream, serial),
        };
        match part {
            None => *part = Some(Part { origin, serial: 1, joined: 0 }),
            Some(part) if part.origin != origin => {
                return Err(refused("wait", "the mark belongs to another capture"));
            }
            Some(part) => part.serial += 1,
        }
        if stream.0 == origin
            && let Some(part) = &mut self.queue(StreamId(from))?.part
        {
            part.joined = part.joined.max(serial);
        }
        Ok(())
    }

    pub(super) fn elapsed(&self, from: EventId, to: EventId) -> Result<f64, GpuError> {
        match (self.mark(from)?, self.mark(to)?) {
            (Mark::Passed(from), Mark::Passed(to)) => {
                Ok(if to >= from { (to - from).as_secs_f64() } else { -(from - to).as_secs_f64() })
            }
            _ => Err(refused("elapsed", "a mark in a recording has no time")),
        }
    }

    pub(super) fn free_event(&mut self, event: EventId) {
        self.events.remove(&event.0);
    }

    pub(super) fn begin_capture(&mut self, stream: StreamId) -> Result<(), GpuError> {
        self.not_captured(stream, "begin of a capture")?;
        let queue = self.queue(stream)?;
        queue.part = Some(Part { origin: stream.0, serial: 0, joined: 0 });
        queue.recorded.clear();
        Ok(())
    }

    pub(super) fn end_capture(&mut self, stream: StreamId) -> Result<GraphId, GpuError> {
        let part = self.queue(stream)?.part;
        if part.is_none_or(|part| part.origin != stream.0) {
            return Err(refused("end of a capture", "none began on this stream"));
        }
        let mut unjoined = false;
        for (id, queue) in &mut self.streams {
            if let Some(part) = queue.part.take_if(|part| part.origin == stream.0) {
                unjoined |= *id != stream.0 && part.joined < part.serial;
            }
        }
        let recorded = std::mem::take(&mut self.queue(stream)?.recorded);
        if unjoined {
            return Err(refused(
                "end of a capture",
                "a stream that takes part has work that the capture's own does not wait for",
            ));
        }
        let id = self.number();
        self.graphs.insert(id, recorded);
        Ok(GraphId(id))
    }

    pub(super) fn replay(
        &mut self,
        stream: StreamId,
        graph: GraphId,
    ) -> Result<Vec<Work>, GpuError> {
        self.not_captured(stream, "replay")?;
        self.graphs
            .get(&graph.0)
            .cloned()
            .ok_or_else(|| refused("replay", "there is no such graph"))
    }

    pub(super) fn free_graph(&mut self, graph: GraphId) {
        self.graphs.remove(&graph.0);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for (address, bytes) in std::mem::take(&mut self.allocations) {
            // SAFETY: from `allocate`; the card that it belonged to is gone.
            unsafe { machine::free(address, bytes) };
        }
        for (address, bytes) in std::mem::take(&mut self.pinned) {
            // SAFETY: as above.
            unsafe { machine::free(address as u64, bytes) };
        }
    }
}
