//! Streams, marks in them, and recordings of them.

use super::memory::refused;
use crate::driver::{EventId, GraphId, Launch, Pointer, StreamId};
use crate::error::GpuError;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// What a stream can be asked to do.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// A kernel.
    Launch { launch: Launch, arguments: Vec<u8> },
    /// Within the device.
    Copy { from: Pointer, to: Pointer, bytes: usize },
    /// Sets bytes.
    Fill { to: Pointer, value: u8, bytes: usize },
    /// From the host, as it was when it was called for.
    Write { to: Pointer, data: Vec<u8> },
    /// From pinned memory, by address, as it is when it is done.
    Upload { from: u64, to: Pointer, bytes: usize },
}

impl Work {
    /// Whether it names an address in these bytes: for kernels, as far as their arguments tell.
    fn uses(&self, address: u64, bytes: usize) -> bool {
        let within = |at: u64| at >= address && at < address + bytes as u64;
        match self {
            Self::Launch { arguments, .. } => arguments.chunks_exact(8).any(|word| {
                within(u64::from_ne_bytes(word.try_into().expect("chunks of 8 bytes")))
            }),
            Self::Copy { from, to, .. } => within(from.0) || within(to.0),
            Self::Fill { to, .. } | Self::Write { to, .. } => within(to.0),
            Self::Upload { from, to, .. } => within(*from) || within(to.0),
        }
    }
}

/// What waits in a stream.
#[derive(Debug)]
enum Item {
    Work(Work),
    /// From here on, a mark is passed.
    Mark(u32),
    /// Goes on when a mark is passed.
    Wait(u32),
}

/// A mark: when it was passed, or where it is.
#[derive(Debug, Clone, Copy)]
enum Mark {
    Passed(Instant),
    /// In a stream that hasn't come there. Others may wait for it even if it was freed.
    Ahead {
        freed: bool,
    },
    /// In the capture that began on `origin`, behind `serial` pieces of work of `stream`.
    Captured {
        origin: u32,
        stream: u32,
        serial: u64,
    },
}

/// That a stream takes part in a capture.
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
    waiting: VecDeque<Item>,
}

/// What work is done for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// A stream has nothing left to do.
    Empty(StreamId),
    /// A mark is passed.
    Passed(EventId),
}

/// All streams, marks and recordings of a card.
#[derive(Debug)]
pub(super) struct Streams {
    /// Says which streams go ahead of which; none if work is done when it is called for.
    later: Option<u64>,
    queues: BTreeMap<u32, Queue>,
    marks: BTreeMap<u32, Mark>,
    graphs: BTreeMap<u32, Vec<Work>>,
    numbered: u32,
}

impl Streams {
    pub(super) fn new(later: Option<u64>) -> Self {
        Self {
            later,
            queues: BTreeMap::new(),
            marks: BTreeMap::new(),
            graphs: BTreeMap::new(),
            numbered: 0,
        }
    }

    fn number(&mut self) -> u32 {
        self.numbered += 1;
        self.numbered
    }

    fn queue(&mut self, stream: StreamId) -> Result<&mut Queue, GpuError> {
        self.queues.get_mut(&stream.0).ok_or_else(|| refused("stream", "there is no such stream"))
    }

    pub(super) fn add(&mut self) -> StreamId {
        let id = self.number();
        self.queues.insert(id, Queue::default());
        StreamId(id)
    }

    pub(super) fn remove(&mut self, stream: StreamId) {
        self.queues.remove(&stream.0);
    }

    /// Writes work down, in a recording or for later; gives it back if it is to be done now.
    pub(super) fn put(&mut self, stream: StreamId, work: Work) -> Result<Option<Work>, GpuError> {
        let later = self.later.is_some();
        let queue = self.queue(stream)?;
        if let Some(part) = &mut queue.part {
            part.serial += 1;
            let origin = StreamId(part.origin);
            self.queue(origin)?.recorded.push(work);
        } else if later {
            queue.waiting.push_back(Item::Work(work));
        } else {
            return Ok(Some(work));
        }
        Ok(None)
    }

    fn is_reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Empty(stream) => {
                self.queues.get(&stream.0).is_none_or(|queue| queue.waiting.is_empty())
            }
            Goal::Passed(event) => !matches!(self.marks.get(&event.0), Some(Mark::Ahead { .. })),
        }
    }

    /// The stream that goes on: of those that can, the first in an order that the seed says.
    fn pick(&self) -> Option<u32> {
        let can_go_on = |queue: &Queue| match queue.waiting.front() {
            None => false,
            Some(Item::Wait(mark)) => self.is_reached(Goal::Passed(EventId(*mark))),
            Some(_) => true,
        };
        let place = |stream: u32| {
            let mixed = (u64::from(stream) ^ self.later.unwrap_or(0).rotate_left(32))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
        };
        let able = self.queues.iter().filter(|(_, queue)| can_go_on(queue));
        able.map(|(stream, _)| *stream).min_by_key(|stream| place(*stream))
    }

    /// The next piece of work on the way to a goal; none once it is reached.
    pub(super) fn next(&mut self, goal: Goal) -> Result<Option<Work>, GpuError> {
        while !self.is_reached(goal) {
            let stream =
                self.pick().ok_or_else(|| refused("streams", "they wait for each other"))?;
            match self.queue(StreamId(stream))?.waiting.pop_front() {
                Some(Item::Work(work)) => return Ok(Some(work)),
                Some(Item::Mark(mark)) => {
                    let freed =
                        matches!(self.marks.remove(&mark), Some(Mark::Ahead { freed: true }));
                    if !freed {
                        self.marks.insert(mark, Mark::Passed(Instant::now()));
                    }
                }
                Some(Item::Wait(_)) | None => {}
            }
        }
        Ok(None)
    }

    /// Whether work that waits uses these bytes.
    pub(super) fn uses(&self, address: u64, bytes: usize) -> bool {
        let mut items = self.queues.values().flat_map(|queue| &queue.waiting);
        items.any(|item| matches!(item, Item::Work(work) if work.uses(address, bytes)))
    }

    /// After a failure: nothing waits any more.
    pub(super) fn clear(&mut self) {
        for queue in self.queues.values_mut() {
            queue.waiting.clear();
        }
        self.marks.retain(|_, mark| !matches!(mark, Mark::Ahead { .. }));
    }

    /// What a captured stream doesn't allow.
    pub(super) fn not_captured(&mut self, stream: StreamId, what: &str) -> Result<(), GpuError> {
        if self.queue(stream)?.part.is_some() {
            return Err(refused(what, "not permitted while the stream is being captured"));
        }
        Ok(())
    }

    pub(super) fn nothing_captured(&self, what: &str) -> Result<(), GpuError> {
        if self.queues.values().any(|queue| queue.part.is_some()) {
            return Err(refused(what, "not permitted while a stream is being captured"));
        }
        Ok(())
    }

    pub(super) fn record(&mut self, stream: StreamId) -> Result<EventId, GpuError> {
        let id = self.number();
        let later = self.later.is_some();
        let queue = self.queue(stream)?;
        let mark = match queue.part {
            Some(part) => {
                Mark::Captured { origin: part.origin, stream: stream.0, serial: part.serial }
            }
            None if later => {
                queue.waiting.push_back(Item::Mark(id));
                Mark::Ahead { freed: false }
            }
            None => Mark::Passed(Instant::now()),
        };
        self.marks.insert(id, mark);
        Ok(EventId(id))
    }

    fn mark(&self, event: EventId) -> Result<Mark, GpuError> {
        self.marks.get(&event.0).copied().ok_or_else(|| refused("event", "there is no such event"))
    }

    /// A stream that waits for a captured mark takes part in the capture from there on.
    pub(super) fn wait(&mut self, stream: StreamId, event: EventId) -> Result<(), GpuError> {
        let mark = self.mark(event)?;
        let queue = self.queue(stream)?;
        let (origin, from, serial) = match (mark, &queue.part) {
            (Mark::Passed(_), None) => return Ok(()),
            (Mark::Ahead { .. }, None) => {
                queue.waiting.push_back(Item::Wait(event.0));
                return Ok(());
            }
            (Mark::Passed(_) | Mark::Ahead { .. }, Some(_)) => {
                return Err(refused("wait", "a captured stream can't wait for work outside"));
            }
            (Mark::Captured { origin, stream, serial }, _) => (origin, stream, serial),
        };
        match &mut queue.part {
            None => queue.part = Some(Part { origin, serial: 1, joined: 0 }),
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
        match self.marks.get_mut(&event.0) {
            Some(Mark::Ahead { freed }) => *freed = true,
            _ => {
                self.marks.remove(&event.0);
            }
        }
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
        for (id, queue) in &mut self.queues {
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

    /// The work of a recording.
    pub(super) fn graph(&mut self, stream: StreamId, id: GraphId) -> Result<Vec<Work>, GpuError> {
        self.not_captured(stream, "replay")?;
        let graph = self.graphs.get(&id.0).cloned();
        graph.ok_or_else(|| refused("replay", "there is no such graph"))
    }

    pub(super) fn free_graph(&mut self, graph: GraphId) {
        self.graphs.remove(&graph.0);
    }
}
