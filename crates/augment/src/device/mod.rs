//! Batches made on a card: the same as [`Loader::batch`]'s, to rounding, from the same draws.
//!
//! The host draws what a batch shows and how it is changed, and queues all work without waiting for any of it: tables of
//! tasks, then a kernel per transform that fires, for all samples and channels at once. Cases stay on the card if they fit,
//! else they come through pinned memory on a stream of their own ([`cases`]). All memory is taken at the start.

mod cases;
mod intensity;
mod memory;
mod previous;
mod spatial;
mod table;

use crate::{Draws, Loader, Placement};
use cases::Cases;
use kernels::{Arguments, Event, Gpu, GpuError, Pointer, Stream};
use memory::Memory;
use table::{List, Table};

/// Makes a loader's batches on a card.
///
/// Two batches exist at a time: a third one takes the place of the first, which must have been given back by then.
/// After an error it is of no further use.
#[derive(Debug)]
pub struct DeviceLoader {
    loader: Loader,
    queue: Queue,
    cases: Cases,
    memory: Memory,
    /// For each of the two places of a batch: whether it may be written, and after what.
    places: [Place; 2],
    next: usize,
}

#[derive(Debug)]
enum Place {
    Free(Option<Event>),
    Lent,
}

/// A batch in device memory, there once `ready` has been passed. The loader must outlive it.
#[derive(Debug)]
pub struct DeviceBatch {
    /// f32 `[sample, channel, z, y, x]`.
    pub image: Pointer,
    /// i16 `[sample, z, y, x]`: class indices ≥ 0.
    pub label: Pointer,
    /// Case of each sample: its index in the list that [`Loader::new`] got.
    pub cases: Vec<usize>,
    /// To wait for, before anything reads it: [`Stream::wait`].
    pub ready: Event,
    place: usize,
}

/// A batch that its reader is done with; to be given to [`DeviceLoader::give_back`].
#[derive(Debug)]
pub struct Done {
    place: usize,
    passed: Event,
}

impl DeviceBatch {
    /// Whatever `reader` was asked to do so far is all that reads this batch.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn done(self, reader: &Stream) -> Result<Done, GpuError> {
        Ok(Done { place: self.place, passed: reader.record()? })
    }
}

impl DeviceLoader {
    /// Takes all memory that batches of `loader` need ([`Self::bytes`]), and at most `cases` bytes for the cases.
    ///
    /// # Errors
    /// If there isn't as much, or `cases` doesn't hold the largest one; one line.
    ///
    /// # Panics
    /// If a cascade's loader has no predictions of the previous stage.
    pub fn new(loader: Loader, gpu: &Gpu, cases: u64) -> Result<Self, GpuError> {
        assert!(
            loader.channels[1] == 0 || !loader.previous.is_empty(),
            "a cascade's loader without Loader::with_previous"
        );
        Ok(Self {
            memory: Memory::new(&loader, gpu)?,
            cases: Cases::new(&loader, gpu, cases)?,
            queue: Queue { stream: gpu.stream()?, voxels: voxels(&loader) },
            places: [Place::Free(None), Place::Free(None)],
            next: 0,
            loader,
        })
    }

    /// Device memory for batches of this loader, without the cases.
    pub fn bytes(loader: &Loader) -> u64 {
        Memory::bytes(loader)
    }

    /// The loader whose batches it makes.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Whether all cases stay in device memory, once they have been there.
    pub fn all_cases_stay(&self) -> bool {
        self.cases.all_stay()
    }

    /// Batch number `index`, as [`Loader::batch`]. Doesn't wait for the card, unless a case has to come: then for the
    /// work that still reads the one whose place it takes.
    ///
    /// # Errors
    /// If the driver fails, here or in earlier work.
    ///
    /// # Panics
    /// If the batch before the last one was not given back.
    pub fn batch(&mut self, index: u64) -> Result<DeviceBatch, GpuError> {
        let samples: Vec<(Placement, Draws)> = (0..self.loader.batch_size())
            .map(|sample| {
                let placement = self.loader.placement(index, sample);
                (placement, self.loader.draws(placement.case, index, sample))
            })
            .collect();
        let place = self.next;
        match std::mem::replace(&mut self.places[place], Place::Lent) {
            Place::Free(None) => {}
            Place::Free(Some(passed)) => self.queue.stream.wait(&passed)?,
            Place::Lent => panic!("the batch before the last one was not given back"),
        }
        self.next = 1 - place;
        self.make(&samples, place)?;
        Ok(DeviceBatch {
            image: self.memory.image(place),
            label: self.memory.label(place),
            cases: samples.iter().map(|(placement, _)| placement.case).collect(),
            ready: self.queue.stream.record()?,
            place,
        })
    }

    /// Lets a batch's memory be written again, once its reader has come past.
    pub fn give_back(&mut self, done: Done) {
        self.places[done.place] = Place::Free(Some(done.passed));
    }

    /// Queues all work for these samples.
    fn make(&mut self, samples: &[(Placement, Draws)], place: usize) -> Result<(), GpuError> {
        let Self { loader, queue, cases, memory, .. } = self;
        let of_cases: Vec<usize> = samples.iter().map(|(placement, _)| placement.case).collect();
        let (groups, pointers) = cases.plan(&of_cases);
        let mut table = Table::new(memory.table());
        let spatial = spatial::plan(loader, memory, samples, &pointers, &mut table);
        let previous = previous::plan(loader, memory, samples, place, &mut table);
        let intensity = intensity::plan(loader, memory, samples, &mut table);
        memory.check_table(&table);
        queue.stream.upload(memory.table(), table.bytes())?;
        spatial.displace(queue)?;
        for group in &groups {
            cases.fill(loader, group, &queue.stream)?;
            spatial.resample(queue, memory.label(place), memory.classes(), group)?;
            cases.used(group, &queue.stream)?;
        }
        previous.run(queue, loader)?;
        intensity.run(queue, loader, memory)?;
        intensity.finish(queue, loader, memory, place)
    }
}

/// The queue that batches are made in.
#[derive(Debug)]
struct Queue {
    stream: Stream,
    /// Of a patch.
    voxels: usize,
}

impl Queue {
    /// A kernel whose threads make a voxel each, for every item of a list.
    fn per_voxel<A: Arguments>(
        &self,
        kernel: &'static str,
        list: List,
        arguments: &A,
    ) -> Result<(), GpuError> {
        self.launch(kernel, [self.voxels.div_ceil(256), list.count, 1], 256, arguments)
    }

    /// Nothing if the grid is empty.
    fn launch<A: Arguments>(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: u32,
        arguments: &A,
    ) -> Result<(), GpuError> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.stream.launch(kernel, grid.map(small), threads, 0, arguments)
    }
}

/// Voxels of a patch.
fn voxels(loader: &Loader) -> usize {
    loader.settings.patch.iter().product()
}

/// A size as the kernels count it.
fn small(n: usize) -> u32 {
    u32::try_from(n).expect("a patch and its tasks are far fewer than 2^32")
}

fn shape_of(shape: [usize; 3]) -> [u32; 3] {
    shape.map(small)
}
