//! Components, scores and the largest-component rule against SciPy, nnU-Net's formulas and naive definitions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::Label;
use artifact::recipe::Postprocessing as Recipe;
use ndarray::{Array3, ArrayView3};
use postprocess::components::{Components, Connectivity};
use postprocess::largest::{apply, decide, evidence};
use postprocess::score::{Counts, Side, labels_found, mean, summarise};
use serde_json::Value;

const ALL: [(Connectivity, &str, usize); 3] = [
    (Connectivity::Faces, "6", 1),
    (Connectivity::Edges, "18", 2),
    (Connectivity::Corners, "26", 3),
];

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/golden.json")).unwrap()
}

fn volume(entry: &Value, key: &str) -> Array3<i64> {
    let whole = |v: &Value| v.as_i64().unwrap();
    let shape: Vec<usize> =
        entry["shape"].as_array().unwrap().iter().map(|v| whole(v) as usize).collect();
    let values = entry[key].as_array().unwrap().iter().map(whole).collect();
    Array3::from_shape_vec((shape[0], shape[1], shape[2]), values).unwrap()
}

#[test]
fn components_are_numbered_as_scipy_numbers_them() {
    for entry in golden()["volumes"].as_array().unwrap() {
        let mask = volume(entry, "mask");
        for (connectivity, name, _) in ALL {
            let components = Components::of(mask.view(), connectivity, |&v| v == 1);
            let expected = &entry["labelled"][name];
            assert_eq!(components.count() as u64, expected["count"].as_u64().unwrap());
            let numbers: Vec<u64> = components.numbered().iter().map(|&n| n.into()).collect();
            let scipy: Vec<u64> = expected["numbers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_u64().unwrap())
                .collect();
            assert_eq!(numbers, scipy, "{:?}, connectivity {name}", mask.dim());
        }
    }
}

/// By definition: start anywhere in the mask, and walk.
fn flood(mask: ArrayView3<'_, bool>, most_axes: usize) -> (Array3<u32>, Vec<u64>) {
    let (depth, height, width) = mask.dim();
    let mut numbers = Array3::<u32>::zeros(mask.dim());
    let mut sizes = Vec::new();
    for (start, &inside) in mask.indexed_iter() {
        if !inside || numbers[start] > 0 {
            continue;
        }
        sizes.push(0);
        let number = sizes.len() as u32;
        let mut open = vec![start];
        numbers[start] = number;
        while let Some((z, y, x)) = open.pop() {
            sizes[number as usize - 1] += 1;
            for step in 0..27 {
                let d = [step / 9, step / 3 % 3, step % 3].map(|d: usize| d as isize - 1);
                if d.iter().filter(|&&d| d != 0).count() > most_axes {
                    continue;
                }
                let to = (
                    z.wrapping_add_signed(d[0]),
                    y.wrapping_add_signed(d[1]),
                    x.wrapping_add_signed(d[2]),
                );
                let inside = to.0 < depth && to.1 < height && to.2 < width;
                if inside && mask[to] && numbers[to] == 0 {
                    numbers[to] = number;
                    open.push(to);
                }
            }
        }
    }
    (numbers, sizes)
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

fn random_mask(seed: u64) -> Array3<bool> {
    let mut draw = draws(seed);
    let shape = [0; 3].map(|_| 1 + (draw() * 9.0) as usize);
    let share = draw();
    Array3::from_shape_fn(shape, |_| draw() < share)
}

#[test]
fn components_equal_a_flood_fill_on_random_volumes() {
    for seed in 0..400 {
        let mask = random_mask(seed);
        for (connectivity, name, axes) in ALL {
            let components = Components::of(mask.view(), connectivity, |&v| v);
            let (numbers, sizes) = flood(mask.view(), axes);
            assert_eq!(components.numbered(), numbers, "seed {seed}, connectivity {name}");
            assert_eq!(components.sizes(), sizes, "seed {seed}, connectivity {name}");
            let mut kept = mask.clone();
            let removed = components.keep_largest(&mut kept, false);
            let largest = sizes.iter().max().copied().unwrap_or(0);
            let expected = numbers.mapv(|n| n > 0 && sizes[n as usize - 1] == largest);
            assert_eq!(kept, expected, "seed {seed}, connectivity {name}");
            let count = |m: &Array3<bool>| m.iter().filter(|&&v| v).count() as u64;
            assert_eq!(removed, count(&mask) - count(&expected));
        }
    }
}

#[test]
fn components_follow_views_in_any_axis_order() {
    for seed in 0..50 {
        let mask = random_mask(seed);
        let turned = mask.view().permuted_axes([2, 0, 1]);
        let components = Components::of(turned, Connectivity::Corners, |&v| v);
        assert_eq!(components.numbered(), flood(turned, 3).0, "seed {seed}");
    }
}

fn labels(values: &[i32]) -> Vec<Label> {
    values.iter().map(|&value| Label { name: format!("label {value}"), value }).collect()
}

#[test]
fn scores_are_nnunets() {
    let labels = labels(&[0, 1, 2, 7]);
    for entry in golden()["pairs"].as_array().unwrap() {
        let [p, r] = ["prediction", "reference"].map(|k| volume(entry, k).mapv(|v| v as f32));
        let counts = Counts::of(p.view(), r.view(), [2.0, 0.5, 10.0]).unwrap();
        for score in counts.scores(&labels) {
            let value = score.label.strip_prefix("label ").unwrap();
            let expected = &entry["scores"][value];
            // The same sums divided once: equal to the last bit.
            for (found, key) in [(score.dice, "dice"), (score.iou, "iou")] {
                match expected[key].as_f64() {
                    Some(number) => assert_eq!(found, number, "{value} {key}"),
                    None => assert!(found.is_nan(), "{value} {key} = {found}"),
                }
            }
            let count = |key: &str| expected[key].as_u64().unwrap();
            assert_eq!(score.true_positives, count("tp"));
            assert_eq!(score.false_positives, count("fp"));
            assert_eq!(score.false_negatives, count("fn"));
            assert_eq!(score.true_negatives, count("tn"));
            // A voxel of 2 × 0.5 × 10 mm is 10 mm³, a hundredth of a ml.
            assert_eq!(score.predicted_ml, (count("tp") + count("fp")) as f64 * 0.01);
            assert_eq!(score.reference_ml, (count("tp") + count("fn")) as f64 * 0.01);
        }
    }
}

#[test]
fn a_class_absent_from_a_case_does_not_count_and_one_absent_everywhere_hides_nothing() {
    let map = |values: [f32; 4]| Array3::from_shape_vec((1, 2, 2), values.to_vec()).unwrap();
    let counts = |p, r| Counts::of(map(p).view(), map(r).view(), [1.0; 3]).unwrap();
    let full = counts([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]);
    let missed = counts([0.0; 4], [0.0, 2.0, 0.0, 0.0]);
    let cases = vec![("b".to_string(), full), ("a".to_string(), missed)];
    let summary = summarise(&labels(&[0, 1, 2, 3]), cases);
    assert_eq!(summary.cases[0].case, "a");
    assert_eq!(summary.mean.dice[..2], [2.0 / 3.0, 0.0]);
    assert!(summary.mean.dice[2].is_nan() && summary.cases[0].classes[0].dice.is_nan());
    assert_eq!(summary.mean.foreground_dice, 1.0 / 3.0);
    assert_eq!(summary.mean.foreground_iou, 0.25);
    assert!(mean([f64::NAN]).is_nan() && mean([]).is_nan());
}

#[test]
fn values_that_are_no_labels_are_named_with_the_map_they_are_in() {
    let map = |v: f32| Array3::from_elem((1, 1, 2), v);
    let of = |p: f32, r: f32| Counts::of(map(p).view(), map(r).view(), [1.0; 3]);
    for bad in [0.5, -1.0, 32768.0, f32::INFINITY] {
        assert_eq!(of(bad, 0.0).unwrap_err(), (Side::Prediction, bad));
        assert_eq!(of(1.0, bad).unwrap_err(), (Side::Reference, bad));
    }
    assert!(of(f32::NAN, 0.0).is_err_and(|(side, v)| side == Side::Prediction && v.is_nan()));
    let counts = of(5.0, 2.0).unwrap();
    assert_eq!(counts.undeclared(&labels(&[0, 1, 2])), Some((Side::Prediction, 5)));
    assert_eq!(counts.undeclared(&labels(&[0, 5])), Some((Side::Reference, 2)));
    assert_eq!(counts.undeclared(&labels(&[0, 2, 5])), None);
    let values: Vec<i32> = labels_found([&counts]).iter().map(|l| l.value).collect();
    assert_eq!(values, [0, 2, 5]);
}

/// One row of voxels.
fn row(classes: &[i16]) -> Array3<i16> {
    Array3::from_shape_vec((1, 1, classes.len()), classes.to_vec()).unwrap()
}

#[test]
fn the_rule_asks_for_a_single_component_in_every_training_case() {
    let recipe = |dice| Recipe {
        keep_largest_if_single_in_training: true,
        only_if_dice_does_not_fall: dice,
    };
    let labels = labels(&[0, 1, 2, 3]);
    let look = |r: &[i16], p: Option<&[i16]>| {
        evidence(4, row(r).view(), p.map(row).as_ref().map(|p| p.view()))
    };
    let kept = |cases: &[_], recipe: &Recipe| -> Vec<bool> {
        decide(&labels, cases, recipe).classes.iter().map(|c| c.keep_largest_component).collect()
    };
    // Class 1 is in one piece, class 2 once in two, class 3 nowhere.
    let cases = [look(&[1, 1, 0, 2, 0, 2], None), look(&[0, 2, 2, 0, 0, 0], None)];
    assert_eq!(kept(&cases, &recipe(false)), [true, false, false]);
    assert_eq!(kept(&cases, &recipe(true)), [true, false, false]);
    let off = Recipe { keep_largest_if_single_in_training: false, ..recipe(false) };
    assert_eq!(kept(&cases, &off), [false; 3]);
    // The true piece of class 1 is the prediction's smaller one: keeping the largest loses it.
    let worse = [look(&[1, 1, 0, 0, 0, 0, 0], Some(&[1, 1, 0, 0, 1, 1, 1]))];
    let decision = decide(&labels, &worse, &recipe(true));
    assert_eq!(decision.classes[0].dice_before, 4.0 / 7.0);
    assert_eq!(decision.classes[0].dice_after, 0.0);
    assert_eq!(kept(&worse, &recipe(true)), [false; 3]);
    assert_eq!(kept(&worse, &recipe(false)), [true, false, false]);
    let better = [look(&[1, 1, 0, 0, 0], Some(&[1, 1, 0, 0, 1]))];
    assert_eq!(kept(&better, &recipe(true)), [true, false, false]);
}

#[test]
fn applying_removes_all_but_the_largest_and_keeps_ties() {
    let cases = [evidence(3, row(&[1, 1, 0, 2]).view(), None)];
    let recipe =
        Recipe { keep_largest_if_single_in_training: true, only_if_dice_does_not_fall: false };
    let rules = decide(&labels(&[0, 4, 9]), &cases, &recipe);
    let mut map = row(&[1, 0, 1, 1, 0, 2, 0, 2, 1]);
    assert_eq!(apply(&rules, &mut map), [2, 0]);
    assert_eq!(map, row(&[0, 0, 1, 1, 0, 2, 0, 2, 0]));
}
