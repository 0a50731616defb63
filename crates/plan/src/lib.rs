//! Derives configurations (patch, batch, topology, preprocessing) from a fingerprint and a recipe.
//!
//! [`plan`] is the whole decision, a pure function: the same fingerprint and recipe give the same plan. The rules are
//! those of the 2018 paper ([`mod@paper`]); every number they use stands in the recipe ([`recipe`]). `README.md` lists the
//! rules with their sources and where this planner departs from them.

mod budget;
pub mod command;
pub mod folds;
pub mod geometry;
mod mt19937;
mod normalisation;
pub mod paper;
pub mod recipe;
pub mod settings;
pub mod text;
mod topology;

use artifact::fingerprint::Fingerprint;
use artifact::plan::Plan;
use artifact::recipe::{PlanningRules, Recipe};
use std::collections::BTreeMap;

/// What the user decides in the planner's stead, by configuration name; axes in plan order (z, y, x).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fixed {
    /// Spacing in mm.
    pub spacing_mm: BTreeMap<String, [f64; 3]>,
    /// Patch in voxels; poolings and batch follow from it.
    pub patch_shape: BTreeMap<String, [usize; 3]>,
}

/// The plan for a data set.
pub fn plan(fingerprint: &Fingerprint, recipe: &Recipe) -> Plan {
    plan_with(fingerprint, recipe, &Fixed::default())
}

/// As [`plan`], with some spacings or patches given.
pub fn plan_with(fingerprint: &Fingerprint, recipe: &Recipe, fixed: &Fixed) -> Plan {
    match recipe.planning.rules {
        PlanningRules::Paper => paper::plan(fingerprint, recipe, fixed),
    }
}
