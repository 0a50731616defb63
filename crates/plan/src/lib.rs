//! Derives configurations (patch, batch, topology, preprocessing) from a fingerprint and a recipe.
//!
//! [`plan()`] is the whole decision, a pure function: the same fingerprint and recipe give the same plan. There are two
//! planners, that of the 2018 paper ([`mod@paper`]) and that of nnU-Net v2 ([`mod@v2`]); every number they use stands in the
//! recipe ([`recipe`]). `README.md` lists their rules with their sources and where they depart from them.

mod budget;
pub mod command;
pub mod folds;
pub mod geometry;
pub mod measured;
mod mt19937;
pub mod nnunet;
mod normalisation;
pub mod paper;
pub mod recipe;
pub mod settings;
pub mod text;
mod topology;
pub mod v2;

use artifact::plan::{Channel, Configuration, Geometry, Plan, PlannedDataset};
use artifact::recipe::{Planning, Recipe};
use measured::Measured;
use std::collections::BTreeMap;

/// Revision of plans and splits.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;

/// Whole slices along the two finest axes.
pub const SLICES: &str = "2d";
/// Volumes at the target spacing.
pub const FULL: &str = "3d_fullres";
/// First stage of the cascade: volumes at a coarser spacing.
pub const LOW: &str = "3d_lowres";
/// Second stage of the cascade: volumes at the target spacing and the first stage's segmentation.
pub const CASCADE: &str = "3d_cascade_fullres";

/// What the user decides in the planner's stead, by configuration name; axes in plan order (z, y, x).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fixed {
    /// Spacing in mm.
    pub spacing_mm: BTreeMap<String, [f64; 3]>,
    /// Patch in voxels; poolings and batch follow from it.
    pub patch_shape: BTreeMap<String, [usize; 3]>,
}

/// The plan for a data set.
pub fn plan(measured: impl Into<Measured>, recipe: &Recipe) -> Plan {
    plan_with(measured, recipe, &Fixed::default())
}

/// As [`plan()`], with some spacings or patches given.
///
/// Where only one weighting of intensities was measured, the plan has that one, and its recipe says so.
pub fn plan_with(measured: impl Into<Measured>, recipe: &Recipe, fixed: &Fixed) -> Plan {
    let measured = measured.into();
    let recipe = measured.followed(recipe);
    match &recipe.planning {
        Planning::Paper(planning) => paper::plan(&measured, &recipe, planning, fixed),
        Planning::V2(planning) => v2::plan(&measured, &recipe, planning, fixed),
    }
}

/// Everything that doesn't depend on the planner.
fn plan_of(
    measured: &Measured,
    recipe: &Recipe,
    transpose: [usize; 3],
    channels: Vec<Channel>,
    configurations: BTreeMap<String, Configuration>,
) -> Plan {
    let grids = geometry::transposed(&measured.grids, transpose);
    let along = |value: fn(&geometry::Grid, usize) -> f64| {
        Some(std::array::from_fn(|axis| geometry::median(grids.iter().map(|g| value(g, axis)))))
    };
    Plan {
        dataset: PlannedDataset {
            name: measured.name.clone(),
            training_cases: measured.training_cases,
            file_ending: measured.file_ending.clone(),
            reader: measured.reader,
        },
        geometry: Geometry {
            transpose,
            median_spacing_mm: along(|g, axis| g.spacing_mm[axis]),
            median_shape: along(|g, axis| g.shape[axis] as f64),
        },
        nnunet: measured.nnunet.clone(),
        channels,
        labels: measured.labels.clone(),
        regions: measured.regions.clone(),
        ignore: measured.ignore.clone(),
        configurations,
        recipe: recipe.clone(),
    }
}

/// What the user gave; the cascade's second stage is the full-resolution net unless it is given its own.
fn given<T: Copy>(all: &BTreeMap<String, T>, name: &str) -> Option<T> {
    let own = all.get(name);
    own.or_else(|| all.get(FULL).filter(|_| name == CASCADE)).copied()
}
