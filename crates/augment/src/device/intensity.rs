//! The intensities' transforms, and the last write.

use super::memory::Memory;
use super::table::{
    AdjustTask, BlurTask, GammaTask, List, LowResolutionTask, NoiseTask, StatisticsTask, Table,
};
use super::{Queue, shape_of, small};
use crate::low_resolution::reduced;
use crate::{Draws, Loader, Placement, blur};
use kernels::{GpuError, Pointer};

/// Voxels that a block of the kernels' statistics adds up.
pub(super) const PART_VOXELS: usize = 16384;
/// `sizeof(Part)` and `sizeof(Statistics)` of augment_voxels.cu.
pub(super) const PART_BYTES: usize = 32;
pub(super) const STATISTICS_BYTES: usize = 24;

kernels::arguments! {
    /// `AugmentNoiseArgs` of augment_voxels.cu.
    struct NoiseArgs { tasks: Pointer, voxels: u32, unused: u32 }
}
kernels::arguments! {
    /// `AugmentBlurArgs` of augment_space.cu.
    struct BlurArgs { tasks: Pointer, voxels: u32, n: u32, inner: u32, unused: u32 }
}
kernels::arguments! {
    /// `AugmentStatisticsArgs` of augment_voxels.cu.
    struct StatisticsArgs { tasks: Pointer, parts: Pointer, voxels: u32, unused: u32 }
}
kernels::arguments! {
    /// `AugmentTotalArgs` of augment_voxels.cu.
    struct TotalArgs { parts: Pointer, to: Pointer, parts_per_task: u32, voxels: u32 }
}
kernels::arguments! {
    /// `AugmentAdjustArgs` of augment_voxels.cu.
    struct AdjustArgs { tasks: Pointer, statistics: Pointer, voxels: u32, unused: u32 }
}
kernels::arguments! {
    /// `AugmentLowResolutionArgs` of augment_space.cu.
    struct LowResolutionArgs { tasks: Pointer, shape: [u32; 3], voxels: u32 }
}
kernels::arguments! {
    /// `AugmentGammaArgs` of augment_voxels.cu.
    struct GammaArgs { tasks: Pointer, before: Pointer, parts: Pointer, voxels: u32, unused: u32 }
}
kernels::arguments! {
    /// `AugmentRestoreArgs` of augment_voxels.cu.
    struct RestoreArgs { tasks: Pointer, before: Pointer, after: Pointer, voxels: u32, unused: u32 }
}
kernels::arguments! {
    /// `AugmentFinishArgs` of augment_voxels.cu.
    struct FinishArgs {
        channels: Pointer,
        mirror: Pointer,
        masked: Pointer,
        raw_label: Pointer,
        previous: Pointer,
        image: Pointer,
        label: Pointer,
        shape: [u32; 3],
        voxels: u32,
        channel_count: u32,
        class_count: u32,
    }
}

/// A gamma transform's channels.
#[derive(Debug)]
struct Gamma {
    statistics: List,
    tasks: List,
}

/// The tasks of a batch, transform by transform.
#[derive(Debug)]
pub(super) struct Intensity {
    noise: List,
    /// Along each axis.
    blur: [List; 3],
    contrast: List,
    adjust: List,
    low_resolution: List,
    gammas: [Gamma; 2],
    channels: List,
    mirror: List,
    masked: List,
}

/// A channel of a sample: where it is between two transforms, and where it can go to.
#[derive(Debug, Clone, Copy)]
struct Channel {
    sample: usize,
    index: usize,
    at: Pointer,
    other: Pointer,
}

impl Channel {
    /// The step from here to the other place.
    fn step(&mut self) -> (Pointer, Pointer) {
        std::mem::swap(&mut self.at, &mut self.other);
        (self.other, self.at)
    }
}

pub(super) fn plan(
    loader: &Loader,
    memory: &Memory,
    samples: &[(Placement, Draws)],
    table: &mut Table,
) -> Intensity {
    let mut channels: Vec<Channel> = (0..samples.len())
        .flat_map(|sample| (0..loader.channels[0]).map(move |index| (sample, index)))
        .map(|(sample, index)| {
            let (at, other) = (memory.channel(sample, index), memory.second(sample, index));
            Channel { sample, index, at, other }
        })
        .collect();
    let draws = |channel: &Channel| &samples[channel.sample].1;
    let noise: Vec<NoiseTask> = channels
        .iter()
        .filter_map(|channel| {
            let noise = draws(channel).noise?;
            let (values, sigma) = (channel.at, noise.sigma as f32);
            Some(NoiseTask { values, seed: noise.seed, channel: small(channel.index), sigma })
        })
        .collect();
    let noise = table.push(&noise);
    let blur = [0, 1, 2].map(|axis| blur_along(axis, loader, &mut channels, &draws, table));
    let (contrast, adjust) = adjust(&channels, &draws, table);
    let low_resolution = low_resolution(loader, &mut channels, &draws, table);
    let inverted =
        gamma(&channels, -1.0, |c| Some(draws(c).inverted_gamma.as_ref()?[c.index]), table);
    let plain = gamma(&channels, 1.0, |c| Some(draws(c).gamma.as_ref()?[c.index]), table);
    let places: Vec<Pointer> = channels.iter().map(|channel| channel.at).collect();
    let mirror = |draws: &Draws| (0..3).map(|axis| u32::from(draws.mirror[axis]) << axis).sum();
    let mirror: Vec<u32> = samples.iter().map(|(_, draws)| mirror(draws)).collect();
    let masked: Vec<u32> = loader.masked_channels.iter().map(|&masked| masked.into()).collect();
    Intensity {
        noise,
        blur,
        contrast,
        adjust,
        low_resolution,
        gammas: [inverted, plain],
        channels: table.push(&places),
        mirror: table.push(&mirror),
        masked: table.push(&masked),
    }
}

fn blur_along<'a>(
    axis: usize,
    loader: &Loader,
    channels: &mut [Channel],
    draws: &impl Fn(&Channel) -> &'a Draws,
    table: &mut Table,
) -> List {
    let mut tasks = Vec::new();
    for channel in channels.iter_mut() {
        let widths = draws(channel).blur.as_ref().and_then(|blur| blur[channel.index]);
        let Some(widths) = widths.filter(|_| loader.settings.patch[axis] > 1) else { continue };
        let kernel = blur::kernel(widths[axis]);
        let (from, to) = channel.step();
        let weights = table.push(&kernel).at;
        tasks.push(BlurTask { from, to, weights, radius: small(kernel.len() / 2), unused: 0 });
    }
    table.push(&tasks)
}

/// Tasks of brightness and contrast, and of the statistics that contrast needs.
fn adjust<'a>(
    channels: &[Channel],
    draws: &impl Fn(&Channel) -> &'a Draws,
    table: &mut Table,
) -> (List, List) {
    let (mut statistics, mut tasks) = (Vec::new(), Vec::new());
    for channel in channels {
        let factor = |factors: &Option<Vec<f64>>| Some(factors.as_ref()?[channel.index] as f32);
        let (brightness, contrast) =
            (factor(&draws(channel).brightness), factor(&draws(channel).contrast));
        if brightness.is_none() && contrast.is_none() {
            continue;
        }
        let (values, brightness) = (channel.at, brightness.unwrap_or(1.0));
        tasks.push(AdjustTask {
            values,
            brightness,
            contrast: contrast.unwrap_or(1.0),
            statistics: small(statistics.len()),
            with_contrast: contrast.is_some().into(),
        });
        if contrast.is_some() {
            statistics.push(StatisticsTask { values, factor: brightness, unused: 0 });
        }
    }
    (table.push(&statistics), table.push(&tasks))
}

fn low_resolution<'a>(
    loader: &Loader,
    channels: &mut [Channel],
    draws: &impl Fn(&Channel) -> &'a Draws,
    table: &mut Table,
) -> List {
    let (full, except) = (loader.settings.patch, loader.settings.frame.across());
    let mut tasks = Vec::new();
    for channel in channels.iter_mut() {
        let zooms = draws(channel).low_resolution.as_ref();
        let Some(zoom) = zooms.and_then(|zooms| zooms[channel.index]) else { continue };
        let small = reduced(full, zoom, except);
        if small == full {
            continue;
        }
        let (from, to) = channel.step();
        tasks.push(LowResolutionTask { from, to, small: shape_of(small), unused: 0 });
    }
    table.push(&tasks)
}

fn gamma(
    channels: &[Channel],
    sign: f32,
    exponent: impl Fn(&Channel) -> Option<f64>,
    table: &mut Table,
) -> Gamma {
    let (mut statistics, mut tasks) = (Vec::new(), Vec::new());
    for channel in channels {
        let Some(exponent) = exponent(channel) else { continue };
        statistics.push(StatisticsTask { values: channel.at, factor: sign, unused: 0 });
        tasks.push(GammaTask { values: channel.at, sign, exponent: exponent as f32 });
    }
    Gamma { statistics: table.push(&statistics), tasks: table.push(&tasks) }
}

impl Intensity {
    /// All transforms of the intensities, in nnU-Net's order.
    pub fn run(&self, queue: &Queue, loader: &Loader, memory: &Memory) -> Result<(), GpuError> {
        let voxels = small(queue.voxels);
        let patch = loader.settings.patch;
        let noise = NoiseArgs { tasks: self.noise.at, voxels, unused: 0 };
        let fours = queue.voxels.div_ceil(1024);
        queue.launch("augment_noise", [fours, self.noise.count, 1], 256, &noise)?;
        for (axis, &list) in self.blur.iter().enumerate() {
            let inner = small(patch[axis + 1..].iter().product());
            let n = small(patch[axis]);
            let blur = BlurArgs { tasks: list.at, voxels, n, inner, unused: 0 };
            queue.per_voxel("augment_blur", list, &blur)?;
        }
        let [before, _] = memory.statistics();
        statistics(queue, memory, self.contrast, before)?;
        let adjust = AdjustArgs { tasks: self.adjust.at, statistics: before, voxels, unused: 0 };
        queue.launch("augment_adjust", [fours, self.adjust.count, 1], 256, &adjust)?;
        let tasks = self.low_resolution.at;
        let low = LowResolutionArgs { tasks, shape: shape_of(patch), voxels };
        queue.per_voxel("augment_low_resolution", self.low_resolution, &low)?;
        let retain = loader.settings.recipe.gamma_retain_statistics;
        self.gammas.iter().try_for_each(|gamma| gamma.run(queue, memory, retain))
    }

    /// Writes the batch.
    pub fn finish(
        &self,
        queue: &Queue,
        loader: &Loader,
        memory: &Memory,
        place: usize,
    ) -> Result<(), GpuError> {
        let finish = FinishArgs {
            channels: self.channels.at,
            mirror: self.mirror.at,
            masked: self.masked.at,
            raw_label: memory.raw_label(),
            previous: memory.classes(),
            image: memory.image(place),
            label: memory.label(place),
            shape: shape_of(loader.settings.patch),
            voxels: small(queue.voxels),
            channel_count: small(loader.channels[0]),
            class_count: small(loader.channels[1]),
        };
        queue.per_voxel("augment_finish", self.mirror, &finish)
    }
}

/// Statistics of a list's channels.
fn statistics(queue: &Queue, memory: &Memory, list: List, to: Pointer) -> Result<(), GpuError> {
    let parts = memory.parts();
    let arguments =
        StatisticsArgs { tasks: list.at, parts, voxels: small(queue.voxels), unused: 0 };
    let per_task = queue.voxels.div_ceil(PART_VOXELS);
    queue.launch("augment_statistics", [per_task, list.count, 1], 256, &arguments)?;
    total(queue, memory, list, to)
}

/// Adds the parts of each task.
fn total(queue: &Queue, memory: &Memory, list: List, to: Pointer) -> Result<(), GpuError> {
    let parts_per_task = small(queue.voxels.div_ceil(PART_VOXELS));
    let voxels = small(queue.voxels);
    let arguments = TotalArgs { parts: memory.parts(), to, parts_per_task, voxels };
    queue.launch("augment_total", [list.count, 1, 1], 32, &arguments)
}

impl Gamma {
    fn run(&self, queue: &Queue, memory: &Memory, retain: bool) -> Result<(), GpuError> {
        let (tasks, voxels) = (self.tasks.at, small(queue.voxels));
        let [before, after] = memory.statistics();
        statistics(queue, memory, self.statistics, before)?;
        let parts = if retain { memory.parts() } else { Pointer::default() };
        let gamma = GammaArgs { tasks, before, parts, voxels, unused: 0 };
        let grid = [queue.voxels.div_ceil(PART_VOXELS), self.tasks.count, 1];
        queue.launch("augment_gamma", grid, 256, &gamma)?;
        if !retain {
            return Ok(());
        }
        total(queue, memory, self.tasks, after)?;
        let restore = RestoreArgs { tasks, before, after, voxels, unused: 0 };
        let grid = [queue.voxels.div_ceil(1024), self.tasks.count, 1];
        queue.launch("augment_restore", grid, 256, &restore)
    }
}
