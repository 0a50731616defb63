//! [`gather`] and [`scatter`]: one kernel, told which taps of the input reach which output voxels.

use super::arguments::{ConvolveArgs, ConvolveClass, ConvolveTap, MAX_CLASSES, MAX_TAPS};
use super::job::{Class, Job};
use super::plan::{Limits, Plan};
use super::tile::Halo;
use super::{Packed, groups, layouts, pair, to_u32, triple};
use crate::cuda::Context;
use crate::cuda::tensor::{Element, Layout, Tensor};
use crate::geometry::Geometry;
use kernels::Pointer;

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
        plane: to_u32(plan.plane(job)),
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
    let kernel = plan.variant.kernel(job.element);
    let grid = [blocks, job.classes.len(), 1];
    ctx.launch(kernel, grid, plan.variant.threads(), plan.shared, &arguments);
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
