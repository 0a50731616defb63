//! Dice and cross-entropy: values against the definition, gradients against its finite differences.
use super::*;
use crate::loss::LossOptions;
use crate::ops::dice_ce::dice_ce;
use crate::reference::{self, LossRule};
use ndarray::Array4;

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

/// One voxel, odd sizes, 2 to 33 classes (three blocks of channels), every combination of the two switches.
const CASES: &[Case] = &[
    case((1, 2, 1, 1, 1), true, false, 1e-5),
    case((2, 3, 3, 4, 5), true, false, 1e-5),
    case((2, 3, 3, 4, 5), false, false, 1.0),
    case((3, 16, 1, 5, 3), true, true, 1e-5),
    case((2, 17, 2, 3, 4), false, true, 1e-5),
    case((2, 33, 1, 4, 4), true, false, 0.5),
];

fn labels(case: &Case) -> Array4<usize> {
    let (n, classes, d, h, w) = case.shape;
    // The last class never occurs: its Dice is all smoothing.
    let usable = (classes - 1).max(1);
    let noise = random((n, 1, d, h, w), 12);
    let pick = |v: &f64| ((v + 1.0) / 2.0 * usable as f64) as usize;
    let shape = (n, d, h, w);
    Array4::from_shape_vec(shape, noise.iter().map(pick).collect()).unwrap()
}

fn logits(x: &Grid) -> Tensor {
    let mut t = Tensor::zeros(empty(x.dim()).layout.without_halo());
    t.import(x.mapv(|v| v as f32).view());
    t
}

#[test]
fn loss_and_gradient_match_their_definition() {
    for (i, case) in CASES.iter().enumerate() {
        let x = random(case.shape, 11).mapv(|v| 3.0 * v);
        let target = labels(case);
        let rule = LossRule {
            dice: 0.75,
            cross_entropy: 1.5,
            smooth: f64::from(case.smooth),
            background: case.background,
            batch: case.batch_dice,
        };
        let options = LossOptions {
            dice_weight: 0.75,
            cross_entropy_weight: 1.5,
            smooth: case.smooth,
            dice_background: case.background,
            batch_dice: case.batch_dice,
        };
        let (_, dice, entropy) = reference::dice_ce(&x, &target, rule);
        // -1 marks voxels outside the image: background. Where the label is 0 both must mean the same.
        let flat: Vec<i16> = (target.iter().enumerate())
            .map(|(i, t)| if *t == 0 && i % 2 == 0 { -1 } else { *t as i16 })
            .collect();
        let mut found = logits(&x);
        let scale = 0.5;
        let terms = dice_ce(&mut found, &flat, &options, Some(scale));
        // Each softmax value and logarithm errs by some ulps of at most 6; means over voxels do not add to that.
        let bound = 16.0 * f64::from(f32::EPSILON);
        assert!((terms.dice - dice).abs() < bound, "{i}: dice {} != {dice}", terms.dice);
        let ce = terms.cross_entropy;
        assert!((ce - entropy).abs() < bound, "{i}: cross-entropy {ce} != {entropy}");
        let found = values(&found);
        let step = 1e-4;
        for (index, value) in found.indexed_iter() {
            let moved = |by: f64| {
                let mut x = x.clone();
                x[index] += by;
                reference::dice_ce(&x, &target, rule).0
            };
            let slope = scale * (moved(step) - moved(-step)) / (2.0 * step);
            // Truncation of the difference: step² times a third derivative below 10; f32 rounding of gradients ≤ 1.
            assert!((f64::from(*value) - slope).abs() < 1e-6, "{i} {index:?}: {value} != {slope}");
        }
    }
}

#[test]
fn counts_compare_the_largest_logit_with_the_label() {
    let mut x = Grid::zeros((1, 3, 1, 1, 4));
    // Predictions 2, 1, 0, and 0 at a tie; labels 2, 0, 1, 1.
    for (voxel, class) in [(0, 2), (1, 1), (2, 0)] {
        x[[0, class, 0, 0, voxel]] = 1.0;
    }
    let terms = dice_ce(&mut logits(&x), &[2, 0, 1, 1], &LossOptions::default(), None);
    let counts: Vec<_> = terms.counts.iter().map(|c| (c.tp, c.fp, c.fn_)).collect();
    assert_eq!(counts, [(0, 2, 1), (0, 1, 2), (1, 0, 0)]);
}
