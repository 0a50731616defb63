//! Displacement fields, and patches read through a map.

use super::cases::{CasePointers, Group};
use super::memory::Memory;
use super::table::{List, Sample, Table};
use super::{Queue, shape_of, small};
use crate::draws::Elastic;
use crate::settings::{Frame, Settings};
use crate::{Draws, Loader, Mode, Placement, elastic};
use kernels::{GpuError, Pointer};

/// Outputs of a block of `augment_smooth_*`: lines, and neighbours on each.
const SMOOTH_LINES: usize = 32;
const SMOOTH_OUT: usize = 64;

kernels::arguments! {
    /// `AugmentWhiteArgs` of augment_voxels.cu.
    struct WhiteArgs { to: Pointer, seed: u64, voxels: u32, first: u32 }
}
kernels::arguments! {
    /// `AugmentSmoothArgs` of augment_space.cu.
    struct SmoothArgs {
        from: Pointer,
        to: Pointer,
        weights: Pointer,
        taps: u32,
        radius: u32,
        lines: u32,
        inner: u32,
        n: u32,
        scale: f32,
    }
}
kernels::arguments! {
    /// `AugmentImageArgs` of augment_space.cu.
    struct ImageArgs {
        samples: Pointer,
        channels: Pointer,
        shape: [u32; 3],
        voxels: u32,
        across: u32,
        planes: u32,
        first: u32,
        channel_count: u32,
    }
}
kernels::arguments! {
    /// `AugmentLabelArgs` of augment_space.cu.
    struct LabelArgs {
        samples: Pointer,
        label: Pointer,
        previous: Pointer,
        shape: [u32; 3],
        voxels: u32,
        across: u32,
        planes: u32,
        first: u32,
        order: u32,
    }
}

/// Whether the spatial transforms fire at all.
pub(super) fn fires(loader: &Loader) -> bool {
    let recipe = &loader.settings.recipe;
    let probability =
        recipe.elastic_probability.max(recipe.rotation_probability).max(recipe.scaling_probability);
    loader.mode == Mode::Training && probability > 0.0
}

/// Axes of a displacement field in the frame's order: components, then z, y, x. In planes there are two components, the
/// same for all planes.
fn field_shape(settings: &Settings) -> [usize; 4] {
    let [z, y, x] = settings.frame.axes().map(|axis| settings.patch[axis]);
    if settings.frame == Frame::Volume { [3, z, y, x] } else { [2, 1, y, x] }
}

/// Numbers of a displacement field.
pub(super) fn field_numbers(loader: &Loader) -> usize {
    field_shape(&loader.settings).iter().product()
}

/// A displacement field to be made.
#[derive(Debug)]
struct Field {
    elastic: Elastic,
    to: Pointer,
    weights: List,
    radius: usize,
}

/// What a batch's samples show.
#[derive(Debug)]
pub(super) struct Spatial {
    settings: Settings,
    samples: List,
    channels: List,
    fields: Vec<Field>,
    rough: Pointer,
    /// Whether the previous stage's classes are read too.
    cascade: bool,
}

pub(super) fn plan(
    loader: &Loader,
    memory: &Memory,
    samples: &[(Placement, Draws)],
    pointers: &[CasePointers],
    table: &mut Table,
) -> Spatial {
    let mut fields = Vec::new();
    let mut records = Vec::new();
    let mut channels = Vec::new();
    for (i, (placement, draws)) in samples.iter().enumerate() {
        let mut field = Pointer::default();
        if let Some(elastic) = draws.elastic {
            field = memory.field(i);
            let mut kernel = elastic::kernel(elastic.sigma);
            let radius = kernel.len() / 2;
            kernel.resize(kernel.len().next_multiple_of(8), 0.0);
            fields.push(Field { elastic, to: field, weights: table.push(&kernel), radius });
        }
        records.push(record(loader, placement, draws, &pointers[i], field));
        channels.extend((0..loader.channels[0]).map(|channel| memory.channel(i, channel)));
    }
    Spatial {
        settings: loader.settings.clone(),
        samples: table.push(&records),
        channels: table.push(&channels),
        fields,
        rough: memory.rough(),
        cascade: loader.channels[1] > 0,
    }
}

fn record(
    loader: &Loader,
    placement: &Placement,
    draws: &Draws,
    pointers: &CasePointers,
    field: Pointer,
) -> Sample {
    let settings = &loader.settings;
    let axes = settings.frame.axes();
    let shape = loader.cases[placement.case].record.body.case.shape;
    let signed = |n: usize| i64::try_from(n).expect("an array edge");
    let strides = [signed(shape[1] * shape[2]), signed(shape[2]), 1];
    let warp = draws.rigid(settings, placement.lower);
    let mirror: u32 = (0..3).map(|axis| u32::from(draws.mirror[axis]) << axis).sum();
    let coordinate = |v: i64| i32::try_from(v).expect("a voxel of a case");
    Sample {
        image: pointers.image,
        coefficients: pointers.coefficients,
        label: pointers.label,
        previous: pointers.previous,
        field,
        centre: warp.as_ref().map_or([0.0; 3], |warp| warp.centre),
        matrix: warp.as_ref().map_or([[0.0; 3]; 3], |warp| warp.matrix),
        strides: axes.map(|axis| strides[axis]),
        channel: signed(shape.iter().product()),
        shape: axes.map(|axis| coordinate(signed(shape[axis]))),
        lower: axes.map(|axis| coordinate(placement.lower[axis])),
        mirror,
        warped: u32::from(warp.is_some()),
    }
}

impl Spatial {
    /// Makes the displacement fields.
    pub fn displace(&self, queue: &Queue) -> Result<(), GpuError> {
        self.fields.iter().try_for_each(|field| self.displace_one(queue, field))
    }

    fn displace_one(&self, queue: &Queue, field: &Field) -> Result<(), GpuError> {
        let [components, z, y, x] = field_shape(&self.settings);
        // The first pass over an even number of axes writes the other array, so that the last one writes the field.
        let axes: &[usize] = if components == 3 { &[0, 1, 2] } else { &[1, 2] };
        let (mut from, mut to) = if axes.len().is_multiple_of(2) {
            (field.to, self.rough)
        } else {
            (self.rough, field.to)
        };
        let white = WhiteArgs {
            to: from,
            seed: field.elastic.noise,
            voxels: small(z * y * x),
            first: small(3 - components),
        };
        queue.launch("augment_white", [(z * y * x).div_ceil(1024), components, 1], 256, &white)?;
        for &axis in axes {
            let n = [z, y, x][axis];
            let lines = components * z * y * x / n;
            let last = axis == 2;
            let smooth = SmoothArgs {
                from,
                to,
                weights: field.weights.at,
                taps: small(field.weights.count),
                radius: small(field.radius),
                lines: small(lines),
                inner: small([y * x, x, 1][axis]),
                n: small(n),
                scale: if last { field.elastic.alpha as f32 } else { 1.0 },
            };
            let kernel = if last { "augment_smooth_rows" } else { "augment_smooth_columns" };
            let grid = [lines.div_ceil(SMOOTH_LINES), n.div_ceil(SMOOTH_OUT), 1];
            queue.launch(kernel, grid, 256, &smooth)?;
            (from, to) = (to, from);
        }
        Ok(())
    }

    /// Reads the images of a group, its labels and, in a cascade, the previous stage's classes, mirrored.
    pub fn resample(&self, queue: &Queue, memory: &Memory, group: &Group) -> Result<(), GpuError> {
        let settings = &self.settings;
        let (shape, voxels) = (shape_of(settings.patch), small(queue.voxels));
        let across = small(settings.frame.across().unwrap_or(0));
        let planes = u32::from(settings.frame != Frame::Volume);
        let first = small(group.first);
        let blocks = queue.voxels.div_ceil(256);
        let kernel = match settings.recipe.image_order {
            0 => "augment_image_nearest",
            1 => "augment_image_linear",
            _ => "augment_image_cubic",
        };
        let image = ImageArgs {
            samples: self.samples.at,
            channels: self.channels.at,
            shape,
            voxels,
            across,
            planes,
            first,
            channel_count: small(self.channels.count / self.samples.count),
        };
        queue.launch(kernel, [blocks, 1, group.count], 256, &image)?;
        let classes = LabelArgs {
            samples: self.samples.at,
            label: memory.raw_label(),
            previous: memory.classes(),
            shape,
            voxels,
            across,
            planes,
            first,
            order: u32::from(settings.recipe.label_order),
        };
        let maps = if self.cascade { 2 } else { 1 };
        queue.launch("augment_label", [blocks, maps, group.count], 256, &classes)
    }
}
