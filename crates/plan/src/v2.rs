//! The planner of nnU-Net v2 (version 2.8): patches and batches from an estimate of the network's memory, axes pooled by
//! their spacing.

pub mod memory;
pub mod pooling;

use crate::geometry::{self, Grid, coarsest, voxels};
use crate::measured::Measured;
use crate::{CASCADE, FULL, Fixed, LOW, SLICES, normalisation};
use artifact::plan::{Configuration, Network, Plan};
use artifact::recipe::{Recipe, ShrinkUntil, V2Planning};
use pooling::Pooling;
use std::collections::BTreeMap;
use std::ops::Range;

/// All axes, or those of a slice.
const VOLUME: Range<usize> = 0..3;
const SLICE: Range<usize> = 1..3;

/// Everything that the configurations share.
struct Planner<'a> {
    planning: &'a V2Planning,
    fixed: &'a Fixed,
    measured: &'a Measured,
    /// Plan order.
    grids: Vec<Grid>,
}

/// What one network is planned for.
struct Space {
    axes: Range<usize>,
    spacing_mm: [f64; 3],
    /// Median case.
    median: [f64; 3],
    /// Of all training cases.
    dataset_voxels: f64,
}

/// A patch, its batch and its network.
struct Planned {
    patch: [usize; 3],
    batch: usize,
    network: Network,
}

pub(crate) fn plan(
    measured: &Measured,
    recipe: &Recipe,
    planning: &V2Planning,
    fixed: &Fixed,
) -> Plan {
    let target = target_spacing(&measured.grids, planning);
    let transpose = if measured.flat_axis_first {
        geometry::transpose_flat_first(target, &measured.grids)
    } else {
        geometry::transpose(target)
    };
    let grids = geometry::transposed(&measured.grids, transpose);
    let planner = Planner { planning, fixed, measured, grids };
    let masked = measured.median_relative_size < planning.masked_normalisation_below;
    crate::plan_of(
        measured,
        recipe,
        transpose,
        normalisation::channels(measured, masked, planning.intensity_weighting),
        planner.configurations(transpose.map(|axis| target[axis])),
    )
}

/// The median spacing per axis; where one axis is much coarser and shorter than the others, a low percentile along it, so
/// that cases with thinner slices lose less.
pub fn target_spacing(grids: &[Grid], planning: &V2Planning) -> [f64; 3] {
    let percentile = planning.target_spacing_percentile;
    let mut target = geometry::target_spacing(grids, percentile);
    let edges: [f64; 3] = std::array::from_fn(|axis| {
        geometry::quantile(grids.iter().map(|g| g.shape[axis] as f64), percentile / 100.0)
    });
    let worst = coarsest(target);
    let others = || (0..3).filter(|&axis| axis != worst);
    let next = others().map(|axis| target[axis]).fold(0.0, f64::max);
    let shortest = others().map(|axis| edges[axis]).fold(f64::INFINITY, f64::min);
    let threshold = planning.anisotropy_threshold;
    if target[worst] > threshold * next && edges[worst] * threshold < shortest {
        let along = grids.iter().map(|g| g.spacing_mm[worst]);
        let fine = geometry::quantile(along, planning.coarse_axis_percentile / 100.0);
        target[worst] = if fine < next { next + planning.coarse_axis_margin_mm } else { fine };
    }
    target
}

impl Planner<'_> {
    fn configurations(&self, target: [f64; 3]) -> BTreeMap<String, Configuration> {
        let mut all = BTreeMap::new();
        if let Some(slices) = self.slices(target) {
            all.insert(SLICES.into(), slices);
        }
        if geometry::median_shape(&self.grids, target)[0] == 1.0 {
            return all;
        }
        let spacing = self.spacing(FULL, target);
        let median = geometry::median_shape(&self.grids, spacing);
        let mut full = self.volumes(FULL, spacing, median, voxels(median));
        let low = self.low_resolution(spacing, median, &full);
        full.batch_dice = low.is_some();
        if let Some(low) = low {
            all.insert(LOW.into(), low);
            all.insert(CASCADE.into(), self.cascade(&full));
        }
        all.insert(FULL.into(), full);
        all
    }

    /// None where slices are of one voxel.
    fn slices(&self, target: [f64; 3]) -> Option<Configuration> {
        let spacing_mm = self.spacing(SLICES, target);
        let median = geometry::median_shape(&self.grids, spacing_mm);
        if median[1..] == [1.0, 1.0] {
            return None;
        }
        let dataset_voxels = self.dataset_voxels(voxels(median));
        let space = Space { axes: SLICE, spacing_mm, median, dataset_voxels };
        let planned = self.fit(&space, crate::given(&self.fixed.patch_shape, SLICES));
        // Slices keep their distance, so the third edge is the number of slices as stored.
        let slices = geometry::median(self.grids.iter().map(|g| g.shape[0] as f64));
        Some(Configuration {
            keep_slice_distance: true,
            batch_dice: true,
            ..configuration(spacing_mm, [slices, median[1], median[2]], planned)
        })
    }

    /// `median_voxels` may be those of an unrounded shape.
    fn volumes(
        &self,
        name: &str,
        spacing_mm: [f64; 3],
        median: [f64; 3],
        median_voxels: f64,
    ) -> Configuration {
        let dataset_voxels = self.dataset_voxels(median_voxels);
        let space = Space { axes: VOLUME, spacing_mm, median, dataset_voxels };
        let patch = crate::given(&self.fixed.patch_shape, name);
        configuration(spacing_mm, median, self.fit(&space, patch))
    }

    /// The second stage is the full-resolution network with the first stage's segmentation as further channels.
    fn cascade(&self, full: &Configuration) -> Configuration {
        let own_spacing = self.fixed.spacing_mm.contains_key(CASCADE);
        let own_patch = self.fixed.patch_shape.contains_key(CASCADE);
        let mut cascade = if own_spacing || own_patch {
            let spacing = self.spacing(CASCADE, full.spacing_mm);
            let median = geometry::median_shape(&self.grids, spacing);
            self.volumes(CASCADE, spacing, median, voxels(median))
        } else {
            full.clone()
        };
        cascade.batch_dice = true;
        cascade.cases_from = (!own_spacing).then(|| FULL.into());
        cascade.previous_stage = Some(LOW.into());
        cascade.network.input_channels += self.measured.labels.len() - 1;
        cascade
    }

    fn spacing(&self, name: &str, planned: [f64; 3]) -> [f64; 3] {
        crate::given(&self.fixed.spacing_mm, name).unwrap_or(planned)
    }

    fn dataset_voxels(&self, median_voxels: f64) -> f64 {
        median_voxels * self.measured.training_cases as f64
    }

    /// The cascade's first stage, if the patch at full resolution sees too little of a case: the spacing grows in steps,
    /// at first only that of axes much finer than the coarsest, until the patch planned for it sees enough. None, too, if
    /// that takes hardly any voxels away.
    fn low_resolution(
        &self,
        full_mm: [f64; 3],
        full: [f64; 3],
        at_full: &Configuration,
    ) -> Option<Configuration> {
        let p = self.planning;
        let patch_voxels = |c: &Configuration| voxels(c.patch_shape.map(|edge| edge as f64));
        let (mut spacing, mut median_voxels) = (full_mm, voxels(full));
        let mut seen = patch_voxels(at_full);
        let mut planned = None;
        while seen / median_voxels < p.cascade_below_fraction {
            spacing = coarsened(spacing, p);
            let exact: [f64; 3] = std::array::from_fn(|i| full_mm[i] / spacing[i] * full[i]);
            median_voxels = voxels(exact);
            let median = exact.map(|edge| edge.round_ties_even().max(1.0));
            let low = self.volumes(LOW, spacing, median, median_voxels);
            seen = patch_voxels(&low);
            planned = Some(low);
        }
        if voxels(full) / median_voxels < p.low_resolution_min_reduction {
            return None;
        }
        let spacing = self.fixed.spacing_mm.get(LOW);
        match spacing {
            Some(&spacing) => {
                let exact: [f64; 3] = std::array::from_fn(|i| full_mm[i] / spacing[i] * full[i]);
                let median = exact.map(|edge| edge.round_ties_even().max(1.0));
                Some(self.volumes(LOW, spacing, median, voxels(exact)))
            }
            None => planned,
        }
    }

    /// The largest patch that fits into the memory, and the batch that fits with it.
    fn fit(&self, space: &Space, given: Option<[usize; 3]>) -> Planned {
        let p = self.planning;
        let flat = space.axes == SLICE;
        let (reference, reference_batch) = if flat {
            (p.reference_estimate_2d, p.reference_batch_2d)
        } else {
            (p.reference_estimate_3d, p.reference_batch_3d)
        };
        let reference = reference as f64 * (p.gpu_memory_gib / p.reference_memory_gib);
        let estimate = |pooling: &Pooling| self.estimate(pooling, flat);
        let pool = |edges: [f64; 3]| Pooling::new(space.axes.clone(), space.spacing_mm, edges, p);
        let pooling = match given {
            Some(patch) => Pooling { patch, ..pool(patch.map(|edge| edge as f64)) },
            None => {
                let needed = |pooling: &Pooling| {
                    let one = estimate(pooling) as f64;
                    match p.shrink_until {
                        ShrinkUntil::SmallestBatchFits => {
                            one / reference_batch as f64 * p.min_batch_size as f64
                        }
                        ShrinkUntil::ReferenceBatchFits => one,
                    }
                };
                self.shrunk(space, |pooling| needed(pooling) <= reference)
            }
        };
        let fitting = (reference / estimate(&pooling) as f64) * reference_batch as f64;
        let patch_voxels = voxels(pooling.patch.map(|edge| edge as f64));
        let share = space.dataset_voxels * p.max_dataset_fraction_per_batch / patch_voxels;
        let batch = fitting.round_ties_even().min(share.round_ties_even()) as usize;
        Planned {
            patch: pooling.patch,
            batch: batch.max(p.min_batch_size).max(1),
            network: self.network(&pooling, flat),
        }
    }

    /// From a patch as large as the median case, but not beyond the start box, down to one that fits: each time the axis
    /// that sees the largest share of the median case (the last of several equal ones) loses the smallest step that
    /// keeps it divisible.
    fn shrunk(&self, space: &Space, fits: impl Fn(&Pooling) -> bool) -> Pooling {
        let p = self.planning;
        let pool = |edges: [f64; 3]| Pooling::new(space.axes.clone(), space.spacing_mm, edges, p);
        let mut pooling = pool(start(space, p));
        while !fits(&pooling) {
            let share = |axis: usize| pooling.patch[axis] as f64 / space.median[axis];
            let shrinks = |&axis: &usize| pooling.patch[axis] > pooling.divisor()[axis];
            let axes = space.axes.clone().filter(shrinks);
            let Some(axis) = axes.max_by(|&a, &b| share(a).total_cmp(&share(b))) else { break };
            // The step of the shorter patch may be smaller: 256 becomes 224, not 192.
            let mut shorter = pooling.patch.map(|edge| edge as f64);
            shorter[axis] -= pooling.divisor()[axis] as f64;
            let mut edges = pooling.patch.map(|edge| edge as f64);
            edges[axis] -= pool(shorter).divisor()[axis] as f64;
            pooling = pool(edges);
        }
        pooling
    }

    fn network(&self, pooling: &Pooling, flat: bool) -> Network {
        let p = self.planning;
        let stages = pooling.strides.len();
        let most = if flat { p.max_features_2d } else { p.max_features_3d };
        let doubled = |stage: usize| p.base_features.saturating_mul(1 << stage.min(30));
        let going_on = |all: &[usize], i: usize| all.get(i).or(all.last()).copied().unwrap_or(1);
        // The recipe counts the decoder from the deepest stage, a plan from full resolution.
        let decoder = (0..stages - 1).rev().map(|i| going_on(&p.decoder_convs, i));
        Network {
            encoder: p.encoder,
            input_channels: self.measured.channels.len(),
            output_channels: self.measured.outputs(),
            features: (0..stages).map(|stage| doubled(stage).min(most)).collect(),
            kernels: pooling.kernels.clone(),
            strides: pooling.strides.clone(),
            encoder_convs: (0..stages).map(|i| going_on(&p.encoder_convs, i)).collect(),
            decoder_convs: decoder.collect(),
            deep_supervision: p.deep_supervision,
            negative_slope: p.negative_slope,
            norm_epsilon: p.norm_epsilon,
        }
    }

    /// nnU-Net's estimate counts one output per entry of `labels`, regions and ignore label included.
    fn estimate(&self, pooling: &Pooling, flat: bool) -> u64 {
        let network = self.network(pooling, flat);
        memory::estimate(&network, pooling.patch, self.measured.label_entries())
    }
}

fn configuration(spacing_mm: [f64; 3], median_shape: [f64; 3], planned: Planned) -> Configuration {
    Configuration {
        spacing_mm,
        keep_slice_distance: false,
        median_shape,
        patch_shape: planned.patch,
        batch_size: planned.batch,
        batch_dice: false,
        cases_from: None,
        previous_stage: None,
        network: planned.network,
    }
}

/// A box of the start volume, shaped like a cube in mm, nowhere longer than the median case.
fn start(space: &Space, p: &V2Planning) -> [f64; 3] {
    let edge = if space.axes == SLICE { p.start_edge_2d } else { p.start_edge_3d } as f64;
    let dimensions = space.axes.len();
    let inverse = space.spacing_mm.map(|s| 1.0 / s);
    let product: f64 = space.axes.clone().map(|axis| inverse[axis]).product();
    let volume = (0..dimensions).fold(1.0, |v, _| v * edge);
    let scale = (volume / product).powf(1.0 / dimensions as f64);
    let mut edges = [1.0; 3];
    for axis in space.axes.clone() {
        edges[axis] = (inverse[axis] * scale).round_ties_even().min(space.median[axis]).max(1.0);
    }
    edges
}

/// One step towards the low resolution.
fn coarsened(spacing_mm: [f64; 3], p: &V2Planning) -> [f64; 3] {
    let coarsest = spacing_mm.iter().copied().fold(0.0, f64::max);
    let finer = spacing_mm.map(|s| coarsest / s > p.low_resolution_finer_than);
    let none_finer = finer == [false; 3];
    std::array::from_fn(|axis| {
        if finer[axis] || none_finer {
            spacing_mm[axis] * p.low_resolution_step
        } else {
            spacing_mm[axis]
        }
    })
}
