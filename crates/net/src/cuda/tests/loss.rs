//! Dice and cross-entropy: values against the definition, gradients against its finite differences, and large ones
//! against the CPU engine's.

use super::{assert_near, contexts, same_bytes};
use crate::cuda::Context;
use crate::cuda::loss::{Meaning, loss, nearest, read, scratch, target_bytes, terms_bytes};
use crate::cuda::tensor::{Element, Layout, Tensor};
use crate::device::SimdLevel;
use crate::loss::{LossOptions, Outputs, Targets};
use crate::ops;
use crate::ops::loss::Terms;
use crate::ops::tests::random;
use crate::reference::{self, Grid, LossRule};
use kernels::Buffer;

type Shape = (usize, usize, usize, usize, usize);

/// Shape, Dice of the batch, Dice of the background, smoothing.
type Case = (Shape, bool, bool, f32);

/// Those of the CPU engine's test: one voxel, odd sizes, 2 to 33 channels, every combination of the two switches.
const CASES: &[Case] = &[
    ((1, 2, 1, 1, 1), true, false, 1e-5),
    ((2, 3, 3, 4, 5), true, false, 1e-5),
    ((2, 3, 3, 4, 5), false, false, 1.0),
    ((3, 16, 1, 5, 3), true, true, 1e-5),
    ((2, 17, 2, 3, 4), false, true, 1e-5),
    ((2, 33, 1, 4, 4), true, false, 0.5),
];

/// Several ranges a sample; more channels than anyone has seen.
const LARGE: &[Case] = &[
    ((2, 3, 13, 17, 23), true, false, 1e-5),
    ((2, 5, 13, 17, 23), false, true, 1e-5),
    ((2, 40, 5, 9, 11), false, false, 1e-5),
    ((1, 117, 3, 9, 11), true, false, 1e-5),
];

/// Labels below `usable`; half of the zeros are −1, outside the image, which must mean the same.
fn labels((n, _, d, h, w): Shape, usable: usize) -> Vec<i16> {
    let noise = random((n, 1, d, h, w), 12);
    let pick = |(i, v): (usize, &f64)| match ((v + 1.0) / 2.0 * usable as f64) as i16 {
        0 if i % 2 == 0 => -1,
        label => label,
    };
    noise.iter().enumerate().map(pick).collect()
}

fn options(&(_, batch_dice, dice_background, smooth): &Case, targets: Targets) -> LossOptions {
    let (dice_weight, cross_entropy_weight) = (0.75, 1.5);
    LossOptions { dice_weight, cross_entropy_weight, smooth, dice_background, batch_dice, targets }
}

/// Targets by name: classes and regions, with and without an ignore label, and how many labels there are.
fn kinds(channels: usize) -> Vec<(Targets, usize)> {
    // Nested and overlapping: region r holds every class from r + 1 on, the last one every other class too.
    let classes = channels + 2;
    let mut members: Vec<Vec<usize>> = (0..channels).map(|r| (r + 1..classes).collect()).collect();
    members[channels - 1].extend((1..channels).step_by(2));
    let regions = Outputs::Regions { classes, members };
    let ignore = |n: usize| Some(n as i16);
    vec![
        // The last class never occurs: its Dice is all smoothing.
        (Targets::default(), (channels - 1).max(1)),
        (Targets { ignore: ignore(channels), ..Targets::default() }, channels + 1),
        (Targets { outputs: regions.clone(), ignore: None }, classes),
        (Targets { outputs: regions, ignore: ignore(classes) }, classes + 1),
    ]
}

struct Found {
    terms: Terms,
    /// In the activations' element.
    gradient: Grid,
}

const SCALE: f64 = 0.5;

fn upload_labels(ctx: &Context, labels: &[i16]) -> Buffer {
    let buffer = ctx.gpu.buffer(2 * labels.len()).unwrap();
    ctx.stream.upload(buffer.pointer(), labels).unwrap();
    buffer
}

fn run(ctx: &Context, x: &Grid, labels: &[i16], options: &LossOptions) -> Found {
    let logits = ctx.tensor(x, Element::F32);
    let gradient = ctx.garbage(logits.layout, ctx.element);
    let (terms, layout) = (told(ctx, &logits, labels, options, Some(&gradient)), logits.layout);
    let found = Found { terms: terms.unwrap(), gradient: ctx.values(&gradient) };
    // The gradient may take the logits' place, and isn't needed for the terms.
    let in_place = told(ctx, &logits, labels, options, None).unwrap();
    assert_eq!(in_place, found.terms, "{layout:?}");
    if ctx.element == Element::F32 {
        let in_place = told(ctx, &logits, labels, options, Some(&logits)).unwrap();
        assert_eq!((in_place, ctx.values(&logits)), (found.terms.clone(), found.gradient.clone()));
    }
    found
}

fn told(
    ctx: &Context,
    logits: &Tensor,
    labels: &[i16],
    options: &LossOptions,
    gradient: Option<&Tensor>,
) -> Result<Terms, i16> {
    let layout = logits.layout;
    let target = upload_labels(ctx, labels);
    let terms = ctx.gpu.buffer(terms_bytes(&layout)).unwrap();
    let meaning = Meaning::new(ctx, &options.targets, layout.channels).unwrap();
    ctx.reserve(scratch(&layout));
    let gradient = gradient.map(|g| (g, SCALE));
    loss(ctx, logits, target.pointer(), &meaning, options, gradient, terms.pointer());
    ctx.check().unwrap();
    read(ctx, &layout, terms.pointer()).unwrap()
}

fn f32_exact(x: Grid) -> Grid {
    x.mapv(|v| f64::from(v as f32))
}

#[test]
fn classes_and_regions_match_their_definition() {
    for case in CASES {
        for (targets, usable) in kinds(case.0.1) {
            check_definition(case, &labels(case.0, usable), targets);
        }
    }
    // Nothing annotated.
    for (targets, usable) in kinds(3).into_iter().filter(|(t, _)| t.ignore.is_some()) {
        check_definition(&CASES[1], &[usable as i16 - 1; 120], targets);
    }
}

fn check_definition(case: &Case, labels: &[i16], targets: Targets) {
    let x = f32_exact(random(case.0, 11).mapv(|v| 3.0 * v));
    let rule = LossRule {
        dice: 0.75,
        cross_entropy: 1.5,
        smooth: f64::from(case.3),
        background: case.2,
        batch: case.1,
        regions: match &targets.outputs {
            Outputs::Classes => None,
            Outputs::Regions { members, .. } => Some(members.clone()),
        },
        ignore: targets.ignore.map(|class| class as usize),
    };
    let (n, _, d, h, w) = case.0;
    let classes: Vec<usize> = labels.iter().map(|l| usize::try_from(*l).unwrap_or(0)).collect();
    let target = ndarray::Array4::from_shape_vec((n, d, h, w), classes).unwrap();
    let (_, dice, entropy) = reference::loss(&x, &target, &rule);
    let step = 1e-4;
    let mut slopes = Grid::zeros(x.dim());
    for (index, slope) in slopes.indexed_iter_mut() {
        let moved = |by: f64| {
            let mut x = x.clone();
            x[index] += by;
            reference::loss(&x, &target, &rule).0
        };
        *slope = SCALE * (moved(step) - moved(-step)) / (2.0 * step);
    }
    let options = options(case, targets);
    for ctx in contexts() {
        let name = format!("{case:?}, {:?}, {:?}", options.targets, ctx.element);
        let found = run(&ctx, &x, labels, &options);
        // Each probability and logarithm errs by some ulps of at most 6; means over voxels do not add to that, but
        // regions with an ignore label are summed, not averaged, over the channels.
        let bound = 16.0 * f64::from(f32::EPSILON) * entropy.max(1.0);
        let terms = [(found.terms.dice, dice), (found.terms.cross_entropy, entropy)];
        assert!(terms.iter().all(|(f, e)| (f - e).abs() < bound), "{name}: {terms:?}");
        // Truncation of the difference: step² times a third derivative below 10; f32 rounding of gradients ≤ 1.
        assert_near(&name, &found.gradient, &slopes, ctx.element, 1e-6);
    }
}

#[test]
fn large_ones_match_the_cpu_engine() {
    for case in LARGE {
        let x = f32_exact(random(case.0, 31).mapv(|v| 6.0 * v));
        for (targets, usable) in kinds(case.0.1) {
            let labels = labels(case.0, usable);
            let options = options(case, targets);
            let mut logits: Vec<f32> = x.iter().map(|v| *v as f32).collect();
            let (n, c, d, h, w) = case.0;
            let (level, shape) = (SimdLevel::detect(), [n, c, d * h * w]);
            let scale = Some(SCALE);
            let expected = ops::loss::loss(level, &mut logits, shape, &labels, &options, scale);
            let slopes = logits.into_iter().map(f64::from).collect();
            let slopes = Grid::from_shape_vec(case.0, slopes).unwrap();
            for ctx in contexts() {
                let name = format!("{case:?}, {:?}, {:?}", options.targets.ignore, ctx.element);
                let found = run(&ctx, &x, &labels, &options);
                assert_eq!(found.terms.counts, expected.counts, "{name}");
                // Both err by some ulps per probability, the device by some more per sum of a thread.
                let bound = 32.0 * f64::from(f32::EPSILON) * expected.cross_entropy.max(1.0);
                assert!((found.terms.dice - expected.dice).abs() < bound, "{name}: Dice");
                let entropy = (found.terms.cross_entropy, expected.cross_entropy);
                assert!((entropy.0 - entropy.1).abs() < bound, "{name}: {entropy:?}");
                // Gradients are sums of a few terms of at most `largest`, a few ulps each.
                let largest = slopes.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                let bound = 32.0 * f64::from(f32::EPSILON) * largest;
                assert_near(&name, &found.gradient, &slopes, ctx.element, bound);
            }
        }
    }
}

#[test]
fn far_logits_give_finite_gradients() {
    let mut x = Grid::zeros((1, 2, 1, 1, 2));
    (x[[0, 0, 0, 0, 0]], x[[0, 1, 0, 0, 0]]) = (3000.0, -3000.0);
    let members = vec![vec![1], vec![1]];
    for outputs in [Outputs::Classes, Outputs::Regions { classes: 2, members }] {
        for ctx in contexts() {
            let targets = Targets { outputs: outputs.clone(), ignore: None };
            let found = run(&ctx, &x, &[1, 0], &LossOptions { targets, ..LossOptions::default() });
            // Voxel 0 is wrong by 6000 (classes) or 3000 (the second region); mean over 2 voxels, or 4 numbers.
            assert!((740.0..3001.0).contains(&found.terms.cross_entropy));
            assert!(found.gradient.iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn counts_compare_prediction_and_label() {
    let count = |terms: &Terms| -> Vec<(u64, u64, u64)> {
        terms.counts.iter().map(|c| (c.tp, c.fp, c.fn_)).collect()
    };
    for ctx in contexts() {
        // Predictions 2, 1, 0, and 0 at a tie; labels 2, 0, 1, 1; the last one is ignored.
        let mut x = Grid::zeros((1, 3, 1, 1, 5));
        for (voxel, class) in [(0, 2), (1, 1), (2, 0), (4, 1)] {
            x[[0, class, 0, 0, voxel]] = 1.0;
        }
        let targets = Targets { ignore: Some(3), ..Targets::default() };
        let options = LossOptions { targets, ..LossOptions::default() };
        let terms = run(&ctx, &x, &[2, 0, 1, 1, 3], &options).terms;
        assert_eq!(count(&terms), [(0, 2, 1), (0, 1, 2), (1, 0, 0)]);

        // Region 0 holds classes 1 and 2, region 1 class 2. A logit of 0 is a sigmoid of 0.5: not predicted.
        let mut x = Grid::zeros((1, 2, 1, 1, 4));
        for (voxel, [a, b]) in [(0, [1.0, -1.0]), (1, [1.0, 1.0]), (2, [0.0, 1.0]), (3, [1.0; 2])] {
            (x[[0, 0, 0, 0, voxel]], x[[0, 1, 0, 0, voxel]]) = (a, b);
        }
        let outputs = Outputs::Regions { classes: 3, members: vec![vec![1, 2], vec![2]] };
        let targets = Targets { outputs, ignore: Some(3) };
        let options = LossOptions { targets, ..LossOptions::default() };
        let terms = run(&ctx, &x, &[1, 0, 2, 3], &options).terms;
        assert_eq!(count(&terms), [(1, 1, 1), (1, 1, 0)]);

        // A tie across threads: channels 3 and 20 share the largest logit, and the first is taken.
        let mut x = Grid::zeros((1, 25, 1, 1, 2));
        for voxel in 0..2 {
            (x[[0, 3, 0, 0, voxel]], x[[0, 20, 0, 0, voxel]]) = (1.0, 1.0);
        }
        let terms = run(&ctx, &x, &[3, 20], &LossOptions::default()).terms;
        let expected = |c| ((c == 3).into(), (c == 3).into(), (c == 20).into());
        assert_eq!(count(&terms), (0..25).map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn unknown_labels_are_told() {
    let x = random((1, 3, 1, 2, 2), 1);
    for ctx in contexts() {
        for (ignore, labels, expected) in [
            (None, [0, 7, 5, 1], Some(5)),
            (Some(5), [0, 5, 5, 1], None),
            (Some(5), [0, 5, 3, 1], Some(3)),
            (None, [2, -1, 0, 1], None),
        ] {
            let targets = Targets { ignore, ..Targets::default() };
            let options = LossOptions { targets, ..LossOptions::default() };
            let logits = ctx.tensor(&x, Element::F32);
            let found = told(&ctx, &logits, &labels, &options, None);
            assert_eq!(found.err(), expected, "{labels:?}");
        }
    }
}

#[test]
fn coarse_labels_are_those_at_the_centre() {
    for (large, size) in [
        ([8, 12, 6], [4, 3, 6]),
        ([1, 9, 25], [1, 3, 5]),
        // A ratio that is no whole number.
        ([7, 5, 11], [3, 2, 4]),
    ] {
        let [d, h, w] = large;
        let labels: Vec<i16> = (0..2 * d * h * w).map(|i| (i % 30011) as i16).collect();
        let layout = Layout { batch: 2, channels: 3, size };
        let centre = |i: usize, a: usize| {
            ((i as f64 + 0.5) * large[a] as f64 / size[a] as f64).floor() as usize
        };
        for ctx in contexts() {
            let from = upload_labels(&ctx, &labels);
            let to = ctx.gpu.buffer(target_bytes(&layout)).unwrap();
            nearest(&ctx, from.pointer(), large, to.pointer(), &layout);
            let mut found = vec![0i16; 2 * layout.voxels()];
            ctx.stream.download(to.pointer(), &mut found).unwrap();
            let mut found = found.into_iter();
            for n in 0..2 {
                for at in ndarray::indices(size) {
                    let (z, y, x) = (centre(at.0, 0), centre(at.1, 1), centre(at.2, 2));
                    assert_eq!(found.next(), Some(labels[((n * d + z) * h + y) * w + x]), "{at:?}");
                }
            }
            ctx.check().unwrap();
        }
    }
}

#[test]
fn the_order_of_threads_changes_nothing() {
    let case = &LARGE[2];
    for (targets, usable) in kinds(case.0.1) {
        let options = options(case, targets);
        same_bytes(|ctx| {
            let x = f32_exact(random(case.0, 31));
            let found = run(ctx, &x, &labels(case.0, usable), &options);
            let terms = [found.terms.dice, found.terms.cross_entropy];
            let split = |v: f64| [v as f32, (v - f64::from(v as f32)) as f32];
            let mut out: Vec<f32> = terms.into_iter().flat_map(split).collect();
            out.extend(found.gradient.iter().map(|v| *v as f32));
            out
        });
    }
}
