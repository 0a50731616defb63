//! Batches made on a card: the same as [`Loader::batch`]'s, to rounding, from the same draws.
//!
//! The host draws what a batch shows and how it is changed, uploads tables of tasks, and queues a kernel per transform that
//! fires, for all samples and channels at once. It waits for nothing but these uploads, on streams of their own. Cases
//! stay on the card if they fit, else they come through pinned memory ([`cases`]). All memory is taken at the start.

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
use table::List;

/// Makes a loader's batches on a card.
///
/// Two batches exist at a time: a third one takes the place of the first, which must have been given back by then.
/// After an error it is of no further use.
#[derive(Debug)]
pub struct DeviceLoader {
    loader: Loader,
    queue: Queue,
    /// Brings the tables.
    tables: Stream,
    cases: Cases,
    memory: Memory,
    /// For each of the two places of a batch: whether it may be written, and after what.
    places: [Place; 2],
    next: usize,
}

/// Memory of a batch and its table.
#[derive(Debug, Default)]
struct Place {
    /// Its reader has it.
    lent: bool,
    /// Its reader has come past.
    read: Option<Event>,
    /// What was made there last is made, and its table was read.
    made: Option<Event>,
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
            tables: gpu.stream()?,
            places: Default::default(),
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

    /// Batch number `index`, as [`Loader::batch`]. If a case has to come, this waits for the work that still reads the
    /// one whose place it takes.
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
        assert!(!self.places[place].lent, "the batch before the last one was not given back");
        self.places[place].lent = true;
        self.next = 1 - place;
        self.make(&samples, place)?;
        self.places[place].made = Some(self.queue.stream.record()?);
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
        let place = &mut self.places[done.place];
        (place.lent, place.read) = (false, Some(done.passed));
    }

    /// Queues all work for these samples. The place may still be read until its own memory is written, at the end.
    fn make(&mut self, samples: &[(Placement, Draws)], place: usize) -> Result<(), GpuError> {
        let Self { loader, queue, tables, cases, memory, places, .. } = self;
        let of_cases: Vec<usize> = samples.iter().map(|(placement, _)| placement.case).collect();
        let (groups, pointers) = cases.plan(&of_cases);
        let mut table = memory.table(place);
        let spatial = spatial::plan(loader, memory, samples, &pointers, &mut table);
        let previous = previous::plan(loader, memory, samples, place, &mut table);
        let intensity = intensity::plan(loader, memory, samples, &mut table);
        if let Some(made) = places[place].made.take() {
            tables.wait(&made)?;
        }
        table.upload(tables)?;
        spatial.displace(queue)?;
        for group in &groups {
            cases.fill(loader, group, &queue.stream)?;
            spatial.resample(queue, memory, group)?;
            cases.used(group, &queue.stream)?;
        }
        intensity.run(queue, loader, memory)?;
        if let Some(read) = places[place].read.take() {
            queue.stream.wait(&read)?;
        }
        previous.run(queue, loader)?;
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
