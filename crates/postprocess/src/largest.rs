//! Keeping the largest connected component: of all foreground together, of a class, or of a region.
//!
//! Connectivity is 26 and ties keep all largest components, as in nnU-Net. Removed voxels become background, of a region
//! too, whatever its classes were.

use crate::components::{Components, Connectivity};
use crate::scheme::{Scheme, Targets};
use artifact::postprocessing::Postprocessing;
use ndarray::Array3;

/// One removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Everything but the largest component of what isn't background.
    Foreground,
    /// Everything but the largest component of this class or region, counted from 0.
    Target(usize),
}

/// Does the steps one after the other to class indices `[z, y, x]`; voxels removed per step.
pub fn perform<T: Copy + Default + Into<i32> + PartialEq + Send + Sync>(
    steps: &[Step],
    targets: &Targets,
    map: &mut Array3<T>,
) -> Vec<u64> {
    let background = T::default();
    let mut removed = Vec::with_capacity(steps.len());
    let mut rest = steps;
    while let Some(step) = rest.first() {
        let together = rest.iter().take_while(|s| matches!(s, Step::Target(_))).count();
        if together > 1 && targets.are_disjoint() {
            // Classes don't touch each other's voxels: one scan does for all of them.
            let classes: Vec<i32> = rest[..together]
                .iter()
                .filter_map(|s| {
                    if let Step::Target(t) = s { Some(targets.members[*t][0]) } else { None }
                })
                .collect();
            let components = Components::of_classes(map.view(), Connectivity::Corners);
            removed.extend(components.keep_largest_of(&classes, map, background));
            rest = &rest[together..];
            continue;
        }
        let components = Components::of(map.view(), Connectivity::Corners, |&value| {
            let class: i32 = value.into();
            match step {
                Step::Foreground => class != 0,
                Step::Target(t) => targets.members[*t].contains(&class),
            }
        });
        removed.push(components.keep_largest(map, background));
        rest = &rest[1..];
    }
    removed
}

/// Applies decided rules to class indices `[z, y, x]`, in place. Voxels removed: by the foreground's rule, then by each of
/// `rules.classes`.
pub fn apply<T: Copy + Default + Into<i32> + PartialEq + Send + Sync>(
    rules: &Postprocessing,
    map: &mut Array3<T>,
) -> Vec<u64> {
    let scheme = Scheme::of_rules(rules);
    let targets = scheme.by_class();
    let values = scheme.values();
    let foreground = rules.foreground.as_ref().is_some_and(|f| f.keep_largest_component);
    // Without regions a rule may be missing: it is found by its value, which is unique then.
    let target_of = |i: usize, value: i32| {
        if rules.regions.is_empty() { values.iter().position(|v| *v == value) } else { Some(i) }
    };
    let asked = rules.classes.iter().enumerate().filter(|(_, rule)| rule.keep_largest_component);
    let classes: Vec<(usize, Step)> =
        asked.filter_map(|(i, rule)| Some((i, Step::Target(target_of(i, rule.value)?)))).collect();
    let mut steps = if foreground { vec![Step::Foreground] } else { Vec::new() };
    steps.extend(classes.iter().map(|(_, step)| *step));
    let mut counts = perform(&steps, &targets, map).into_iter();
    let mut removed = vec![0; 1 + rules.classes.len()];
    if foreground {
        removed[0] = counts.next().unwrap_or(0);
    }
    for ((i, _), count) in classes.iter().zip(counts) {
        removed[1 + i] = count;
    }
    removed
}
