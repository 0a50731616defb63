//! [`gather`] and [`scatter`]: one kernel, told which taps of the input reach which output voxels.

use super::arguments::{ConvolveArgs, ConvolveClass, ConvolveTap, MAX_CLASSES, MAX_TAPS};
use super::pack::{SLOT_BYTES, input_groups, output_blocks};
use super::tile::{Edges, GROUP_BYTES, Halo, plane};
use super::{Packed, check_same_grid, filled_groups, groups, layouts, pair, to_u32, triple};
use crate::cuda::Context;
use crate::cuda::tensor::{Element, Layout, Tensor};
use crate::ops::linear::Geometry;
use kernels::{Card, Pointer};

/// Output voxels `first + v · out_stride`, v below `extent`, and the taps that reach them: input voxel
/// `v · in_stride + offset`.
#[derive(Debug, Clone)]
struct Class {
    first: [usize; 3],
    extent: [usize; 3],
    taps: Vec<Tap>,
}

#[derive(Debug, Clone, Copy)]
struct Tap {
    offset: [isize; 3],
    /// In the packed weights.
    index: usize,
}

impl Class {
    fn offsets(&self) -> Vec<[isize; 3]> {
        self.taps.iter().map(|t| t.offset).collect()
    }
}

/// What is to be computed, but for the tensors' addresses.
#[derive(Debug)]
struct Job {
    inputs: Vec<Layout>,
    outputs: Vec<Layout>,
    in_stride: [usize; 3],
    out_stride: [usize; 3],
    classes: Vec<Class>,
    element: Element,
}

impl Job {
    fn gather(geometry: &Geometry, large: &[Layout], small: &Layout, element: Element) -> Self {
        check(geometry, large, small);
        let taps = (0..geometry.taps())
            .map(|index| {
                let k = geometry.position(index);
                let offset = [0, 1, 2].map(|a| k[a] as isize - geometry.pad[a] as isize);
                Tap { offset, index }
            })
            .collect();
        Self {
            inputs: large.to_vec(),
            outputs: vec![*small],
            in_stride: geometry.stride,
            out_stride: [1; 3],
            classes: vec![Class { first: [0; 3], extent: small.size, taps }],
            element,
        }
    }

    /// A class for each residue of the large voxels modulo the stride.
    fn scatter(geometry: &Geometry, small: &Layout, large: &[Layout], element: Element) -> Self {
        check(geometry, large, small);
        let [_, sy, sx] = geometry.stride;
        let classes = (0..geometry.stride.iter().product())
            .map(|class| {
                class_of(geometry, [class / (sy * sx), class / sx % sy, class % sx], large[0].size)
            })
            .filter(|class| class.extent.iter().all(|n| *n > 0))
            .collect();
        Self {
            inputs: vec![*small],
            outputs: large.to_vec(),
            in_stride: [1; 3],
            out_stride: geometry.stride,
            classes,
            element,
        }
    }

    fn input_channels(&self) -> [usize; 2] {
        pair(self.inputs.iter().map(|l| l.channels))
    }

    fn output_channels(&self) -> [usize; 2] {
        pair(self.outputs.iter().map(|l| l.channels))
    }

    /// 1 or 2: whether numbers are multiplied as sums of two.
    fn halves(&self) -> usize {
        if self.element == Element::F32 { 2 } else { 1 }
    }

    /// Most groups of a chunk of input channels.
    fn chunk_groups(&self) -> usize {
        self.inputs.iter().map(|l| filled_groups(groups(l.channels)).min(4)).max().unwrap_or(1)
    }
}

fn check(geometry: &Geometry, large: &[Layout], small: &Layout) {
    check_same_grid(large);
    assert_eq!(large[0].batch, small.batch, "batch");
    assert_eq!(geometry.small(large[0].size), small.size, "small size");
    assert!(geometry.kernel.iter().all(|k| *k <= 3), "kernel {:?}", geometry.kernel);
    assert!(geometry.stride.iter().all(|s| *s <= 2), "stride {:?}", geometry.stride);
}

/// The taps by which small voxels reach large voxels `class + v · stride`.
fn class_of(geometry: &Geometry, class: [usize; 3], large: [usize; 3]) -> Class {
    let extent = [0, 1, 2].map(|a| large[a].saturating_sub(class[a]).div_ceil(geometry.stride[a]));
    let mut taps = Vec::new();
    for index in 0..geometry.taps() {
        let k = geometry.position(index);
        // Large voxel = small · stride − pad + k, so small = (class + pad − k) / stride + v, when that divides.
        let reach = [0, 1, 2].map(|a| (class[a] + geometry.pad[a]) as isize - k[a] as isize);
        let stride = geometry.stride.map(|s| s as isize);
        if (0..3).all(|a| reach[a].rem_euclid(stride[a]) == 0) {
            taps.push(Tap { offset: [0, 1, 2].map(|a| reach[a] / stride[a]), index });
        }
    }
    Class { first: class, extent, taps }
}

/// One size of the kernel's tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cuda) struct Variant {
    /// For bfloat16 and float tensors.
    kernels: [&'static str; 2],
    /// Output voxels of a tile, as a power of two.
    voxels_log: u32,
    /// Blocks of 32 output channels.
    blocks: usize,
    warps: usize,
    /// How many blocks the registers of a multiprocessor hold.
    resident: usize,
    /// Share of the tensor cores' rate that shared memory can feed.
    feed: f64,
}

pub(in crate::cuda) const VARIANTS: [Variant; 4] = [
    Variant {
        kernels: ["convolve_bf16_256x32", "convolve_f32_256x32"],
        voxels_log: 8,
        blocks: 1,
        warps: 4,
        resident: 3,
        feed: 1.0,
    },
    Variant {
        kernels: ["convolve_bf16_256x64", "convolve_f32_256x64"],
        voxels_log: 8,
        blocks: 2,
        warps: 8,
        resident: 1,
        feed: 1.0,
    },
    Variant {
        kernels: ["convolve_bf16_128x32", "convolve_f32_128x32"],
        voxels_log: 7,
        blocks: 1,
        warps: 4,
        resident: 4,
        feed: 0.75,
    },
    Variant {
        kernels: ["convolve_bf16_64x32", "convolve_f32_64x32"],
        voxels_log: 6,
        blocks: 1,
        warps: 4,
        resident: 4,
        feed: 0.5,
    },
];

/// What a launch may use.
#[derive(Debug, Clone)]
pub(in crate::cuda) struct Limits {
    pub multiprocessors: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    pub variants: Vec<Variant>,
}

impl Limits {
    pub(in crate::cuda) fn of(card: &Card) -> Self {
        Self {
            multiprocessors: card.multiprocessors as usize,
            shared: card.shared_memory as usize,
            variants: VARIANTS.to_vec(),
        }
    }
}

/// How a job is cut up.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Plan {
    variant: Variant,
    edges: Edges,
    /// Shared tiles.
    buffers: usize,
    step_slots: usize,
    shared: usize,
    resident: usize,
}

impl Plan {
    /// The one that should take least time. It doesn't change any output voxel's sum.
    fn new(job: &Job, limits: &Limits) -> Self {
        let plans = limits.variants.iter().flat_map(|variant| {
            let edges = best_edges(job, variant, limits);
            let plans = edges.map(|edges| Self::with_edges(job, variant, edges, limits));
            plans.into_iter().flatten()
        });
        let timed = plans.map(|plan| (plan.cycles(job, limits), plan));
        let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
        best.expect("the smallest tile fits into every card's shared memory").1
    }

    fn with_edges(job: &Job, variant: &Variant, edges: Edges, limits: &Limits) -> Vec<Self> {
        let slots = |class: &Class| (class.taps.len() * job.chunk_groups()).next_multiple_of(4);
        let most = job.classes.iter().map(slots).max().unwrap_or(4).max(4);
        let mut plans = Vec::new();
        for buffers in [2, 1] {
            for step_slots in [36, 12, 4] {
                let step_slots = step_slots.min(most);
                let shared = shared_bytes(job, variant, edges, buffers, step_slots);
                if shared <= limits.shared {
                    // A multiprocessor has 1 KiB more than a block can have, and keeps 1 KiB for every block.
                    let resident = ((limits.shared + 1024) / (shared + 1024)).min(variant.resident);
                    plans.push(Self {
                        variant: *variant,
                        edges,
                        buffers,
                        step_slots,
                        shared,
                        resident,
                    });
                }
            }
        }
        plans
    }

    fn items(&self, job: &Job, class: &Class) -> usize {
        let tiles: usize = self.edges.count(class.extent).iter().product();
        tiles * job.outputs[0].batch * self.columns(job)
    }

    fn columns(&self, job: &Job) -> usize {
        output_blocks(job.output_channels()).div_ceil(self.variant.blocks)
    }

    /// Roughly how long a job takes.
    fn cycles(&self, job: &Job, limits: &Limits) -> f64 {
        let blocks_at_once = limits.multiprocessors;
        let warps = self.resident * self.variant.warps;
        let latency = (8.0 / warps as f64).sqrt().max(1.0);
        let of_class = |class: &Class| {
            let (multiply, copy) = item_cycles(job, &self.variant, self.edges, class);
            let overlap = self.buffers == 2 || self.resident > 1;
            let item = if overlap { multiply.max(copy) } else { multiply + copy };
            self.items(job, class).div_ceil(blocks_at_once) as f64 * (item + ITEM_CYCLES)
        };
        latency * job.classes.iter().map(of_class).sum::<f64>()
    }
}

/// Start and end of an item.
const ITEM_CYCLES: f64 = 500.0;

/// Cycles that a multiprocessor multiplies and copies for an item of a class: 4 tensor cores that take 8 cycles for
/// 16 × 8 × 16, and 40 bytes from the second-level cache in a cycle.
fn item_cycles(job: &Job, variant: &Variant, edges: Edges, class: &Class) -> (f64, f64) {
    let groups = input_groups(job.input_channels());
    let products =
        edges.voxels() / 16 * variant.blocks * 4 * (groups * class.taps.len()).div_ceil(2);
    let products = products * if job.element == Element::F32 { 3 } else { 1 };
    let voxels = groups * Halo::new(edges, job.in_stride, &class.offsets()).voxels();
    let slots = groups * class.taps.len() * variant.blocks;
    let bytes = job.halves() * (voxels * GROUP_BYTES + slots * SLOT_BYTES);
    (products as f64 * 2.0 / variant.feed, bytes as f64 / 40.0)
}

/// The edges with the least work and copies for all tiles, if a tile fits.
fn best_edges(job: &Job, variant: &Variant, limits: &Limits) -> Option<Edges> {
    let fits = |edges: &Edges| shared_bytes(job, variant, *edges, 1, 4) <= limits.shared;
    let work = |edges: Edges| {
        let of_class = |class: &Class| {
            let (multiply, copy) = item_cycles(job, variant, edges, class);
            edges.count(class.extent).iter().product::<usize>() as f64 * (multiply + copy)
        };
        job.classes.iter().map(of_class).sum::<f64>()
    };
    Edges::all(variant.voxels_log)
        .filter(fits)
        .map(|edges| (work(edges), edges))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, edges)| edges)
}

fn tile_plane(job: &Job, edges: Edges) -> usize {
    let halo = |class: &Class| Halo::new(edges, job.in_stride, &class.offsets()).voxels();
    plane(job.classes.iter().map(halo).max().unwrap_or(0))
}

/// Shared memory as the kernel lays it out: offsets of slots, sums for statistics, tiles, two steps of weights.
fn shared_bytes(
    job: &Job,
    variant: &Variant,
    edges: Edges,
    buffers: usize,
    step_slots: usize,
) -> usize {
    let offsets = 4 * (7 * MAX_TAPS + 1).next_multiple_of(4);
    let rows_of_warps = variant.warps / variant.blocks;
    let sums = 2 * 4 * rows_of_warps * 32 * variant.blocks;
    let tile = job.chunk_groups() * tile_plane(job, edges) * GROUP_BYTES;
    let step = variant.blocks * step_slots * SLOT_BYTES;
    offsets + sums + job.halves() * (buffers * tile + 2 * step)
}

/// small = bias + Σ weight · large (or added to small). `bias`: f32 per channel. `statistics` takes, for every sample
/// and tile ([`statistics_tiles`] of them), `[count, mean, Σ (value − mean)²][pitch of small]` of the values as stored.
pub(crate) fn gather(
    ctx: &Context,
    geometry: &Geometry,
    large: &[&Tensor],
    packed: &Packed,
    bias: Option<Pointer>,
    small: &Tensor,
    accumulate: bool,
    statistics: Option<Pointer>,
) {
    let limits = Limits::of(ctx.gpu.card());
    gather_within(&limits, ctx, geometry, large, packed, bias, small, accumulate, statistics);
}

pub(in crate::cuda) fn gather_within(
    limits: &Limits,
    ctx: &Context,
    geometry: &Geometry,
    large: &[&Tensor],
    packed: &Packed,
    bias: Option<Pointer>,
    small: &Tensor,
    accumulate: bool,
    statistics: Option<Pointer>,
) {
    let job = Job::gather(geometry, &layouts(large), &small.layout, packed.element);
    run(limits, ctx, &job, large, packed, bias, &[small], accumulate, statistics);
}

/// large = bias + Σ weight · small (or added to large): the adjoint of [`gather`].
pub(crate) fn scatter(
    ctx: &Context,
    geometry: &Geometry,
    small: &Tensor,
    packed: &Packed,
    bias: Option<Pointer>,
    large: &[&Tensor],
    accumulate: bool,
) {
    let limits = Limits::of(ctx.gpu.card());
    scatter_within(&limits, ctx, geometry, small, packed, bias, large, accumulate);
}

pub(in crate::cuda) fn scatter_within(
    limits: &Limits,
    ctx: &Context,
    geometry: &Geometry,
    small: &Tensor,
    packed: &Packed,
    bias: Option<Pointer>,
    large: &[&Tensor],
    accumulate: bool,
) {
    let job = Job::scatter(geometry, &small.layout, &layouts(large), packed.element);
    run(limits, ctx, &job, &[small], packed, bias, large, accumulate, None);
}

/// Tiles per sample for which [`gather`] writes statistics.
pub(crate) fn statistics_tiles(
    ctx: &Context,
    geometry: &Geometry,
    large: &[Layout],
    small: &Layout,
    element: Element,
) -> usize {
    tiles_within(&Limits::of(ctx.gpu.card()), geometry, large, small, element)
}

pub(in crate::cuda) fn tiles_within(
    limits: &Limits,
    geometry: &Geometry,
    large: &[Layout],
    small: &Layout,
    element: Element,
) -> usize {
    let job = Job::gather(geometry, large, small, element);
    Plan::new(&job, limits).edges.count(small.size).iter().product()
}

fn run(
    limits: &Limits,
    ctx: &Context,
    job: &Job,
    inputs: &[&Tensor],
    packed: &Packed,
    bias: Option<Pointer>,
    outputs: &[&Tensor],
    accumulate: bool,
    statistics: Option<Pointer>,
) {
    assert_eq!(packed.inputs, job.input_channels(), "input channels of the packed weights");
    assert_eq!(packed.outputs, job.output_channels(), "output channels of the packed weights");
    assert!(inputs.iter().all(|t| t.element == packed.element), "element of the inputs");
    assert!(outputs.iter().all(|t| t.element == outputs[0].element), "element of the outputs");
    let plan = Plan::new(job, limits);
    let mut arguments = ConvolveArgs {
        input: pair(inputs.iter().map(|t| t.pointer)),
        output: pair(outputs.iter().map(|t| t.pointer)),
        weights: packed.pointer,
        bias: bias.unwrap_or_default(),
        statistics: statistics.unwrap_or_default(),
        weights_low: packed.low() as u64,
        input_groups: pair(job.inputs.iter().map(|l| to_u32(groups(l.channels)))),
        output_groups: pair(job.outputs.iter().map(|l| to_u32(groups(l.channels)))),
        output_channels: job.output_channels().map(to_u32),
        input_size: triple(job.inputs[0].size),
        output_size: triple(job.outputs[0].size),
        in_stride: triple(job.in_stride),
        out_stride: triple(job.out_stride),
        tile_log: plan.edges.0,
        batch: to_u32(job.outputs[0].batch),
        columns: to_u32(plan.columns(job)),
        plane: to_u32(tile_plane(job, plan.edges)),
        tile_groups: to_u32(job.chunk_groups()),
        buffers: to_u32(plan.buffers),
        step_slots: to_u32(plan.step_slots),
        packed_taps: to_u32(packed.taps),
        accumulate: accumulate.into(),
        output_float: (outputs[0].element == Element::F32).into(),
        classes: [ConvolveClass::default(); MAX_CLASSES],
        taps: [ConvolveTap::default(); MAX_TAPS],
    };
    let mut first_tap = 0;
    for (class, argument) in job.classes.iter().zip(&mut arguments.classes) {
        let halo = Halo::new(plan.edges, job.in_stride, &class.offsets());
        for (tap, argument) in class.taps.iter().zip(&mut arguments.taps[first_tap..]) {
            let voxel = to_u32(halo.voxel(tap.offset));
            *argument = ConvolveTap { voxel, index: to_u32(tap.index) };
        }
        *argument = class_arguments(&plan, class, &halo, first_tap);
        first_tap += class.taps.len();
    }
    let items = job.classes.iter().map(|class| plan.items(job, class)).max().unwrap_or(0);
    let blocks = items.min(limits.multiprocessors * plan.resident);
    let kernel = plan.variant.kernels[usize::from(job.element == Element::F32)];
    let threads = to_u32(32 * plan.variant.warps);
    ctx.launch(kernel, [blocks, job.classes.len(), 1], threads, plan.shared, &arguments);
}

fn class_arguments(plan: &Plan, class: &Class, halo: &Halo, first_tap: usize) -> ConvolveClass {
    let [divide_x, divide_y] = halo.divisors();
    ConvolveClass {
        first: triple(class.first),
        extent: triple(class.extent),
        tiles: triple(plan.edges.count(class.extent)),
        origin: halo.origin.map(|o| o as i32),
        halo: triple(halo.size),
        part: to_u32(halo.part()),
        divide_x,
        divide_y,
        first_tap: to_u32(first_tap),
        taps: to_u32(class.taps.len()),
    }
}
