//! Batches: what a loader reads, and that nothing but (seed, mode, index) decides it.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/opened.rs"]
mod opened;
mod support;

use artifact::case::OpenCase;
use augment::spatial::mirror;
use augment::{Aim, Draws, Elastic, Loader, Mode, Placement, SampledBatch};
use ndarray::{Array3, Array4, Axis, s};
use opened::{cases, configuration};
use support::{phantom, recipe, write_case};
use tempfile::tempdir;

const SHAPES: [[usize; 3]; 2] = [[14, 18, 12], [9, 22, 15]];

fn loader(folder: &std::path::Path, patch: [usize; 3], mode: Mode, seed: u64) -> Loader {
    let cases = cases(folder, &SHAPES, 2, true);
    Loader::new(cases, &configuration(patch, 5, 2), &recipe(), mode, seed).unwrap()
}

#[test]
fn validation_batches_are_plain_crops() {
    let folder = tempdir().unwrap();
    let patch = [12, 10, 16];
    let loader = loader(folder.path(), patch, Mode::Validation, 0);
    let phantoms = [0, 1].map(|i| phantom(SHAPES[i], 2, i as u64, true));
    let mut beyond = 0;
    for index in 0..20 {
        let SampledBatch { image, label, cases } = loader.batch(index);
        for (sample, &case) in cases.iter().enumerate() {
            let placement = loader.placement(index, sample);
            assert_eq!(case, placement.case);
            let (expected, classes) = &phantoms[case];
            for ((c, z, y, x), &value) in image.index_axis(Axis(0), sample).indexed_iter() {
                let at = [z, y, x].map(|v| i64::try_from(v).unwrap());
                let at: [i64; 3] = std::array::from_fn(|a| at[a] + placement.lower[a]);
                let inside =
                    (0..3).all(|a| at[a] >= 0 && at[a] < i64::try_from(SHAPES[case][a]).unwrap());
                let [i, j, k] = at.map(|v| usize::try_from(v).unwrap_or(0));
                let (v, l) = if inside {
                    (expected[[c, i, j, k]], classes[[i, j, k]].max(0))
                } else {
                    beyond += 1;
                    (0.0, 0)
                };
                assert_eq!((value, label[[sample, z, y, x]]), (v, l), "{placement:?} {at:?}");
            }
        }
    }
    assert!(beyond > 0, "no patch left its case");
}

#[test]
fn forced_samples_show_their_class() {
    let folder = tempdir().unwrap();
    let loader = loader(folder.path(), [6, 6, 6], Mode::Validation, 4);
    for index in 0..200 {
        let batch = loader.batch(index);
        for sample in 3..5 {
            let Aim::Foreground(class) = loader.placement(index, sample).aim else {
                panic!("batch {index}, sample {sample} is forced")
            };
            let class = i16::try_from(class).unwrap();
            let shown = batch.label.index_axis(Axis(0), sample).iter().any(|&c| c == class);
            assert!(shown, "batch {index}, sample {sample}: class {class} is not in the patch");
        }
    }
}

#[test]
fn a_case_without_foreground_gives_a_box_anywhere() {
    let folder = tempdir().unwrap();
    let image = Array4::ones((1, 8, 8, 8));
    write_case(folder.path(), "empty", &image, Some(&Array3::zeros((8, 8, 8))));
    let case = OpenCase::open(&folder.path().join("empty/case.toml")).unwrap();
    let configuration = configuration([4, 4, 4], 2, 1);
    let loader = Loader::new(vec![case], &configuration, &recipe(), Mode::Training, 0).unwrap();
    assert!((0..50).all(|i| loader.placement(i, 1).aim == Aim::Anywhere));
}

#[test]
fn a_batch_depends_on_seed_mode_and_index_alone() {
    let folder = tempdir().unwrap();
    let patch = [12, 16, 10];
    let training = loader(folder.path(), patch, Mode::Training, 1);
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let forwards: Vec<SampledBatch> =
        pool(1).install(|| (0..6).map(|i| training.batch(i)).collect());
    let again = loader(folder.path(), patch, Mode::Training, 1);
    let backwards: Vec<SampledBatch> =
        pool(4).install(|| (0..6).rev().map(|i| again.batch(i)).collect());
    for (a, b) in forwards.iter().zip(backwards.iter().rev()) {
        assert!(a == b);
    }
    assert!(forwards[0] != forwards[1]);
    assert!(forwards[0] != loader(folder.path(), patch, Mode::Training, 2).batch(0));
    let placements = |l: &Loader| (0..5).map(|s| l.placement(0, s)).collect::<Vec<Placement>>();
    let validation = loader(folder.path(), patch, Mode::Validation, 1);
    assert_ne!(placements(&training), placements(&validation));
    assert_eq!(validation.draws(0, 3, 2), Draws::none());
}

#[test]
fn an_identity_map_gives_the_crop_in_every_frame() {
    let folder = tempdir().unwrap();
    for patch in [[12, 10, 16], [4, 10, 16], [12, 5, 16], [12, 14, 5], [1, 10, 16]] {
        let loader = loader(folder.path(), patch, Mode::Training, 0);
        let identity = Draws { scale: Some(1.0), ..Draws::none() };
        for case in 0..2 {
            let placement = Placement { case, lower: [-3, 2, 0], aim: Aim::Anywhere };
            let (plain, plain_label) = loader.sample(&placement, &Draws::none());
            let (mapped, label) = loader.sample(&placement, &identity);
            assert_eq!(plain_label, label, "{patch:?}");
            // Prefilter and interpolation undo each other up to 8 roundings per axis of coefficients that are at
            // most 27 times the samples.
            let tolerance =
                27.0 * 8.0 * f32::EPSILON * plain.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let worst = plain.iter().zip(&mapped).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{patch:?} case {case}: {worst:e} > {tolerance:e}");
        }
    }
}

#[test]
fn slices_share_one_transform_and_never_mix() {
    let folder = tempdir().unwrap();
    for (axis, patch) in [(0, [4, 20, 18]), (1, [20, 4, 18]), (2, [20, 18, 4])] {
        let shape = [6, 6, 6].map(|_| 24);
        // Channel 0 is the number of the slice, channel 1 the same picture in all of them.
        let image = Array4::from_shape_fn((2, 24, 24, 24), |(c, z, y, x)| {
            let at = [z, y, x];
            let in_plane: usize = (0..3).filter(|&a| a != axis).map(|a| at[a] * (a + 2)).sum();
            if c == 0 { 1.0 + at[axis] as f32 } else { (in_plane as f32).sin() + 2.0 }
        });
        write_case(folder.path(), "layers", &image, Some(&Array3::ones(shape)));
        let case = OpenCase::open(&folder.path().join("layers/case.toml")).unwrap();
        let configuration = configuration(patch, 2, 2);
        let loader = Loader::new(vec![case], &configuration, &recipe(), Mode::Training, 0).unwrap();
        let draws = Draws {
            elastic: Some(Elastic { alpha: 150.0, sigma: 9.0, noise: 3 }),
            angles: Some([2.1, 0.0, 0.0]),
            scale: Some(0.9),
            ..Draws::none()
        };
        let mut lower = [3; 3];
        lower[axis] = 7;
        let (image, label) =
            loader.sample(&Placement { case: 0, lower, aim: Aim::Anywhere }, &draws);
        let mut moved = false;
        for slice in 0..4 {
            let number = image.slice(s![0, .., .., ..]).index_axis_move(Axis(axis), slice);
            // Weights add up to 1: 27 × 8 roundings at most, as above.
            let expected = 8.0 + slice as f32;
            assert!(
                number
                    .iter()
                    .all(|&v| v == 0.0 || (v - expected).abs() <= 216.0 * f32::EPSILON * expected),
                "axis {axis}, slice {slice}"
            );
            assert!(number.iter().any(|&v| v != 0.0));
            let picture = image.slice(s![1, .., .., ..]);
            let (here, first) =
                (picture.index_axis(Axis(axis), slice), picture.index_axis(Axis(axis), 0));
            assert_eq!(here, first, "axis {axis}, slice {slice}");
            assert_eq!(label.index_axis(Axis(axis), slice), label.index_axis(Axis(axis), 0));
            moved |= number.iter().any(|&v| v == 0.0);
        }
        assert!(moved, "the rotation brought nothing in from outside");
    }
}

#[test]
fn mirroring_reverses_image_and_label() {
    let folder = tempdir().unwrap();
    let loader = loader(folder.path(), [7, 10, 8], Mode::Training, 0);
    let placement = Placement { case: 0, lower: [1, 3, 2], aim: Aim::Anywhere };
    let (plain, plain_label) = loader.sample(&placement, &Draws::none());
    for flips in 1..8 {
        let mirrored = [flips & 1 == 1, flips & 2 == 2, flips & 4 == 4];
        let draws = Draws { mirror: mirrored, ..Draws::none() };
        let (image, label) = loader.sample(&placement, &draws);
        let at = |v: usize, n: usize, flip: bool| if flip { n - 1 - v } else { v };
        for ((c, z, y, x), &value) in image.indexed_iter() {
            let [i, j, k] = [at(z, 7, mirrored[0]), at(y, 10, mirrored[1]), at(x, 8, mirrored[2])];
            assert_eq!(value, plain[[c, i, j, k]]);
            assert_eq!(label[[z, y, x]], plain_label[[i, j, k]]);
        }
    }
    let mut odd = Array3::from_shape_fn((3, 5, 1), |(z, y, _)| 10 * z + y);
    mirror(odd.view_mut(), [true, true, false]);
    assert_eq!(odd, Array3::from_shape_fn((3, 5, 1), |(z, y, _)| 10 * (2 - z) + 4 - y));
}

#[test]
fn a_batch_made_in_the_memory_of_another_is_the_same() {
    let folder = tempdir().unwrap();
    // Larger than the cases, so that something of the batch lies outside of them.
    for patch in [[14, 18, 12], [40, 40, 40]] {
        let loader = loader(folder.path(), patch, Mode::Training, 3);
        let mut batch = loader.batch(1);
        batch.image.fill(7.5);
        batch.label.fill(2);
        for index in [0, 4, 1] {
            loader.refill(index, &mut batch);
            assert!(batch == loader.batch(index), "batch {index}");
        }
    }
}

#[test]
fn masked_channels_stay_zero_outside_the_mask() {
    let folder = tempdir().unwrap();
    let plain = loader(folder.path(), [14, 18, 12], Mode::Training, 0);
    let masked =
        loader(folder.path(), [14, 18, 12], Mode::Training, 0).with_masked_channels(&[true, false]);
    let placement = Placement { case: 0, lower: [0; 3], aim: Aim::Anywhere };
    let draws = Draws { gamma: Some(vec![1.4, 1.4]), ..Draws::none() };
    let ((a, label), (b, _)) =
        (plain.sample(&placement, &draws), masked.sample(&placement, &draws));
    let mask = phantom(SHAPES[0], 2, 0, true).1;
    let outside = |z, y, x| mask[[z, y, x]] < 0;
    assert!(label.iter().all(|&c| c >= 0));
    let mut changed = 0;
    for ((c, z, y, x), &value) in b.indexed_iter() {
        if c == 0 && outside(z, y, x) {
            assert_eq!(value, 0.0);
            changed += usize::from(a[[c, z, y, x]] != 0.0);
        } else {
            assert_eq!(value, a[[c, z, y, x]]);
        }
    }
    assert!(changed > 0, "gamma did not move the zeros");
}

#[test]
fn disagreeing_inputs_are_refused_in_one_line() {
    let folder = tempdir().unwrap();
    let open = || cases(folder.path(), &SHAPES, 2, false);
    let error = |cases, channels, classes| {
        let mut c = configuration([8, 8, 8], 2, channels);
        c.network.output_channels = classes;
        Loader::new(cases, &c, &recipe(), Mode::Training, 0).unwrap_err().to_string()
    };
    assert_eq!(error(vec![], 2, 3), "no case to draw patches from, expected at least one");
    assert_eq!(
        error(open(), 1, 3),
        "case case_0: channels = 2, expected 1 (network.input_channels)"
    );
    assert_eq!(
        error(open(), 2, 4),
        "case case_0: classes = 3, expected 4 (network.output_channels)"
    );
    write_case(folder.path(), "bare", &Array4::ones((2, 8, 8, 8)), None);
    let bare = OpenCase::open(&folder.path().join("bare/case.toml")).unwrap();
    assert_eq!(
        error(vec![bare], 2, 3),
        "case bare: labelled = false, expected a case with a label"
    );
    let mut odd = recipe();
    odd.augmentation.image_order = 2;
    let refused = Loader::new(open(), &configuration([8, 8, 8], 2, 2), &odd, Mode::Training, 0);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "recipe.augmentation.image_order = 2, expected 0, 1 or 3"
    );
}
