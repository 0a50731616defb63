//! The 2018 paper's postprocessing rule: if a class forms a single connected component in all training cases, keep only
//! its largest one in predictions.
//!
//! Connectivity is 26, as in nnU-Net. With cross-validated predictions at hand the recipe may ask further that the mean
//! Dice of the class doesn't fall; each class is judged for itself, since removing voxels of one doesn't change another.

use crate::components::{Components, Connectivity};
use crate::score::{Overlap, mean};
use artifact::Label;
use artifact::postprocessing::{ClassRule, Postprocessing};
use artifact::recipe;
use ndarray::{Array3, ArrayView3};

/// What one training case says about each foreground class, in the order of `labels[1..]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Components in the reference.
    pub components: Vec<u64>,
    /// Dice of the case's cross-validated prediction, as it is and with the largest component only; NaN if the class
    /// is in neither map. None where no prediction is given.
    pub dice: Option<Vec<[f64; 2]>>,
}

/// Looks at one case: its reference and, if there is one, the prediction of the fold that didn't train on it. Both are
/// `[z, y, x]` of the same shape and hold class indices, 0 to `classes - 1`.
pub fn evidence(
    classes: usize,
    reference: ArrayView3<'_, i16>,
    predicted: Option<ArrayView3<'_, i16>>,
) -> Evidence {
    let foreground = || (1..classes).filter_map(|class| i16::try_from(class).ok());
    let count =
        |class| Components::of(reference, Connectivity::Corners, |&c| c == class).count() as u64;
    Evidence {
        components: foreground().map(count).collect(),
        dice: predicted.map(|predicted| {
            foreground().map(|class| dice_pair(class, reference, predicted)).collect()
        }),
    }
}

/// Dice of one class, before and after the rule.
fn dice_pair(
    class: i16,
    reference: ArrayView3<'_, i16>,
    predicted: ArrayView3<'_, i16>,
) -> [f64; 2] {
    let before = predicted.mapv(|c| c == class);
    let mut after = before.clone();
    Components::of(before.view(), Connectivity::Corners, |&b| b).keep_largest(&mut after, false);
    [before, after].map(|mask| {
        let mut overlap = Overlap::default();
        for (&p, &r) in mask.iter().zip(reference) {
            overlap.predicted += u64::from(p);
            overlap.reference += u64::from(r == class);
            overlap.both += u64::from(p && r == class);
        }
        overlap.dice()
    })
}

/// Decides for every foreground class from the evidence of all training cases.
///
/// A class that no training label has is left alone: nothing is known about its components.
pub fn decide(
    labels: &[Label],
    cases: &[Evidence],
    recipe: &recipe::Postprocessing,
) -> Postprocessing {
    let rule = |(class, label): (usize, &Label)| {
        let most = cases.iter().map(|c| c.components[class]).max().unwrap_or(0);
        let dice = |at: usize| {
            mean(cases.iter().filter_map(|c| c.dice.as_ref()).map(|dice| dice[class][at]))
        };
        let [before, after] = [dice(0), dice(1)];
        let single = recipe.keep_largest_if_single_in_training && most == 1;
        // Comparisons with NaN are false: without predictions the Dice has no say.
        let falls = recipe.only_if_dice_does_not_fall && after < before;
        ClassRule {
            label: label.name.clone(),
            value: label.value,
            keep_largest_component: single && !falls,
            most_components_in_training: most,
            dice_before: before,
            dice_after: after,
        }
    };
    Postprocessing {
        labels: labels.to_vec(),
        classes: labels.iter().skip(1).enumerate().map(rule).collect(),
    }
}

/// Applies the rules to class indices `[z, y, x]`; removed voxels become background. Voxels removed per rule.
pub fn apply(rules: &Postprocessing, map: &mut Array3<i16>) -> Vec<u64> {
    let class_of = |rule: &ClassRule| rules.labels.iter().position(|l| l.value == rule.value);
    let remove = |rule: &ClassRule| {
        let class = class_of(rule).filter(|_| rule.keep_largest_component);
        let Some(class) = class.and_then(|c| i16::try_from(c).ok()) else { return 0 };
        Components::of(map.view(), Connectivity::Corners, |&c| c == class).keep_largest(map, 0)
    };
    rules.classes.iter().map(remove).collect()
}
