//! A cascade's changes of the previous stage's classes, in its samples' part of the batch's image, which is written later.

use super::memory::Memory;
use super::table::{ComponentTask, DilateTask, List, RemovalTask, Table};
use super::{Queue, shape_of, small, voxels};
use crate::previous::{Morphology, Operation};
use crate::{Draws, Loader, Placement};
use kernels::{GpuError, Pointer};

/// Voxels that a block of `augment_removal_count` looks at.
pub(super) const PART_VOXELS: usize = 4096;

kernels::arguments! {
    /// `AugmentDilateArgs` and `AugmentComponentArgs` of augment_previous.cu.
    struct PatchArgs { tasks: Pointer, shape: [u32; 3], voxels: u32 }
}
kernels::arguments! {
    /// `AugmentRemovalArgs` of augment_previous.cu.
    struct RemovalArgs { tasks: Pointer, voxels: u32, parts: u32 }
}

/// One morphological change of every sample that has as many: each is one dilation of the members or the others, or two.
#[derive(Debug)]
struct Round {
    first: List,
    second: List,
}

/// The tasks of a batch.
#[derive(Debug)]
pub(super) struct Changes {
    rounds: Vec<Round>,
    components: List,
    removals: List,
}

pub(super) fn plan(
    loader: &Loader,
    memory: &Memory,
    samples: &[(Placement, Draws)],
    place: usize,
    table: &mut Table,
) -> Changes {
    let most = samples.iter().map(|(_, draws)| draws.morphology.len()).max().unwrap_or(0);
    let rounds = (0..most)
        .map(|turn| {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for (sample, (_, draws)) in samples.iter().enumerate() {
                let Some(change) = draws.morphology.get(turn) else { continue };
                let room = memory.image_of(place, sample);
                let task =
                    |grow| dilate(memory.classes_of(sample), room, voxels(loader), change, grow);
                let (once, twice) = match change.operation {
                    Operation::Dilate => (true, None),
                    Operation::Erode => (false, None),
                    Operation::Open => (false, Some(true)),
                    Operation::Close => (true, Some(false)),
                };
                first.push(task(once));
                second.extend(twice.map(task));
            }
            Round { first: table.push(&first), second: table.push(&second) }
        })
        .collect();
    let (mut components, mut removals) = (Vec::new(), Vec::new());
    let limit = voxels(loader) as f64 * loader.settings.recipe.previous_removal_max_fraction;
    let parts = voxels(loader).div_ceil(PART_VOXELS);
    for (sample, (_, draws)) in samples.iter().enumerate() {
        if draws.removal.is_empty() {
            continue;
        }
        let classes = memory.classes_of(sample);
        let parents = memory.image_of(place, sample);
        let sizes = parents.offset(4 * voxels(loader));
        components.push(ComponentTask { classes, parents, sizes });
        for removal in &draws.removal {
            let counts = memory.counts(removals.len(), parts);
            removals.push(RemovalTask {
                classes,
                parents,
                sizes,
                counts,
                chosen: counts.offset(4 * parts),
                which: removal.which,
                limit,
                class: removal.class.into(),
                unused: 0,
            });
        }
    }
    Changes { rounds, components: table.push(&components), removals: table.push(&removals) }
}

/// Distances take two bytes a voxel, membership one; a sample of a cascade has room for eight.
fn dilate(
    classes: Pointer,
    room: Pointer,
    voxels: usize,
    change: &Morphology,
    grow: bool,
) -> DilateTask {
    DilateTask {
        classes,
        member: room.offset(4 * voxels),
        first: room,
        second: room.offset(2 * voxels),
        class: change.class.into(),
        radius: i32::try_from(change.radius).expect("a radius of a few voxels"),
        grow: grow.into(),
        unused: 0,
    }
}

impl Changes {
    pub fn run(&self, queue: &Queue, loader: &Loader) -> Result<(), GpuError> {
        let (shape, voxels) = (shape_of(loader.settings.patch), small(queue.voxels));
        let run = |kernels: &[&'static str], list: List| {
            let arguments = PatchArgs { tasks: list.at, shape, voxels };
            kernels.iter().try_for_each(|kernel| queue.per_voxel(kernel, list, &arguments))
        };
        for round in &self.rounds {
            run(&["augment_member"], round.first)?;
            let steps = ["augment_near_x", "augment_near_y", "augment_near_z"];
            run(&steps, round.first)?;
            run(&steps, round.second)?;
            run(&["augment_take_members"], round.first)?;
        }
        let steps =
            ["augment_component_begin", "augment_component_join", "augment_component_count"];
        run(&steps, self.components)?;
        let parts = queue.voxels.div_ceil(PART_VOXELS);
        let removals = RemovalArgs { tasks: self.removals.at, voxels, parts: small(parts) };
        let count = self.removals.count;
        queue.launch("augment_removal_count", [parts, count, 1], 256, &removals)?;
        queue.launch("augment_removal_choose", [1, count, 1], 32, &removals)?;
        queue.per_voxel("augment_removal", self.removals, &removals)
    }
}
