//! Dice and cross-entropy: values against the definition, gradients against its finite differences.
use super::*;
use crate::loss::{LossOptions, Outputs, Targets};
use crate::ops::loss::{self, Terms};
use crate::reference::{self, LossRule};
use ndarray::{Array4, Array5};

struct Case {
    shape: (usize, usize, usize, usize, usize),
    batch_dice: bool,
    background: bool,
    smooth: f32,
}

const fn case(
    shape: (usize, usize, usize, usize, usize),
    batch_dice: bool,
    background: bool,
    smooth: f32,
) -> Case {
    Case { shape, batch_dice, background, smooth }
}

/// One voxel, odd sizes, 2 to 33 channels (three blocks of channels), every combination of the two switches.
const CASES: &[Case] = &[
    case((1, 2, 1, 1, 1), true, false, 1e-5),
    case((2, 3, 3, 4, 5), true, false, 1e-5),
    case((2, 3, 3, 4, 5), false, false, 1.0),
    case((3, 16, 1, 5, 3), true, true, 1e-5),
    case((2, 17, 2, 3, 4), false, true, 1e-5),
    case((2, 33, 1, 4, 4), true, false, 0.5),
];

/// Labels below `usable`.
fn labels(case: &Case, usable: usize) -> Array4<usize> {
    let (n, _, d, h, w) = case.shape;
    let noise = random((n, 1, d, h, w), 12);
    let pick = |v: &f64| ((v + 1.0) / 2.0 * usable as f64) as usize;
    let shape = (n, d, h, w);
    Array4::from_shape_vec(shape, noise.iter().map(pick).collect()).unwrap()
}

/// The loss in place, at every vector level: all give the same bytes.
fn loss(x: &mut Array5<f32>, target: &[i16], options: &LossOptions, scale: Option<f64>) -> Terms {
    let (n, c, d, h, w) = x.dim();
    let mut results = levels().into_iter().map(|level| {
        let mut values: Vec<f32> = x.iter().copied().collect();
        let shape = [n, c, d * h * w];
        let terms = loss::loss(level, &mut values, shape, target, options, scale);
        (values, terms)
    });
    let (values, terms) = results.next().unwrap();
    for other in results {
        assert_eq!(other, (values.clone(), terms.clone()), "vector levels differ");
    }
    *x = Array5::from_shape_vec(x.dim(), values).unwrap();
    terms
}

fn logits(x: &Grid) -> Array5<f32> {
    x.mapv(|v| v as f32)
}

/// Values, and the gradient by central differences of the definition.
fn check(name: &str, case: &Case, target: &Array4<usize>, targets: Targets) {
    let x = random(case.shape, 11).mapv(|v| 3.0 * v);
    let rule = LossRule {
        dice: 0.75,
        cross_entropy: 1.5,
        smooth: f64::from(case.smooth),
        background: case.background,
        batch: case.batch_dice,
        regions: match &targets.outputs {
            Outputs::Classes => None,
            Outputs::Regions { members, .. } => Some(members.clone()),
        },
        ignore: targets.ignore.map(|class| class as usize),
    };
    let options = LossOptions {
        dice_weight: 0.75,
        cross_entropy_weight: 1.5,
        smooth: case.smooth,
        dice_background: case.background,
        batch_dice: case.batch_dice,
        targets,
    };
    let (_, dice, entropy) = reference::loss(&x, target, &rule);
    // -1 marks voxels outside the image: background. Where the label is 0 both must mean the same.
    let flat: Vec<i16> = (target.iter().enumerate())
        .map(|(i, t)| if *t == 0 && i % 2 == 0 { -1 } else { *t as i16 })
        .collect();
    let mut found = logits(&x);
    let scale = 0.5;
    let terms = loss(&mut found, &flat, &options, Some(scale));
    // Each probability and logarithm errs by some ulps of at most 6; means over voxels do not add to that, but
    // regions with an ignore label are summed, not averaged, over the channels.
    let bound = 16.0 * f64::from(f32::EPSILON) * entropy.max(1.0);
    assert!((terms.dice - dice).abs() < bound, "{name}: dice {} != {dice}", terms.dice);
    let ce = terms.cross_entropy;
    assert!((ce - entropy).abs() < bound, "{name}: cross-entropy {ce} != {entropy}");
    let step = 1e-4;
    for (index, value) in found.indexed_iter() {
        let moved = |by: f64| {
            let mut x = x.clone();
            x[index] += by;
            reference::loss(&x, target, &rule).0
        };
        let slope = scale * (moved(step) - moved(-step)) / (2.0 * step);
        // Truncation of the difference: step² times a third derivative below 10; f32 rounding of gradients ≤ 1.
        let value = f64::from(*value);
        assert!((value - slope).abs() < 1e-6, "{name} {index:?}: {value} != {slope}");
    }
}

#[test]
fn classes_match_their_definition() {
    for (i, case) in CASES.iter().enumerate() {
        // The last class never occurs: its Dice is all smoothing.
        let classes = case.shape.1;
        let target = labels(case, (classes - 1).max(1));
        check(&format!("classes {i}"), case, &target, Targets::default());
        let ignore = Some(classes as i16);
        let target = labels(case, classes + 1);
        check(
            &format!("classes {i}, ignore"),
            case,
            &target,
            Targets { ignore, ..Targets::default() },
        );
    }
}

#[test]
fn regions_match_their_definition() {
    for (i, case) in CASES.iter().enumerate() {
        // Nested and overlapping: region r holds every class from r + 1 on, the last one every other class too.
        let (regions, classes) = (case.shape.1, case.shape.1 + 2);
        let mut members: Vec<Vec<usize>> =
            (0..regions).map(|r| (r + 1..classes).collect()).collect();
        members[regions - 1].extend((1..regions).step_by(2));
        let outputs = Outputs::Regions { classes, members };
        let target = labels(case, classes);
        let targets = Targets { outputs, ignore: None };
        check(&format!("regions {i}"), case, &target, targets.clone());
        let target = labels(case, classes + 1);
        let targets = Targets { ignore: Some(classes as i16), ..targets };
        check(&format!("regions {i}, ignore"), case, &target, targets);
    }
}

#[test]
fn a_batch_without_annotation_moves_nothing() {
    let case = &CASES[1];
    let target = Array4::from_elem((2, 3, 4, 5), 3);
    let regions = Outputs::Regions { classes: 3, members: vec![vec![1], vec![2], vec![1, 2]] };
    for outputs in [Outputs::Classes, regions] {
        check("all ignored", case, &target, Targets { outputs: outputs.clone(), ignore: Some(3) });
        let targets = Targets { outputs, ignore: Some(3) };
        let mut x = logits(&random(case.shape, 5));
        let flat: Vec<i16> = target.iter().map(|t| *t as i16).collect();
        let options = LossOptions { targets, ..LossOptions::default() };
        let terms = loss(&mut x, &flat, &options, Some(1.0));
        assert_eq!((terms.dice, terms.cross_entropy), (-1.0, 0.0));
        assert!(x.iter().all(|v| *v == 0.0));
    }
}

#[test]
fn far_logits_give_finite_gradients() {
    let mut x = Grid::zeros((1, 2, 1, 1, 2));
    (x[[0, 0, 0, 0, 0]], x[[0, 1, 0, 0, 0]]) = (3000.0, -3000.0);
    let members = vec![vec![1], vec![1]];
    for outputs in [Outputs::Classes, Outputs::Regions { classes: 2, members }] {
        let mut found = logits(&x);
        let targets = Targets { outputs, ignore: None };
        let options = LossOptions { targets, ..LossOptions::default() };
        let terms = loss(&mut found, &[1, 0], &options, Some(1.0));
        // Voxel 0 is wrong by 6000 (classes) or 3000 (the second region); mean over 2 voxels, or 4 numbers.
        let expected = terms.cross_entropy;
        assert!((740.0..3001.0).contains(&expected), "{expected}");
        assert!(found.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn counts_compare_the_largest_logit_with_the_label() {
    let mut x = Grid::zeros((1, 3, 1, 1, 5));
    // Predictions 2, 1, 0, and 0 at a tie; labels 2, 0, 1, 1; the last one is ignored.
    for (voxel, class) in [(0, 2), (1, 1), (2, 0), (4, 1)] {
        x[[0, class, 0, 0, voxel]] = 1.0;
    }
    let targets = Targets { ignore: Some(3), ..Targets::default() };
    let options = LossOptions { targets, ..LossOptions::default() };
    let terms = loss(&mut logits(&x), &[2, 0, 1, 1, 3], &options, None);
    let counts: Vec<_> = terms.counts.iter().map(|c| (c.tp, c.fp, c.fn_)).collect();
    assert_eq!(counts, [(0, 2, 1), (0, 1, 2), (1, 0, 0)]);
}

#[test]
fn counts_compare_each_region_with_one_half() {
    let mut x = Grid::zeros((1, 2, 1, 1, 4));
    // Region 0 holds classes 1 and 2, region 1 class 2. A logit of 0 is a sigmoid of 0.5: not predicted.
    for (voxel, logit) in [(0, [1.0, -1.0]), (1, [1.0, 1.0]), (2, [0.0, 1.0]), (3, [1.0, 1.0])] {
        (x[[0, 0, 0, 0, voxel]], x[[0, 1, 0, 0, voxel]]) = (logit[0], logit[1]);
    }
    let outputs = Outputs::Regions { classes: 3, members: vec![vec![1, 2], vec![2]] };
    let targets = Targets { outputs, ignore: Some(3) };
    let options = LossOptions { targets, ..LossOptions::default() };
    let terms = loss(&mut logits(&x), &[1, 0, 2, 3], &options, None);
    let counts: Vec<_> = terms.counts.iter().map(|c| (c.tp, c.fp, c.fn_)).collect();
    assert_eq!(counts, [(1, 1, 1), (1, 1, 0)]);
}
