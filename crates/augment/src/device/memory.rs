//! Device memory for batches: planned from the recipe, taken once.

use super::table::{
    AdjustTask, BlurTask, ComponentTask, DilateTask, GammaTask, LowResolutionTask, NoiseTask,
    RemovalTask, Sample, StatisticsTask, Table, list_bytes,
};
use super::{intensity, previous, spatial, voxels};
use crate::{Loader, Mode, blur, elastic};
use kernels::{Buffer, Gpu, GpuError, Pointer};

/// What the parts are for, in the order of [`sizes`].
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
enum Part {
    Images,
    Labels,
    RawLabels,
    Channels,
    Second,
    Classes,
    Fields,
    Rough,
    Parts,
    Statistics,
    Counts,
    Table,
}

const PARTS: usize = Part::Table as usize + 1;

/// All of it, in one allocation.
#[derive(Debug)]
pub(super) struct Memory {
    buffer: Buffer,
    at: [usize; PARTS],
    sizes: [usize; PARTS],
    /// Bytes of a channel, a patch of classes, and a displacement field.
    channel: usize,
    patch: usize,
    field: usize,
    channels: usize,
    batch_channels: usize,
    batch: usize,
}

impl Memory {
    pub fn new(loader: &Loader, gpu: &Gpu) -> Result<Self, GpuError> {
        let sizes = sizes(loader);
        let mut bytes = 0;
        let at = sizes.map(|size| {
            let at = bytes;
            bytes += size.next_multiple_of(256);
            at
        });
        let free = gpu.memory()?.free;
        if bytes as u64 > free {
            return Err(GpuError::Memory {
                what: "augmentation".into(),
                wanted: bytes as u64,
                free,
                way_out: "augment on the CPU, or plan for less GPU memory (nnu-plan --gpu-memory)"
                    .into(),
            });
        }
        let voxels = voxels(loader);
        Ok(Self {
            buffer: gpu.buffer(bytes)?,
            at,
            sizes,
            channel: 4 * voxels,
            patch: 2 * voxels,
            field: 4 * spatial::field_numbers(loader),
            channels: loader.channels[0],
            batch_channels: loader.channels(),
            batch: loader.batch_size(),
        })
    }

    pub fn bytes(loader: &Loader) -> u64 {
        sizes(loader).iter().map(|size| size.next_multiple_of(256) as u64).sum()
    }

    fn part(&self, part: Part) -> Pointer {
        self.buffer.pointer().offset(self.at[part as usize])
    }

    /// f32 `[sample, channel, z, y, x]` of the batch at one of two places.
    pub fn image(&self, place: usize) -> Pointer {
        self.part(Part::Images).offset(place * self.batch * self.batch_channels * self.channel)
    }

    /// Of one sample. Until the batch is written it is room for the changes of the previous stage's classes, which are
    /// there only if it has at least two channels.
    pub fn image_of(&self, place: usize, sample: usize) -> Pointer {
        self.image(place).offset(sample * self.batch_channels * self.channel)
    }

    /// i16 `[sample, z, y, x]` of the batch at one of two places.
    pub fn label(&self, place: usize) -> Pointer {
        self.part(Part::Labels).offset(place * self.batch * self.patch)
    }

    /// Labels as the case has them, −1 outside of the mask: i16 `[sample, z, y, x]`.
    pub fn raw_label(&self) -> Pointer {
        self.part(Part::RawLabels)
    }

    /// The previous stage's classes, i16 `[sample, z, y, x]`.
    pub fn classes(&self) -> Pointer {
        self.part(Part::Classes)
    }

    /// Those of one sample.
    pub fn classes_of(&self, sample: usize) -> Pointer {
        self.classes().offset(sample * self.patch)
    }

    /// Where a channel is worked on, f32 `[z, y, x]`.
    pub fn channel(&self, sample: usize, channel: usize) -> Pointer {
        self.part(Part::Channels).offset((sample * self.channels + channel) * self.channel)
    }

    /// Where it goes in a step that can't be done in place.
    pub fn second(&self, sample: usize, channel: usize) -> Pointer {
        self.part(Part::Second).offset((sample * self.channels + channel) * self.channel)
    }

    /// A sample's displacement.
    pub fn field(&self, sample: usize) -> Pointer {
        self.part(Part::Fields).offset(sample * self.field)
    }

    /// Room for one that is being smoothed.
    pub fn rough(&self) -> Pointer {
        self.part(Part::Rough)
    }

    /// `Part` of augment_voxels.cu, `[task, part]`.
    pub fn parts(&self) -> Pointer {
        self.part(Part::Parts)
    }

    /// `Statistics` of augment_voxels.cu: two lists, one number per task.
    pub fn statistics(&self) -> [Pointer; 2] {
        let first = self.part(Part::Statistics);
        [first, first.offset(self.batch * self.channels * intensity::STATISTICS_BYTES)]
    }

    /// Counts of components for one removal.
    pub fn counts(&self, removal: usize, parts: usize) -> Pointer {
        self.part(Part::Counts).offset(4 * removal * (parts + 1))
    }

    /// The tasks of the batch at one of two places.
    pub fn table(&self, place: usize) -> Table {
        let room = self.sizes[Part::Table as usize] / 2;
        Table::new(self.part(Part::Table).offset(place * room), room)
    }
}

/// Bytes of each part; 0 for what the recipe never needs.
fn sizes(loader: &Loader) -> [usize; PARTS] {
    let recipe = &loader.settings.recipe;
    let training = loader.mode == Mode::Training;
    let (batch, voxels) = (loader.batch_size(), voxels(loader));
    let [channels, classes] = loader.channels;
    let when = |wanted: bool, bytes: usize| if wanted { bytes } else { 0 };
    let second = training && recipe.blur_probability.max(recipe.low_resolution_probability) > 0.0;
    let elastic = training && recipe.elastic_probability > 0.0;
    let field = 4 * spatial::field_numbers(loader);
    let parts = voxels.div_ceil(intensity::PART_VOXELS);
    let removal_parts = voxels.div_ceil(previous::PART_VOXELS);
    let mut sizes = [0; PARTS];
    sizes[Part::Images as usize] = 2 * 4 * batch * (channels + classes) * voxels;
    sizes[Part::Labels as usize] = 2 * 2 * batch * voxels;
    sizes[Part::RawLabels as usize] = 2 * batch * voxels;
    sizes[Part::Channels as usize] = 4 * batch * channels * voxels;
    sizes[Part::Second as usize] = when(second, 4 * batch * channels * voxels);
    sizes[Part::Classes as usize] = when(classes > 0, 2 * batch * voxels);
    sizes[Part::Fields as usize] = when(elastic, batch * field);
    sizes[Part::Rough as usize] = when(elastic, field);
    sizes[Part::Parts as usize] = when(training, batch * channels * parts * intensity::PART_BYTES);
    sizes[Part::Statistics as usize] =
        when(training, 2 * batch * channels * intensity::STATISTICS_BYTES);
    sizes[Part::Counts as usize] = when(training, 4 * batch * classes * (removal_parts + 1));
    sizes[Part::Table as usize] = 2 * table_bytes(loader);
    sizes
}

/// The table of a batch in which everything fires.
fn table_bytes(loader: &Loader) -> usize {
    let recipe = &loader.settings.recipe;
    let batch = loader.batch_size();
    let [channels, classes] = loader.channels;
    let tasks = batch * channels;
    let weights = |taps: usize| list_bytes::<f32>(taps.next_multiple_of(8));
    list_bytes::<Sample>(batch)
        + list_bytes::<u32>(batch)
        + list_bytes::<u32>(channels)
        + 2 * list_bytes::<Pointer>(tasks)
        + batch * weights(elastic::kernel(recipe.elastic_sigma[1]).len())
        + list_bytes::<NoiseTask>(tasks)
        + 3 * list_bytes::<BlurTask>(tasks)
        + 3 * tasks * weights(blur::kernel(recipe.blur_sigma[1]).len())
        + 3 * list_bytes::<StatisticsTask>(tasks)
        + list_bytes::<AdjustTask>(tasks)
        + list_bytes::<LowResolutionTask>(tasks)
        + 2 * list_bytes::<GammaTask>(tasks)
        + 2 * classes * list_bytes::<DilateTask>(batch)
        + list_bytes::<ComponentTask>(batch)
        + list_bytes::<RemovalTask>(batch * classes)
}
