//! The planner of the 2018 paper (Isensee et al., arXiv 1809.10486, sections 2.1 and 2.2).

use crate::budget::Budget;
use crate::geometry::{self, Grid};
use crate::measured::Measured;
use crate::{CASCADE, FULL, Fixed, LOW, SLICES, normalisation, topology};
use artifact::plan::{Configuration, Network, Plan};
use artifact::recipe::{PaperPlanning, Recipe};
use std::collections::BTreeMap;

/// Everything that the configurations share.
struct Planner<'a> {
    planning: &'a PaperPlanning,
    fixed: &'a Fixed,
    measured: &'a Measured,
    /// Plan order.
    grids: Vec<Grid>,
}

pub(crate) fn plan(
    measured: &Measured,
    recipe: &Recipe,
    planning: &PaperPlanning,
    fixed: &Fixed,
) -> Plan {
    let target = geometry::target_spacing(&measured.grids, planning.target_spacing_percentile);
    let transpose = geometry::transpose_flat_first(target, &measured.grids);
    let grids = geometry::transposed(&measured.grids, transpose);
    let planner = Planner { planning, fixed, measured, grids };
    let masked = measured.mean_relative_size <= planning.masked_normalisation_below;
    crate::plan_of(
        measured,
        recipe,
        transpose,
        normalisation::channels(measured, masked, planning.intensity_weighting),
        planner.configurations(),
    )
}

impl Planner<'_> {
    fn configurations(&self) -> BTreeMap<String, Configuration> {
        let target = geometry::target_spacing(&self.grids, self.planning.target_spacing_percentile);
        let mut all = BTreeMap::new();
        if let Some(slices) = self.slices(target) {
            all.insert(SLICES.into(), slices);
        }
        if self.median_shape(target)[0] == 1 {
            return all;
        }
        let low = self.low_resolution_spacing(target);
        let cascade = low.is_some();
        all.insert(FULL.into(), self.volumes(FULL, target, cascade, None));
        if let Some(spacing) = low {
            // The paper: sample Dice for nets that see nearly the whole patient, batch Dice for all others.
            all.insert(LOW.into(), self.volumes(LOW, spacing, false, None));
            all.insert(CASCADE.into(), self.volumes(CASCADE, target, true, Some(LOW)));
        }
        all
    }

    /// None where slices are of one voxel.
    fn slices(&self, target: [f64; 3]) -> Option<Configuration> {
        let spacing_mm = self.spacing(SLICES, target);
        let [_, rows, columns] = self.median_shape(spacing_mm);
        if [rows, columns] == [1, 1] {
            return None;
        }
        // Slices keep their distance, so the third edge is the number of slices as stored.
        let slices = geometry::median(self.grids.iter().map(|g| g.shape[0] as f64));
        let median_shape = [slices.round_ties_even() as usize, rows, columns];
        let budget = Budget::slices(self.planning);
        let patch = self.fixed.patch_shape.get(SLICES).copied();
        let patch_shape =
            patch.unwrap_or_else(|| topology::patch([1, rows, columns], self.planning, &budget));
        Some(Configuration {
            spacing_mm,
            keep_slice_distance: true,
            median_shape: median_shape.map(|edge| edge as f64),
            patch_shape,
            batch_size: self.batch(&budget, patch_shape, median_shape),
            batch_dice: true,
            cases_from: None,
            previous_stage: None,
            network: self.network(patch_shape, self.measured.channels.len(), &budget),
        })
    }

    fn volumes(
        &self,
        name: &str,
        spacing: [f64; 3],
        batch_dice: bool,
        previous_stage: Option<&str>,
    ) -> Configuration {
        let spacing_mm = self.spacing(name, spacing);
        let median_shape = self.median_shape(spacing_mm);
        let budget = Budget::volumes(self.planning);
        let patch = crate::given(&self.fixed.patch_shape, name);
        let patch_shape =
            patch.unwrap_or_else(|| topology::patch(median_shape, self.planning, &budget));
        let one_hot = if previous_stage.is_some() { self.measured.labels.len() - 1 } else { 0 };
        Configuration {
            spacing_mm,
            keep_slice_distance: false,
            median_shape: median_shape.map(|edge| edge as f64),
            patch_shape,
            batch_size: self.batch(&budget, patch_shape, median_shape),
            batch_dice,
            cases_from: previous_stage.map(|_| FULL.into()),
            previous_stage: previous_stage.map(String::from),
            network: self.network(patch_shape, self.measured.channels.len() + one_hot, &budget),
        }
    }

    /// Rounded.
    fn median_shape(&self, spacing_mm: [f64; 3]) -> [usize; 3] {
        geometry::rounded(geometry::median_shape(&self.grids, spacing_mm))
    }

    fn spacing(&self, name: &str, planned: [f64; 3]) -> [f64; 3] {
        crate::given(&self.fixed.spacing_mm, name).unwrap_or(planned)
    }

    fn batch(&self, budget: &Budget, patch: [usize; 3], median: [usize; 3]) -> usize {
        let dataset_voxels = voxels(median) * self.measured.training_cases as f64;
        budget.batch(self.planning, patch, dataset_voxels)
    }

    fn network(&self, patch: [usize; 3], inputs: usize, budget: &Budget) -> Network {
        topology::network(patch, inputs, self.measured.outputs(), self.planning, budget)
    }

    /// The spacing of the cascade's first stage, or none if there is no need of a cascade: the target spacing grows by
    /// steps, at first only the finer axes until they match the coarsest, then all, until the median case has at most
    /// `cascade_above_patches` times the voxels that fit into a patch.
    fn low_resolution_spacing(&self, target: [f64; 3]) -> Option<[f64; 3]> {
        let p = self.planning;
        let most = p.cascade_above_patches * Budget::volumes(p).patch_voxels as f64;
        let too_large = |spacing| voxels(self.median_shape(spacing)) > most.max(1.0);
        let mut spacing = self.spacing(FULL, target);
        if !too_large(spacing) || p.low_resolution_step <= 1.0 {
            return None;
        }
        while too_large(spacing) {
            let coarsest = spacing.iter().copied().fold(0.0, f64::max);
            let finer = spacing.map(|s| coarsest / s >= p.anisotropy_threshold);
            let none_finer = finer == [false; 3];
            for axis in 0..3 {
                if finer[axis] || none_finer {
                    let step = p.low_resolution_step;
                    // A finer axis stops at the coarsest one.
                    let step = if none_finer { step } else { step.min(coarsest / spacing[axis]) };
                    spacing[axis] *= step;
                }
            }
        }
        Some(spacing)
    }
}

fn voxels(shape: [usize; 3]) -> f64 {
    shape.iter().map(|&n| n as f64).product()
}
