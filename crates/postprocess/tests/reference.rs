//! Components and scores against SciPy, nnU-Net's formulas and naive definitions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::{Label, Region};
use ndarray::{Array3, ArrayView3, s};
use postprocess::components::{Components, Connectivity};
use postprocess::scheme::Scheme;
use postprocess::score::{Counts, Side, labels_found, mean, summarise, voxel_ml};
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

/// Many planes and long rows: components that wind through slabs of planes, and stretches of equal voxels of every length.
#[test]
fn components_equal_a_flood_fill_where_volumes_are_deep_and_wide() {
    for seed in 0..12 {
        let mut draw = draws(5000 + seed);
        let (share, stretch) = (draw(), 1.0 + 60.0 * draw() * draw());
        let mut last = false;
        let mask = Array3::from_shape_fn((37 + seed as usize, 5, 143), |_| {
            if draw() * stretch < 1.0 {
                last = draw() < share;
            }
            last
        });
        for (connectivity, name, axes) in ALL {
            let components = Components::of(mask.view(), connectivity, |&v| v);
            let (numbers, sizes) = flood(mask.view(), axes);
            assert_eq!(components.numbered(), numbers, "seed {seed}, connectivity {name}");
            assert_eq!(components.sizes(), sizes, "seed {seed}, connectivity {name}");
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
    let scheme = Scheme::plain(labels(&[0, 1, 2, 7]));
    for entry in golden()["pairs"].as_array().unwrap() {
        let [p, r] = ["prediction", "reference"].map(|k| volume(entry, k).mapv(|v| v as f32));
        let counts = Counts::of(p.view(), r.view()).unwrap();
        for score in counts.scores(&scheme, voxel_ml([2.0, 0.5, 10.0])) {
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
    let scheme = Scheme::plain(labels(&[0, 1, 2, 3]));
    let counts = |p, r| Counts::of(map(p).view(), map(r).view()).unwrap().scores(&scheme, 1.0);
    let full = counts([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]);
    let missed = counts([0.0; 4], [0.0, 2.0, 0.0, 0.0]);
    let cases = vec![("b".to_string(), full), ("a".to_string(), missed)];
    let summary = summarise(&scheme, cases);
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
    let of = |p: f32, r: f32| Counts::of(map(p).view(), map(r).view());
    let plain = |values: &[i32]| Scheme::plain(labels(values));
    for bad in [0.5, -1.0, 32768.0, f32::INFINITY] {
        assert_eq!(of(bad, 0.0).unwrap_err(), (Side::Prediction, bad));
        assert_eq!(of(1.0, bad).unwrap_err(), (Side::Reference, bad));
    }
    assert!(of(f32::NAN, 0.0).is_err_and(|(side, v)| side == Side::Prediction && v.is_nan()));
    let counts = of(5.0, 2.0).unwrap();
    assert_eq!(counts.undeclared(&plain(&[0, 1, 2])), Some((Side::Prediction, 5)));
    assert_eq!(counts.undeclared(&plain(&[0, 5])), Some((Side::Reference, 2)));
    assert_eq!(counts.undeclared(&plain(&[0, 2, 5])), None);
    let values: Vec<i32> = labels_found([&counts]).iter().map(|l| l.value).collect();
    assert_eq!(values, [0, 2, 5]);
}

/// Labels 0, 1, 2, 4; the tumour is 1, 2 and 4, its core 2 and 4; 7 is ignored.
fn regional() -> Scheme {
    let region = |name: &str, values: &[i32], value| Region {
        name: name.into(),
        values: values.to_vec(),
        value,
    };
    Scheme {
        labels: labels(&[0, 1, 2, 4]),
        regions: vec![region("tumour", &[1, 2, 4], 1), region("core", &[2, 4], 2)],
        ignore: Some(Label { name: "ignore".into(), value: 7 }),
    }
}

#[test]
fn regions_and_ignored_voxels_are_counted_as_masks_would_count_them() {
    let scheme = regional();
    for seed in 0..60 {
        let mut draw = draws(seed);
        let shape = [0; 3].map(|_| 1 + (draw() * 7.0) as usize);
        let mut map = |values: &[f32]| {
            // Neighbours are often equal, so that runs of several voxels occur.
            let mut last = 0.0;
            Array3::from_shape_fn(shape, |_| {
                if draw() < 0.5 {
                    last = values[(draw() * values.len() as f64) as usize];
                }
                last
            })
        };
        let (p, r) = (map(&[0.0, 1.0, 2.0, 4.0]), map(&[0.0, 1.0, 2.0, 4.0, 7.0]));
        let counts = Counts::of(p.view(), r.view()).unwrap();
        let scores = counts.scores(&scheme, 1.0);
        let valid = r.mapv(|v| v != 7.0);
        for (region, score) in scheme.regions.iter().zip(&scores) {
            let mask = |m: &Array3<f32>| m.mapv(|v| region.values.contains(&(v as i32)));
            let (p, r) = (mask(&p), mask(&r));
            let count = |p_is: bool, r_is: bool| {
                let hits = p.iter().zip(&r).zip(&valid);
                hits.filter(|((p, r), valid)| **p == p_is && **r == r_is && **valid).count() as u64
            };
            assert_eq!(score.label, region.name);
            assert_eq!(score.true_positives, count(true, true), "seed {seed}");
            assert_eq!(score.false_positives, count(true, false), "seed {seed}");
            assert_eq!(score.false_negatives, count(false, true), "seed {seed}");
            assert_eq!(score.true_negatives, count(false, false), "seed {seed}");
        }
        // Class indices, slab by slab, give the same.
        let class =
            |m: &Array3<f32>| m.mapv(|v| if v == 7.0 { 4 } else { scheme.class_of(v as i32) });
        let (p, r) = (class(&p), class(&r));
        let mut slabs = Counts::default();
        for z in 0..shape[0] {
            slabs.add_classes(p.slice(s![z..=z, .., ..]), r.slice(s![z..=z, .., ..]));
        }
        let by_class = slabs.overlaps(&scheme.by_class());
        assert_eq!(by_class, counts.overlaps(&scheme.by_value()), "seed {seed}");
    }
}

#[test]
fn maps_of_bytes_count_as_maps_of_numbers_do() {
    for seed in 0..100 {
        let mut draw = draws(7000 + seed);
        let shape = [0; 3].map(|_| 1 + (draw() * 20.0) as usize);
        let stretch = 1.0 + 300.0 * draw() * draw();
        let mut map = || {
            let mut last = 0u8;
            Array3::from_shape_fn(shape, |_| {
                if draw() * stretch < 1.0 {
                    last = [0, 1, 2, 7, 128, 255][(draw() * 6.0) as usize];
                }
                last
            })
        };
        let (p, r) = (map(), map());
        let found = Counts::of_bytes(p.view(), r.view());
        let expected = Counts::of(p.mapv(f32::from).view(), r.mapv(f32::from).view());
        assert_eq!(Ok(found), expected, "seed {seed}");
    }
}

#[test]
fn the_ignore_label_is_known_in_the_reference_only() {
    let map = |v: f32| Array3::from_elem((1, 1, 2), v);
    let of = |p: f32, r: f32| Counts::of(map(p).view(), map(r).view()).unwrap();
    assert_eq!(of(1.0, 7.0).undeclared(&regional()), None);
    assert_eq!(of(7.0, 1.0).undeclared(&regional()), Some((Side::Prediction, 7)));
    assert_eq!(of(1.0, 3.0).undeclared(&regional()), Some((Side::Reference, 3)));
    let summary = summarise(&regional(), vec![("a".into(), of(1.0, 7.0).scores(&regional(), 1.0))]);
    assert!(summary.mean.foreground_dice.is_nan() && summary.names() == ["tumour", "core"]);
}

#[test]
fn components_of_all_classes_are_those_of_each_class() {
    for seed in 0..200 {
        let mut draw = draws(1000 + seed);
        let shape = [0; 3].map(|_| 1 + (draw() * 7.0) as usize);
        let share = draw();
        let map = Array3::from_shape_fn(shape, |_| {
            if draw() < share { 1 + (draw() * 3.0) as i16 } else { 0 }
        });
        for (connectivity, name, _) in ALL {
            let together = Components::of_classes(map.view(), connectivity);
            let (mut kept, mut expected) = (map.clone(), map.clone());
            let removed = together.keep_largest_of(&[3, 1], &mut kept, 0);
            for (at, class) in [3, 1].into_iter().enumerate() {
                let alone = Components::of(map.view(), connectivity, |&c| i32::from(c) == class);
                assert_eq!(together.count_of(class), alone.count(), "seed {seed}, {name}");
                let gone = alone.keep_largest(&mut expected, 0);
                assert_eq!(removed[at], gone, "seed {seed}, {name}");
            }
            assert_eq!(kept, expected, "seed {seed}, {name}");
        }
    }
}
