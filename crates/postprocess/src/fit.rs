//! Decides which largest components are kept, by one of two rules.
//!
//! `training_components`, the 2018 paper's: if a class forms a single connected component in all training labels, keep its
//! largest one in predictions; the recipe may ask further that its cross-validated Dice doesn't fall.
//!
//! `cross_validated_dice`, nnU-Net v2's (`determine_postprocessing`): first all foreground together, if the mean foreground
//! Dice rises strictly and no single class or region gets worse; then each class or region in its order, if its own Dice
//! rises strictly. Means leave out what isn't a number, where v2's mean over classes becomes NaN, and its comparison false.
//!
//! Classes don't share voxels, so that one pass over the cases answers every question; regions do, and take a pass each.

use crate::components::{Components, Connectivity};
use crate::largest::{Step, perform};
use crate::scheme::{Scheme, Targets};
use crate::score::{Counts, Overlap, mean, mean_dice};
use artifact::postprocessing::{ClassRule, Decision, ForegroundRule, Postprocessing};
use artifact::recipe::{self, PostprocessingRule};
use ndarray::{Array3, ArrayView3};

/// Steps whose effect together is in question.
pub type Trial = Vec<Step>;

/// What one training case says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Components of each class or region in the reference.
    pub components: Vec<u64>,
    /// Per trial, the overlap of each class or region after it. None where no prediction is given.
    pub overlaps: Option<Vec<Vec<Overlap>>>,
}

/// Looks at one case: its reference and, if there is one, the prediction of the fold that didn't train on it. Both are
/// `[z, y, x]` of the same shape and hold class indices; `scheme.classes()` marks voxels to ignore in the reference.
pub fn examine(
    scheme: &Scheme,
    reference: ArrayView3<'_, i16>,
    predicted: Option<&Array3<i16>>,
    trials: &[Trial],
) -> Evidence {
    let targets = scheme.by_class();
    let overlaps = predicted.map(|predicted| {
        let score = |trial: &Trial| {
            let mut counts = Counts::default();
            if trial.is_empty() {
                counts.add_classes(predicted.view(), reference);
            } else {
                let mut map = predicted.clone();
                perform(trial, &targets, &mut map);
                counts.add_classes(map.view(), reference);
            }
            counts.overlaps(&targets)
        };
        trials.iter().map(score).collect()
    });
    Evidence { components: components(&targets, reference), overlaps }
}

fn components(targets: &Targets, reference: ArrayView3<'_, i16>) -> Vec<u64> {
    if targets.are_disjoint() {
        let all = Components::of_classes(reference, Connectivity::Corners);
        return targets.members.iter().map(|m| all.count_of(m[0]) as u64).collect();
    }
    let count = |members: &Vec<i32>| {
        let belongs = |&class: &i16| members.contains(&i32::from(class));
        Components::of(reference, Connectivity::Corners, belongs).count() as u64
    };
    targets.members.iter().map(count).collect()
}

/// A pass over all training cases: [`examine`] of each with these trials.
pub type Pass<'a, E> = dyn FnMut(&[Trial]) -> Result<Vec<Evidence>, E> + 'a;

/// Mean Dice of a trial.
#[derive(Debug, Clone)]
struct Scores {
    dice: Vec<f64>,
    mean: f64,
}

impl Scores {
    fn of(targets: usize, cases: &[Evidence], trial: usize) -> Self {
        let scored = cases.iter().filter_map(|c| c.overlaps.as_ref()).map(|o| &o[trial]);
        Self::from_dice(mean_dice(targets, scored))
    }

    fn from_dice(dice: Vec<f64>) -> Self {
        Self { mean: mean(dice.iter().copied()), dice }
    }

    /// Whether the mean rises and nothing falls. Comparisons with NaN are false.
    fn beats(&self, before: &Self) -> bool {
        self.mean > before.mean && !self.dice.iter().zip(&before.dice).any(|(a, b)| a < b)
    }
}

/// What was found about one class or region.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    keep: bool,
    before: f64,
    after: f64,
}

/// Decides from passes over the training cases.
///
/// # Errors
/// Those of a pass.
pub fn fit<E>(
    scheme: &Scheme,
    recipe: &recipe::Postprocessing,
    pass: &mut Pass<'_, E>,
) -> Result<Postprocessing, E> {
    let targets = scheme.by_class();
    let n = targets.len();
    let disjoint = targets.are_disjoint();
    let each: Trial = (0..n).map(Step::Target).collect();
    let cross_validated = recipe.rule == PostprocessingRule::CrossValidatedDice;
    let mut trials = vec![Vec::new()];
    if cross_validated {
        trials.push(vec![Step::Foreground]);
    }
    if disjoint {
        // What happens to a class under all steps is what happens to it under its own.
        trials.push(each.clone());
        trials.push([vec![Step::Foreground], each].concat());
        trials.truncate(if cross_validated { 4 } else { 2 });
    }
    let cases = pass(&trials)?;
    let scores: Vec<Scores> = (0..trials.len()).map(|t| Scores::of(n, &cases, t)).collect();
    let foreground = cross_validated.then(|| ForegroundRule {
        keep_largest_component: scores[1].beats(&scores[0]),
        dice_before: scores[0].mean,
        dice_after: scores[1].mean,
    });
    let most: Vec<u64> = (0..n)
        .map(|target| cases.iter().map(|c| c.components[target]).max().unwrap_or(0))
        .collect();
    let judge = Judge { recipe, most: &most };
    let begun = foreground.as_ref().is_some_and(|f| f.keep_largest_component);
    let start = usize::from(begun);
    let (verdicts, after) = if disjoint {
        let last = if cross_validated { 2 + start } else { 1 };
        judge.together(&scores[start], &scores[last])
    } else {
        let steps = if begun { vec![Step::Foreground] } else { Vec::new() };
        judge.in_turn(steps, scores[start].clone(), pass)?
    };
    let decision = Decision {
        rule: recipe.rule,
        mean_dice_before: scores[0].mean,
        mean_dice_after: after.mean,
    };
    Ok(record(scheme, decision, foreground, &verdicts, &most))
}

/// Who judges a class or region.
struct Judge<'a> {
    recipe: &'a recipe::Postprocessing,
    /// Most components in a training label.
    most: &'a [u64],
}

impl Judge<'_> {
    /// A class that no training label has is left alone by the paper's rule: nothing is known about its components.
    fn single(&self, target: usize) -> bool {
        self.recipe.keep_largest_if_single_in_training && self.most[target] == 1
    }

    /// With one class its largest component is the foreground's, which was judged before.
    fn keeps(&self, target: usize, before: f64, after: f64) -> bool {
        match self.recipe.rule {
            PostprocessingRule::CrossValidatedDice => self.most.len() > 1 && after > before,
            // Comparisons with NaN are false: without predictions the Dice has no say.
            PostprocessingRule::TrainingComponents => {
                let falls = self.recipe.only_if_dice_does_not_fall && after < before;
                self.single(target) && !falls
            }
        }
    }

    /// Classes, which don't change each other.
    fn together(&self, before: &Scores, after: &Scores) -> (Vec<Verdict>, Scores) {
        let judged = before.dice.iter().zip(&after.dice).enumerate();
        let verdicts: Vec<Verdict> = judged
            .map(|(t, (&before, &after))| Verdict {
                keep: self.keeps(t, before, after),
                before,
                after,
            })
            .collect();
        let dice = verdicts.iter().map(|v| if v.keep { v.after } else { v.before }).collect();
        (verdicts, Scores::from_dice(dice))
    }

    /// Regions, each after what was decided for those before it.
    fn in_turn<E>(
        &self,
        mut steps: Trial,
        mut scores: Scores,
        pass: &mut Pass<'_, E>,
    ) -> Result<(Vec<Verdict>, Scores), E> {
        let n = self.most.len();
        let mut verdicts = Vec::with_capacity(n);
        for target in 0..n {
            let before = scores.dice[target];
            let asked = match self.recipe.rule {
                PostprocessingRule::CrossValidatedDice => n > 1 && !scores.mean.is_nan(),
                PostprocessingRule::TrainingComponents => self.single(target),
            };
            if !asked {
                verdicts.push(Verdict { keep: false, before, after: f64::NAN });
                continue;
            }
            let trial = [steps.clone(), vec![Step::Target(target)]].concat();
            let then = if scores.mean.is_nan() {
                scores.clone()
            } else {
                Scores::of(n, &pass(std::slice::from_ref(&trial))?, 0)
            };
            let after = then.dice[target];
            let keep = self.keeps(target, before, after);
            verdicts.push(Verdict { keep, before, after });
            if keep {
                (steps, scores) = (trial, then);
            }
        }
        Ok((verdicts, scores))
    }
}

fn record(
    scheme: &Scheme,
    decision: Decision,
    foreground: Option<ForegroundRule>,
    verdicts: &[Verdict],
    most: &[u64],
) -> Postprocessing {
    let names = scheme.names().into_iter().zip(scheme.values());
    let classes = names
        .zip(verdicts.iter().zip(most))
        .map(|((name, value), (verdict, &most))| ClassRule {
            label: name.into(),
            value,
            keep_largest_component: verdict.keep,
            most_components_in_training: most,
            dice_before: verdict.before,
            dice_after: verdict.after,
        })
        .collect();
    Postprocessing {
        decision: Some(decision),
        foreground,
        labels: scheme.labels.clone(),
        regions: scheme.regions.clone(),
        classes,
    }
}
