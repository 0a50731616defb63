//! Where files lie in space: those that are laid over each other though they lie elsewhere are named, readers that turn to
//! RAS see one image in every voxel order, and files of one channel are refused.

use crate::world::{SHAPE, World, image, plan};
use artifact::image::{Geometry, Reader, Turn, Volume};
use artifact::nifti::{encode_image, encode_labels};
use artifact::prediction::PROBABILITIES;
use artifact::recipe::AnatomicalAxis;
use artifact::{nifti, npy};
use ndarray::{Array3, Array4, Axis, Ix4};

/// A channel, its voxels in another order, with a header that says where they lie.
fn store(world: &World, name: &str, volume: &Volume, turn: Turn) {
    let Volume { geometry: g, channels } = volume.clone().turned(turn);
    let geometry = Geometry::placed(g.shape, g.spacing_mm, g.origin_mm, g.direction);
    world.file(name, &encode_image(channels.view(), &geometry, true).unwrap());
}

/// Channel `c` of the test image as one volume.
fn channel(world: &World, seed: usize, c: usize) -> Volume {
    let geometry = nifti::read(&world.path("images/a_0000.nii.gz")).unwrap().geometry;
    let channels = image(seed).index_axis_move(Axis(0), c).insert_axis(Axis(0));
    Volume { geometry, channels }
}

fn probabilities(world: &World, out: &str) -> Array4<f32> {
    npy::read_f16::<Ix4>(&world.path(out).join(PROBABILITIES)).unwrap()
}

#[test]
fn channels_that_lie_elsewhere_are_named_and_other_grids_refused() {
    let world = World::new();
    world.done("--model fold_0 --image images/a_0000.nii.gz --image images/a_0001.nii.gz --out o");
    let predict = "--model fold_0 --images in --out out --force";
    let both = |how: &str| format!("warning: in/x_0001.nii.gz {how} in/x_0000.nii.gz: corners lie");
    store(&world, "in/x_0000.nii.gz", &channel(&world, 0, 0), Turn::NONE);
    let mut other = channel(&world, 0, 1);
    other.geometry.origin_mm[2] += 3.0;
    store(&world, "in/x_0001.nii.gz", &other, Turn::NONE);
    let log = world.done(predict);
    assert!(log.contains(&both("lies elsewhere than")) && log.contains("3.000 mm"), "{log}");
    for axis in 0..3 {
        let mut other = channel(&world, 0, 1);
        other.geometry.direction.iter_mut().for_each(|row| row[axis] *= -1.0);
        store(&world, "in/x_0001.nii.gz", &other, Turn::NONE);
        let log = world.done(predict);
        assert!(log.contains(&both("is turned against")), "{log}");
    }
    let mut other = channel(&world, 0, 1);
    other.geometry.spacing_mm[0] *= 1.01;
    store(&world, "in/x_0001.nii.gz", &other, Turn::NONE);
    let error = world.fails(predict, 3);
    assert!(error.contains("in/x_0001.nii.gz: spacing [2.525"), "{error}");
    assert!(error.contains("as in in/x_0000.nii.gz"), "{error}");
    // As it should be: not a word.
    store(&world, "in/x_0001.nii.gz", &channel(&world, 0, 1), Turn::NONE);
    assert!(!world.done(predict).contains("warning"));
}

#[test]
fn a_first_stages_map_that_lies_elsewhere_is_named() {
    let world = World::new();
    world.model("second", &plan(), "3d_cascade_fullres", 0);
    let mut map = Volume {
        channels: Array4::zeros((1, SHAPE[0], SHAPE[1], SHAPE[2])),
        ..channel(&world, 0, 0)
    };
    map.channels.slice_mut(ndarray::s![.., 3..7, 5..14, 4..10]).fill(2.0);
    let predict = "--model second --previous first --images images --case a --out out --force";
    store(&world, "first/a.nii.gz", &map, Turn::NONE);
    assert!(!world.done(predict).contains("warning"));
    map.geometry.direction.iter_mut().for_each(|row| row[1] *= -1.0);
    store(&world, "first/a.nii.gz", &map, Turn::NONE);
    let log = world.done(predict);
    let line = "warning: first/a.nii.gz is turned against images/a_0000.nii.gz: corners lie";
    assert!(log.contains(line), "{log}");
    // Two maps of one case.
    store(&world, "first/a.nii", &map, Turn::NONE);
    let error = world.fails(predict, 3);
    assert!(error.contains("first/a.nii: and first/a.nii.gz are both"), "{error}");
}

#[test]
fn files_of_one_channel_are_refused_and_missing_ones_named() {
    let world = World::new();
    let [first, second] = [0, 1].map(|c| channel(&world, 0, c));
    store(&world, "one/a_0000.nii.gz", &first, Turn::NONE);
    let error = world.fails("--model fold_0 --images one --out out", 3);
    assert!(error.contains("has 1 channel, the model expects 2: T1, T2"), "{error}");
    store(&world, "one/a_0000.nii", &first, Turn::NONE);
    let error = world.fails("--model fold_0 --images one --out out", 3);
    assert!(
        error.contains("one/a_0000.nii: and one/a_0000.nii.gz are both the same channel"),
        "{error}"
    );
    store(&world, "two/a_0000.nii.gz", &first, Turn::NONE);
    store(&world, "two/a_0002.nii.gz", &second, Turn::NONE);
    let error = world.fails("--model fold_0 --images two --out out", 3);
    assert!(error.contains("two/a_0001.nii.gz: is not there: channel 1 (T2) of case a"), "{error}");
    let twice = "--image two/a_0000.nii.gz --image two/a_0000.nii.gz";
    let error = world.fails(&format!("--model fold_0 {twice} --out out"), 3);
    assert!(error.contains("a_0000.nii.gz: is given for two channels of one case"), "{error}");
    assert!(error.contains("hint: name each channel's own file"), "{error}");
    assert!(!world.path("out/a").exists());
}

#[cfg(unix)]
#[test]
fn one_file_for_two_channels_is_refused_or_told() {
    use std::os::unix::fs::symlink;
    let world = World::new();
    for c in [0, 1] {
        store(&world, &format!("images/a_000{c}.nii.gz"), &channel(&world, 0, c), Turn::NONE);
    }
    let predict = |what: &str| format!("--model fold_0 {what} --out out");
    let first = "--image images/a_0000.nii.gz";
    let error =
        world.fails(&predict(&format!("{first} --image images/../images/a_0000.nii.gz")), 3);
    assert!(error.contains("are one file, given for two channels of one case"), "{error}");
    symlink(world.path("images"), world.path("folder")).unwrap();
    let error = world.fails(&predict(&format!("{first} --image folder/a_0000.nii.gz")), 3);
    assert!(error.contains("are one file, given for two channels of one case"), "{error}");
    symlink("a_0000.nii.gz", world.path("images/zz.nii.gz")).unwrap();
    let error = world.fails(&predict(&format!("{first} --image images/zz.nii.gz")), 3);
    let link = "zz.nii.gz: is a link to images/a_0000.nii.gz, another channel of the same case";
    assert!(error.contains(link), "{error}");
    std::fs::remove_file(world.path("images/zz.nii.gz")).unwrap();
    // Given backwards: done, and said.
    let second = "--image images/a_0001.nii.gz";
    let log = world.done(&predict(&format!("{second} {first} --id back")));
    let told = "a_0001.nii.gz is called channel 1 of a, but given as channel 0 of a";
    assert!(log.contains(told), "{log}");
    assert!(!world.done(&predict(&format!("{first} {second} --id right"))).contains("warning"));
    // In a folder.
    std::fs::remove_file(world.path("images/a_0001.nii.gz")).unwrap();
    symlink("a_0000.nii.gz", world.path("images/a_0001.nii.gz")).unwrap();
    let error = world.fails(&predict("--images images"), 3);
    assert!(error.contains("images/a_0001.nii.gz: is a link to"), "{error}");
    std::fs::remove_file(world.path("images/a_0001.nii.gz")).unwrap();
    let [file, other] = ["images/a_0000.nii.gz", "images/a_0001.nii.gz"].map(|p| world.path(p));
    std::fs::hard_link(file, other).unwrap();
    let log = world.done(&predict("--images images"));
    let told = "a_0001.nii.gz is the same file as images/a_0000.nii.gz, by links";
    assert!(log.contains(told), "{log}");
}

/// Voxel orders of the image's two channels; the first keeps it as it is.
const ORDERS: [[Turn; 2]; 3] = [
    [Turn::NONE; 2],
    [
        Turn { axes: [2, 0, 1], flip: [true, false, true] },
        Turn { axes: [0, 1, 2], flip: [false, true, true] },
    ],
    [
        Turn { axes: [1, 0, 2], flip: [false, true, false] },
        Turn { axes: [2, 1, 0], flip: [true, true, true] },
    ],
];

#[test]
fn readers_that_turn_predict_one_image_alike_in_any_voxel_order() {
    for reader in [Reader::SimpleItkRas, Reader::NibabelRas] {
        for (configuration, sides) in
            [("2d", false), ("3d_fullres", true), ("3d_cascade_fullres", false)]
        {
            let world = World::new();
            let mut plan = plan();
            plan.dataset.reader = reader;
            if sides {
                plan.recipe.augmentation.never_mirror = vec![AnatomicalAxis::LeftRight];
            }
            world.model("m/fold_0", &plan, configuration, 0);
            world.model("first/fold_0", &plan, "3d_lowres", 1);
            let more = match configuration {
                "3d_cascade_fullres" => "--previous-model first/fold_0",
                _ => "",
            };
            let mut all = Vec::new();
            for (at, order) in ORDERS.into_iter().enumerate() {
                for (c, turn) in order.into_iter().enumerate() {
                    let volume = channel(&world, 0, c);
                    store(&world, &format!("in{at}/x_{c:04}.nii.gz"), &volume, turn);
                }
                let log = world.done(&format!(
                    "--model m/fold_0 {more} --images in{at} --out out{at} --probabilities --precision f32 --device cpu"
                ));
                assert!(!log.contains("warning"), "{log}");
                let found =
                    nifti::read(&world.path(&format!("out{at}/x/segmentation.nii.gz"))).unwrap();
                let source = nifti::read(&world.path(&format!("in{at}/x_0000.nii.gz"))).unwrap();
                assert_eq!(found.geometry.agrees(&source.geometry), Ok(()));
                // Back to the first order, that of the test image.
                let back = order[0].inverse();
                let p = back
                    .channels(probabilities(&world, &format!("out{at}/x")))
                    .as_standard_layout()
                    .into_owned();
                all.push((back.channels(found.channels), p));
            }
            let (labels, p) = &all[0];
            let classes: Vec<i16> = labels.iter().map(|v| *v as i16).collect();
            assert!(classes.contains(&2) || classes.contains(&5), "background only says little");
            for (other, q) in &all[1..] {
                // Spacings of turned images are lengths of columns to nibabel, rounded to f32: a step of f16 either way.
                let step = if reader == Reader::NibabelRas { 1.0 / 1024.0 } else { 0.0 };
                let away = p.iter().zip(q).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(away <= step, "{reader:?} {configuration}: {away}");
                let differ = labels.iter().zip(other).filter(|(a, b)| a != b).count();
                assert!(differ as f32 <= step * labels.len() as f32, "{differ} labels differ");
            }
        }
    }
}

#[test]
fn without_turning_another_voxel_order_is_another_image() {
    let world = World::new();
    for (c, turn) in ORDERS[1].into_iter().enumerate() {
        store(&world, &format!("in/x_{c:04}.nii.gz"), &channel(&world, 0, c), turn);
    }
    // The channels' shapes differ as stored.
    let error = world.fails("--model fold_0 --images in --out out", 3);
    assert!(error.contains("in/x_0001.nii.gz: shape"), "{error}");
}

#[test]
fn a_first_stages_map_is_turned_as_its_image_is() {
    let world = World::new();
    let mut plan = plan();
    plan.dataset.reader = Reader::SimpleItkRas;
    world.model("second", &plan, "3d_cascade_fullres", 0);
    let [z, y, x] = SHAPE;
    let map = Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        if z > 2 && y > 4 && x < 9 {
            2u8
        } else if y > 15 {
            5
        } else {
            0
        }
    });
    let base = channel(&world, 0, 0);
    let map = Volume { channels: map.mapv(f32::from).insert_axis(Axis(0)), ..base };
    let mut found = Vec::new();
    for (at, order) in ORDERS.into_iter().enumerate() {
        for (c, turn) in order.into_iter().enumerate() {
            store(&world, &format!("in{at}/x_{c:04}.nii.gz"), &channel(&world, 0, c), turn);
        }
        store(&world, &format!("first{at}/x.nii.gz"), &map, order[1]);
        let log = world.done(&format!(
            "--model second --previous first{at} --images in{at} --out out{at} --probabilities --precision f32 --device cpu"
        ));
        assert!(!log.contains("warning"), "{log}");
        let p = order[0].inverse().channels(probabilities(&world, &format!("out{at}/x")));
        found.push(p.as_standard_layout().into_owned());
    }
    assert!(found[0] == found[1] && found[0] == found[2]);
    // The map is looked at: another one gives something else.
    let empty = Array3::<u8>::zeros((z, y, x));
    world.file("none/x.nii.gz", &encode_labels(empty.view(), &map.geometry, true).unwrap());
    world.done("--model second --previous none --images in0 --out none_out --probabilities --precision f32 --device cpu");
    assert!(probabilities(&world, "none_out/x") != found[0]);
}
