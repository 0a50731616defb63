//! Both postprocessing rules on hand-made rows of voxels, and against themselves done the long way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::postprocessing::Postprocessing;
use artifact::recipe::{Postprocessing as Recipe, PostprocessingRule};
use artifact::{Kind, Label, Region};
use ndarray::Array3;
use postprocess::fit::{Evidence, examine, fit};
use postprocess::largest::{Step, apply, perform};
use postprocess::scheme::Scheme;
use postprocess::score::{Counts, mean};
use std::convert::Infallible;

fn plain(values: &[i32]) -> Scheme {
    let label = |&value: &i32| Label { name: format!("label {value}"), value };
    Scheme::plain(values.iter().map(label).collect())
}

const PAPER: Recipe = Recipe {
    rule: PostprocessingRule::TrainingComponents,
    keep_largest_if_single_in_training: true,
    only_if_dice_does_not_fall: false,
};

const V2: Recipe = Recipe { rule: PostprocessingRule::CrossValidatedDice, ..PAPER };

type Pair = (Array3<i16>, Option<Array3<i16>>);

/// Decides from cases in memory; also how many passes that took.
fn decide(scheme: &Scheme, recipe: &Recipe, cases: &[Pair]) -> (Postprocessing, usize) {
    let mut passes = 0;
    let decision = fit::<Infallible>(scheme, recipe, &mut |trials| {
        passes += 1;
        let look = |(r, p): &Pair| examine(scheme, r.view(), p.as_ref(), trials);
        Ok(cases.iter().map(look).collect())
    });
    (decision.unwrap(), passes)
}

fn kept(decision: &Postprocessing) -> Vec<bool> {
    decision.classes.iter().map(|c| c.keep_largest_component).collect()
}

/// One row of voxels.
fn row(classes: &[i16]) -> Array3<i16> {
    Array3::from_shape_vec((1, 1, classes.len()), classes.to_vec()).unwrap()
}

fn pair(reference: &[i16], predicted: &[i16]) -> Pair {
    (row(reference), (!predicted.is_empty()).then(|| row(predicted)))
}

#[test]
fn the_papers_rule_asks_for_a_single_component_in_every_training_case() {
    let scheme = plain(&[0, 1, 2, 3]);
    let careful = Recipe { only_if_dice_does_not_fall: true, ..PAPER };
    let keeps = |recipe: &Recipe, cases: &[Pair]| kept(&decide(&scheme, recipe, cases).0);
    // Class 1 is in one piece, class 2 once in two, class 3 nowhere.
    let cases = [pair(&[1, 1, 0, 2, 0, 2], &[]), pair(&[0, 2, 2, 0, 0, 0], &[])];
    assert_eq!(keeps(&PAPER, &cases), [true, false, false]);
    assert_eq!(keeps(&careful, &cases), [true, false, false]);
    let off = Recipe { keep_largest_if_single_in_training: false, ..PAPER };
    assert_eq!(keeps(&off, &cases), [false; 3]);
    // The true piece of class 1 is the prediction's smaller one: keeping the largest loses it.
    let worse = [pair(&[1, 1, 0, 0, 0, 0, 0], &[1, 1, 0, 0, 1, 1, 1])];
    let (decision, passes) = decide(&scheme, &careful, &worse);
    assert_eq!((decision.classes[0].dice_before, decision.classes[0].dice_after), (4.0 / 7.0, 0.0));
    assert_eq!((kept(&decision), passes), (vec![false; 3], 1));
    let how = decision.decision.unwrap();
    assert_eq!((how.mean_dice_before, how.mean_dice_after), (4.0 / 7.0, 4.0 / 7.0));
    let (decision, _) = decide(&scheme, &PAPER, &worse);
    assert_eq!(kept(&decision), [true, false, false]);
    assert_eq!(decision.decision.unwrap().mean_dice_after, 0.0);
    assert!(decision.foreground.is_none());
    let better = [pair(&[1, 1, 0, 0, 0], &[1, 1, 0, 0, 1])];
    assert_eq!(keeps(&careful, &better), [true, false, false]);
}

#[test]
fn v2s_rule_asks_for_a_strict_rise_of_the_mean_without_a_class_that_falls() {
    let scheme = plain(&[0, 1, 2]);
    // A stray voxel of class 1 goes with the foreground's smaller component; afterwards nothing is left to gain.
    let stray = [pair(&[1, 1, 2, 2, 0, 0], &[1, 1, 2, 2, 0, 1])];
    let (decision, passes) = decide(&scheme, &V2, &stray);
    assert!(decision.foreground.as_ref().unwrap().keep_largest_component);
    assert_eq!((kept(&decision), passes), (vec![false; 2], 1));
    let how = decision.decision.unwrap();
    assert_eq!((how.mean_dice_before, how.mean_dice_after), ((0.8 + 1.0) / 2.0, 1.0));
    // Two true components: foreground together would lose class 2. Class 1 alone gains.
    let apart = [pair(&[1, 1, 0, 0, 0, 2, 0], &[1, 1, 0, 1, 0, 2, 0])];
    let (decision, _) = decide(&scheme, &V2, &apart);
    let foreground = decision.foreground.as_ref().unwrap();
    assert!(!foreground.keep_largest_component);
    assert_eq!(kept(&decision), [true, false]);
    assert_eq!((decision.classes[0].dice_before, decision.classes[0].dice_after), (0.8, 1.0));
    assert_eq!((decision.classes[1].dice_before, decision.classes[1].dice_after), (1.0, 1.0));
    // Nothing to remove: no rise, nothing kept.
    let same = [pair(&[1, 1, 0, 2, 2], &[1, 1, 0, 2, 2])];
    assert_eq!(kept(&decide(&scheme, &V2, &same).0), [false, false]);
    // The mean rises but class 2 falls: class 1 gains much in a first case, class 2 loses a little in a second.
    let mixed = [
        pair(&[1, 0, 0, 0, 2, 2], &[1, 0, 1, 1, 2, 2]),
        pair(&[1, 1, 1, 0, 2, 2], &[1, 1, 1, 0, 2, 2]),
    ];
    let (decision, _) = decide(&scheme, &V2, &mixed);
    assert!(!decision.foreground.as_ref().unwrap().keep_largest_component);
}

#[test]
fn applying_does_foreground_then_classes_and_keeps_ties_in_any_integer_type() {
    let scheme = plain(&[0, 4, 9]);
    let (mut rules, _) = decide(&scheme, &PAPER, &[pair(&[1, 1, 0, 2], &[])]);
    assert_eq!(kept(&rules), [true, true]);
    rules.classes.remove(1);
    let classes = [1, 0, 1, 1, 0, 2, 0, 2, 1];
    let mut map = row(&classes);
    assert_eq!(apply(&rules, &mut map), [0, 2]);
    assert_eq!(map, row(&[0, 0, 1, 1, 0, 2, 0, 2, 0]));
    let mut bytes = row(&classes).mapv(|c| c as u8);
    assert_eq!(apply(&rules, &mut bytes), [0, 2]);
    assert_eq!(bytes, map.mapv(|c| c as u8));
    let mut words = row(&classes).mapv(|c| c as u16);
    apply(&rules, &mut words);
    assert_eq!(words, map.mapv(|c| c as u16));
    // Foreground: the components are 1 | 1 1 | 2 | 2 1, of which two have two voxels.
    rules.foreground = decide(&scheme, &V2, &[pair(&[1, 0, 0], &[1, 0, 0])]).0.foreground;
    rules.foreground.as_mut().unwrap().keep_largest_component = true;
    let mut map = row(&classes);
    assert_eq!(apply(&rules, &mut map), [2, 1]);
    assert_eq!(map, row(&[0, 0, 1, 1, 0, 0, 0, 2, 0]));
}

/// The tumour is 1 and 2, its core 2.
fn regional(cores: usize) -> Scheme {
    let region = |name: &str, values: &[i32], value| Region {
        name: name.into(),
        values: values.to_vec(),
        value,
    };
    let mut regions = vec![region("tumour", &[1, 2], 1), region("core", &[2], 2)];
    regions.truncate(1 + cores);
    Scheme { regions, ignore: Some(Label { name: "ignore".into(), value: 3 }), ..plain(&[0, 1, 2]) }
}

#[test]
fn regions_are_judged_in_turn_and_removed_as_masks() {
    let scheme = regional(1);
    // The stray piece of the tumour holds a stray core: with the tumour's step the core is right too.
    let cases = [
        pair(&[1, 2, 1, 0, 0, 0], &[1, 2, 1, 0, 1, 2]),
        pair(&[0, 1, 1, 0, 2, 0], &[0, 1, 1, 0, 2, 0]),
    ];
    let (decision, passes) = decide(&scheme, &V2, &cases);
    assert_eq!(passes, 3);
    // The foreground's largest component loses the second case's true core, which falls. The tumour's own Dice rises from
    // (6/8 + 1) / 2 to (1 + 4/5) / 2, whatever becomes of the core …
    assert!(!decision.foreground.as_ref().unwrap().keep_largest_component);
    assert_eq!(kept(&decision), [true, false]);
    let dice = [&decision.classes[0], &decision.classes[1]].map(|c| (c.dice_before, c.dice_after));
    assert_eq!(dice, [(0.875, 0.9), (0.5, 0.5)]);
    // … but with the first case alone the foreground is, and then nothing is left for the regions.
    let (decision, passes) = decide(&scheme, &V2, &cases[..1]);
    assert!(decision.foreground.as_ref().unwrap().keep_largest_component);
    assert_eq!((kept(&decision), passes), (vec![false, false], 3));
    assert_eq!(decision.decision.as_ref().unwrap().mean_dice_after, 1.0);
    decision.check().unwrap();
    // The paper's rule asks the labels: the first case has one component of both.
    let (decision, _) = decide(&scheme, &PAPER, &cases[..1]);
    assert_eq!(kept(&decision), [true, true]);
    let mut map = cases[0].1.clone().unwrap();
    assert_eq!(apply(&decision, &mut map), [0, 2, 0]);
    assert_eq!(map, cases[0].0);
    // Without predictions it decides by the labels alone, and takes one pass.
    let (decision, passes) = decide(&scheme, &PAPER, &[(cases[0].0.clone(), None)]);
    assert_eq!((kept(&decision), passes), (vec![true, true], 1));
}

#[test]
fn a_single_region_is_left_to_the_foregrounds_rule() {
    let cases = [pair(&[1, 2, 1, 0, 0], &[1, 2, 1, 0, 1])];
    let (decision, passes) = decide(&regional(0), &V2, &cases);
    assert!(decision.foreground.as_ref().unwrap().keep_largest_component);
    assert_eq!((kept(&decision), passes), (vec![false], 1));
}

#[test]
fn ignored_voxels_are_no_component_and_no_error() {
    // Class index 3 is the ignore label: the stray prediction lies where nobody knows.
    let (decision, _) = decide(&regional(1), &PAPER, &[pair(&[1, 2, 0, 3, 3], &[1, 2, 0, 1, 1])]);
    let rules = &decision.classes;
    assert_eq!((rules[0].most_components_in_training, rules[0].dice_before), (1, 1.0));
}

/// Numbers that look random and are the same every time (splitmix64).
fn draws(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The rule of v2 the long way: every step applied to all maps, everything scored again.
fn long_way(scheme: &Scheme, cases: &[Pair]) -> Vec<Step> {
    let targets = scheme.by_class();
    let dice = |steps: &[Step]| -> Vec<f64> {
        let scored: Vec<Vec<f64>> = cases
            .iter()
            .map(|(reference, predicted)| {
                let mut map = predicted.clone().unwrap();
                for step in steps {
                    perform(&[*step], &targets, &mut map);
                }
                let mut counts = Counts::default();
                counts.add_classes(map.view(), reference.view());
                counts.overlaps(&targets).iter().map(|o| o.dice()).collect()
            })
            .collect();
        (0..targets.len()).map(|t| mean(scored.iter().map(|case| case[t]))).collect()
    };
    let whole = |dice: &[f64]| mean(dice.iter().copied());
    let (before, after) = (dice(&[]), dice(&[Step::Foreground]));
    let falls = before.iter().zip(&after).any(|(b, a)| a < b);
    let mut steps = Vec::new();
    if whole(&after) > whole(&before) && !falls {
        steps.push(Step::Foreground);
    }
    for target in 0..targets.len() {
        let trial = [steps.clone(), vec![Step::Target(target)]].concat();
        if dice(&trial)[target] > dice(&steps)[target] {
            steps = trial;
        }
    }
    steps
}

#[test]
fn one_pass_over_classes_decides_as_step_after_step_does() {
    let (mut foreground, mut classes) = (0, 0);
    for seed in 0..150 {
        let mut draw = draws(seed);
        for scheme in [plain(&[0, 1, 2]), regional(1)] {
            let cases: Vec<Pair> =
                (0..3)
                    .map(|_| {
                        let center = draw() * 3.0;
                        let reference = Array3::from_shape_fn((3, 6, 6), |(z, y, x)| {
                            let far = (y as f64 - 2.0).abs() + (x as f64 - center).abs() + z as f64;
                            if far < 1.5 { 2 } else { i16::from(far < 3.5) }
                        });
                        let noise = 0.02 + 0.1 * draw();
                        let predicted = reference.mapv(|class: i16| {
                            if draw() < noise { (draw() * 3.0) as i16 } else { class }
                        });
                        (reference, Some(predicted))
                    })
                    .collect();
            let (decision, _) = decide(&scheme, &V2, &cases);
            let mut steps = Vec::new();
            if decision.foreground.as_ref().unwrap().keep_largest_component {
                steps.push(Step::Foreground);
                foreground += 1;
            }
            steps.extend((0..2).filter(|&t| kept(&decision)[t]).map(Step::Target));
            classes += steps.iter().filter(|s| matches!(s, Step::Target(_))).count();
            assert_eq!(steps, long_way(&scheme, &cases), "seed {seed}");
            // What was promised is what applying gives.
            let targets = scheme.by_class();
            let after: Vec<Evidence> = cases
                .iter()
                .map(|(r, p)| {
                    let mut map = p.clone().unwrap();
                    apply(&decision, &mut map);
                    examine(&scheme, r.view(), Some(&map), &[Vec::new()])
                })
                .collect();
            let dice = (0..targets.len())
                .map(|t| mean(after.iter().map(|e| e.overlaps.as_ref().unwrap()[0][t].dice())));
            assert_eq!(mean(dice), decision.decision.unwrap().mean_dice_after, "seed {seed}");
        }
    }
    assert!(foreground > 20 && classes > 20, "too easy: {foreground}, {classes}");
}
