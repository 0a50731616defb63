//! The program itself: files in, files out, what it says and how it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod alone;
mod cascade;
mod memory;
mod selection;
mod space;
mod world;

use artifact::prediction::{PROBABILITIES, Prediction};
use artifact::{Record, nifti, npy};
use ndarray::{Array4, Axis, Ix4};
use world::{SHAPE, World, geometry, plan};

const ONE: &str = "--model fold_0 --images images";

fn probabilities(world: &World, out: &str) -> Array4<f32> {
    npy::read_f16::<Ix4>(&world.path(out).join(PROBABILITIES)).unwrap()
}

/// Class indices of a segmentation.
fn classes(world: &World, out: &str) -> ndarray::Array3<i16> {
    let path = world.path(out).join("segmentation.nii.gz");
    let volume = nifti::read(&path).unwrap();
    artifact::prediction::class_indices(&path, &volume, &plan().labels, None).unwrap()
}

#[test]
fn raw_images_and_preprocessed_cases_give_the_same_segmentation() {
    let world = World::new();
    world.case("a", 0, "3d_fullres");
    world.case("b", 1, "3d_fullres");
    world.done(&format!("{ONE} --out folder"));
    world.done(
        "--model fold_0 --image images/a_0000.nii.gz --image images/a_0001.nii.gz --out file",
    );
    world.done("--model fold_0 --cases cases --out cases_out");
    for id in ["a", "b"] {
        let expected = world.bytes(&format!("folder/{id}/segmentation.nii.gz"));
        assert_eq!(world.bytes(&format!("cases_out/{id}/segmentation.nii.gz")), expected);
    }
    let one = world.bytes("file/a/segmentation.nii.gz");
    assert_eq!(one, world.bytes("folder/a/segmentation.nii.gz"));
    assert_ne!(one, world.bytes("folder/b/segmentation.nii.gz"));

    let record = world.path("folder/a/prediction.toml");
    let prediction = Record::<Prediction>::load(&record).unwrap();
    prediction.verify(&record).unwrap();
    let info = prediction.body.prediction;
    assert_eq!((info.case.as_str(), info.shape), ("a", SHAPE));
    let found = classes(&world, "folder/a");
    for (class, count) in info.class_voxels.iter().enumerate() {
        assert_eq!(found.iter().filter(|c| **c == class as i16).count() as u64, *count);
        assert!(*count > 0, "class {class} never wins: the test says little");
    }
}

#[test]
fn a_4d_file_holds_all_channels_and_hidden_files_are_no_images() {
    let world = World::new();
    let bytes = nifti::encode_image(world::image(0).view(), &geometry(), true).unwrap();
    world.file("decathlon/blob_001.nii.gz", &bytes);
    world.file("decathlon/._blob_001.nii.gz", b"not an image");
    world.file("decathlon/notes.txt", b"not an image");
    world.done("--model fold_0 --images decathlon --out out");
    world.done(&format!("{ONE} --case a --out expected"));
    let found: Vec<_> = std::fs::read_dir(world.path("out")).unwrap().collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        world.bytes("out/blob_001/segmentation.nii.gz"),
        world.bytes("expected/a/segmentation.nii.gz")
    );
    assert!(!world.path("expected/b").exists());
}

#[test]
fn a_prediction_carries_its_images_header() {
    let world = World::new();
    world.done(&format!("{ONE} --case a --out out"));
    let source = nifti::read(&world.path("images/a_0000.nii.gz")).unwrap().geometry;
    let found = nifti::read(&world.path("out/a/segmentation.nii.gz")).unwrap().geometry;
    assert_eq!(
        (found.origin_mm, found.direction, found.spacing_mm, found.shape),
        (source.origin_mm, source.direction, source.spacing_mm, source.shape)
    );
    // What describes voxels may change: intent, data type, slope, range.
    let about_voxels = [68..70, 70..74, 112..120, 124..132];
    for (at, (f, s)) in found.header.iter().zip(&source.header).enumerate() {
        assert!(f == s || about_voxels.iter().any(|r| r.contains(&at)), "byte {at}: {f}, {s}");
    }
    assert_eq!(found.header[148..152], *b"oblq");
}

#[test]
fn probabilities_sum_to_one_and_their_largest_is_the_segmentation() {
    let world = World::new();
    world.done(&format!("{ONE} --case a --probabilities --out out"));
    let p = probabilities(&world, "out/a");
    let [z, y, x] = SHAPE;
    assert_eq!(p.dim(), (3, z, y, x));
    let found = classes(&world, "out/a");
    for ((at, class), column) in found.indexed_iter().zip(p.lanes(Axis(0))) {
        // f16 rounds each of three numbers below 1 by at most 2⁻¹², f32's share is far smaller.
        assert!((column.sum() - 1.0).abs() <= 3.0 / 4096.0 + 1e-5, "{at:?}: {column}");
        let largest = column.fold(0.0, |m: f32, p| m.max(*p));
        assert!(column[*class as usize] >= largest, "{at:?}: class {class} of {column}");
    }
    // The margin of zeros was cropped away: certainly background.
    assert!(p.slice(ndarray::s![0, 0, .., ..]).iter().all(|p| *p == 1.0));
    assert!(p.iter().any(|p| *p > 0.4 && *p < 0.9));

    let log = world.done(&format!("{ONE} --case a --out out"));
    assert!(log.contains("network"), "without --probabilities it is another output: {log}");
    assert!(!world.path("out/a").join(PROBABILITIES).exists());
}

#[test]
fn thread_count_changes_no_byte() {
    let world = World::new();
    for threads in [1, 3] {
        world.done(&format!(
            "{ONE} --model fold_1 --probabilities --threads {threads} --out out_{threads}"
        ));
    }
    for id in ["a", "b"] {
        for file in ["prediction.toml", "segmentation.nii.gz", PROBABILITIES] {
            let [one, three] = [1, 3].map(|n| world.bytes(&format!("out_{n}/{id}/{file}")));
            assert!(one == three, "{id}/{file}");
        }
    }
}

#[test]
fn models_are_averaged_in_any_order() {
    let world = World::new();
    for (models, out) in [
        ("--model fold_0", "zero"),
        ("--model fold_1", "one"),
        ("--model fold_0 --model fold_1", "both"),
        ("--model fold_1 --model fold_0", "turned"),
    ] {
        world.done(&format!("{models} --images images --case a --probabilities --out {out}"));
    }
    let [zero, one, both] = ["zero/a", "one/a", "both/a"].map(|out| probabilities(&world, out));
    assert!(zero.iter().zip(&one).any(|(a, b)| (a - b).abs() > 0.05), "the models agree");
    for ((a, b), mean) in zero.iter().zip(&one).zip(&both) {
        // Each of the three was rounded to f16 once.
        assert!(((a + b) / 2.0 - mean).abs() <= 2.0 / 4096.0 + 1e-5, "{a}, {b}, {mean}");
    }
    assert!(world.bytes("both/a/prediction.toml") == world.bytes("turned/a/prediction.toml"));
    assert!(world.bytes("both/a/probabilities.npy") == world.bytes("turned/a/probabilities.npy"));
}

#[test]
fn mirroring_and_step_change_the_prediction() {
    let world = World::new();
    for (options, out) in [("", "all"), ("--no-mirroring", "plain"), ("--step 0.25", "dense")] {
        world.done(&format!("{ONE} --case a --probabilities {options} --out {out}"));
    }
    let [all, plain, dense] = ["all/a", "plain/a", "dense/a"].map(|out| probabilities(&world, out));
    assert_ne!(all, plain);
    assert_ne!(all, dense);
}

#[test]
fn body_axes_that_must_not_be_mirrored_are_left_out() {
    let world = World::new();
    // The image lies turned by 17° about the body's long axis: left to right is its x axis, the plan's last one.
    let mut never = plan();
    never.recipe.augmentation.never_mirror = vec![artifact::recipe::AnatomicalAxis::LeftRight];
    world.model("never", &never, "3d_fullres", 0);
    let mut without = plan();
    without.recipe.augmentation.mirror_axes = vec![0, 1];
    world.model("without", &without, "3d_fullres", 0);
    for model in ["never", "without"] {
        world.done(&format!(
            "--model {model} --images images --case a --probabilities --out {model}_out"
        ));
    }
    world.done(&format!("{ONE} --case a --probabilities --out all"));
    let [never, without, all] =
        ["never_out/a", "without_out/a", "all/a"].map(|out| probabilities(&world, out));
    assert_eq!(never, without);
    assert_ne!(never, all);
}

#[test]
fn slices_are_predicted_one_by_one() {
    let world = World::new();
    world.model("flat", &plan(), "2d", 0);
    let log = world.done("--model flat --images images --case a --out out");
    // Plan axis 0 is image axis y: 19 slices are left after cropping, 2 × 1 tiles each, 4 flips.
    assert!(log.contains("a: 19 × "), "{log}");
    assert!(log.contains(&format!("{} patches", 19 * 4 * 2)), "{log}");
    assert!(world.path("out/a/prediction.toml").is_file());
}

#[test]
fn finished_cases_are_left_alone() {
    let world = World::new();
    world.done(&format!("{ONE} --out out"));
    let log = world.done(&format!("{ONE} --out out"));
    assert!(log.contains("out/a/prediction.toml is up to date"), "{log}");
    assert!(log.contains("out/b/prediction.toml is up to date"), "{log}");
    assert!(!log.contains("network"), "{log}");
    world.write_image("images/a", 5);
    let log = world.done(&format!("{ONE} --out out"));
    assert!(
        log.contains("a: read") && log.contains("out/b/prediction.toml is up to date"),
        "{log}"
    );
    for option in ["--force", "--step 1", "--no-mirroring", "--probabilities", "--model fold_1"] {
        let log = world.done(&format!("{ONE} {option} --out out"));
        assert!(!log.contains("up to date"), "{option}: {log}");
    }
}

#[test]
fn validation_takes_the_models_own_cases() {
    let world = World::new();
    world.case("a", 0, "3d_fullres");
    world.case("b", 1, "3d_fullres");
    world.done("--model fold_0 --cases cases --validation --out out");
    assert!(world.path("out/b/prediction.toml").is_file() && !world.path("out/a").exists());
    let error =
        world.fails("--model fold_0 --model fold_1 --cases cases --validation --out out", 2);
    assert!(error.starts_with("nnu-infer: error: --validation with 2 models, expected one\n"));
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let world = World::new();
    assert_eq!(
        world.fails("--model fold_7 --images images --out out", 3),
        "nnu-infer: error: fold_7/model.toml: cannot read this model record: No such file or directory (os error 2)"
    );
    let text = String::from_utf8(world.bytes("fold_1/model.toml")).unwrap();
    world.file("fold_1/model.toml", text.replace("version = 1", "version = 2").as_bytes());
    assert_eq!(
        world.fails("--model fold_1 --images images --out out", 3),
        "nnu-infer: error: fold_1/model.toml: artifact.version = 2, expected 1\n  \
         hint: this model was written by another version; make it again"
    );
    let mut other = plan();
    other.recipe.inference.step = 0.75;
    world.model("other", &other, "3d_fullres", 2);
    assert_eq!(
        world.fails("--model fold_0 --model other --images images --out out", 3),
        "nnu-infer: error: other/plan.toml: is another plan than that of fold_0\n  \
         hint: only models of one plan are averaged; train this fold again with the same plan.toml"
    );
    world.model("flat", &plan(), "2d", 0);
    assert_eq!(
        world.fails("--model fold_0 --model flat --images images --out out", 3),
        "nnu-infer: error: flat/model.toml: model.configuration = \"2d\", expected \"3d_fullres\" as in fold_0\n  \
         hint: predict with each configuration by itself"
    );
    let mut weights = world.bytes("fold_0/weights.npz");
    let middle = weights.len() / 2;
    weights[middle] ^= 1;
    world.file("fold_0/weights.npz", &weights);
    let error = world.fails("--model fold_0 --images images --out out", 3);
    assert!(error.starts_with("nnu-infer: error: fold_0/weights.npz: hash is b3:"), "{error}");
    assert!(!world.path("out").exists());
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let world = World::new();
    assert_eq!(
        world.fails("--model fold_0 --image images/a_0000.nii.gz --out out", 3),
        "nnu-infer: error: a: images/a_0000.nii.gz: image has 1 channel, the model expects 2: T1, T2\n  \
         hint: one file per channel in this order, or one 4D file or picture with all of them"
    );
    let whole = world.bytes("images/b_0001.nii.gz");
    world.file("images/b_0001.nii.gz", &whole[..whole.len() / 2]);
    let error = world.fails(&format!("{ONE} --case b --out out"), 3);
    let begin = "nnu-infer: error: b: images/b_0001.nii.gz: gzip data is broken or cut off";
    assert!(error.starts_with(begin), "{error}");
    assert_eq!(error.lines().count(), 2, "{error}");

    let error = world.fails(&format!("{ONE} --out out"), 3);
    assert!(error.starts_with(begin), "{error}");
    assert!(error.ends_with("nnu-infer: error: 1 of 2 cases failed: b"), "{error}");
    assert!(world.path("out/a/prediction.toml").is_file() && !world.path("out/b").exists());

    std::fs::remove_file(world.path("images/b_0001.nii.gz")).unwrap();
    let error = world.fails(&format!("{ONE} --case b --out out"), 3);
    assert!(error.contains("image has 1 channel, the model expects 2: T1, T2"), "{error}");
    std::os::unix::fs::symlink("moved.nii.gz", world.path("images/b_0001.nii.gz")).unwrap();
    assert_eq!(
        world.fails(&format!("{ONE} --case b --out out"), 3),
        "nnu-infer: error: b: images/b_0001.nii.gz: is a link to moved.nii.gz, which isn't there: channel 1 (T2) of case b"
    );
    std::fs::remove_file(world.path("images/b_0001.nii.gz")).unwrap();
    let mut broken = world::image(0);
    broken[[1, 5, 6, 7]] = f32::NAN;
    let bytes = nifti::encode_image(broken.view(), &geometry(), true).unwrap();
    world.file("nan.nii.gz", &bytes);
    assert_eq!(
        world.fails("--model fold_0 --image nan.nii.gz --out out", 3),
        "nnu-infer: error: nan: channel T2 is NaN at voxel (5, 6, 7) (z, y, x), expected finite numbers"
    );
}

#[test]
fn a_name_that_is_no_text_fails_alone() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    world.case("a", 0, "3d_fullres");
    world.case("b", 1, "3d_fullres");
    let odd =
        |folder: &str, name: &[u8]| world.path(folder).join(std::ffi::OsStr::from_bytes(name));
    for channel in 0..2 {
        let name = format!("c?_000{channel}.nii.gz").replace('?', "\u{7f}");
        let name: Vec<u8> = name.bytes().map(|b| if b == 0x7f { 0xff } else { b }).collect();
        let from = world.path(&format!("images/a_000{channel}.nii.gz"));
        std::fs::copy(from, odd("images", &name)).unwrap();
    }
    // A folder of that name is no case.
    std::fs::create_dir(odd("cases", b"other\xff")).unwrap();
    std::fs::create_dir(odd("cases", b"c\xff")).unwrap();
    for file in ["case.toml", "image.npy"] {
        let from = world.path(&format!("cases/a/{file}"));
        std::fs::copy(from, odd("cases", b"c\xff").join(file)).unwrap();
    }
    for (flag, name) in [("--images images", "_0000.nii.gz"), ("--cases cases", "")] {
        let error = world.fails(&format!("--model fold_0 {flag} --out out"), 3);
        let folder = flag.split(' ').next_back().unwrap();
        assert!(error.contains(&format!(": {folder}/c")), "{error}");
        assert!(error.contains(&format!("{name}: has a name that is not UTF-8")), "{error}");
        assert!(error.contains("nnu-infer: error: 1 of 3 cases failed: c"), "{error}");
        for case in ["a", "b"] {
            assert!(world.path(&format!("out/{case}/prediction.toml")).is_file(), "{flag}");
        }
        assert_eq!(std::fs::read_dir(world.path("out")).unwrap().count(), 2);
        world.done(&format!("--model fold_0 {flag} --case a --out out"));
        std::fs::remove_dir_all(world.path("out")).unwrap();
    }
    world.done("--model fold_0 --cases cases --validation --out out");
}

#[test]
fn preprocessed_cases_that_do_not_fit_are_refused() {
    let world = World::new();
    world.model("flat", &plan(), "2d", 0);
    world.case("a", 0, "3d_fullres");
    assert_eq!(
        world.fails("--model flat --cases cases --out out", 3),
        "nnu-infer: error: a: cases/a/case.toml: case.configuration = \"3d_fullres\", but the model's is \"2d\"\n  \
         hint: preprocess this case with the plan.toml in the model's folder"
    );
    let mut other = plan();
    other.configurations.get_mut("3d_fullres").unwrap().spacing_mm = [2.0; 3];
    world.model("other", &other, "3d_fullres", 0);
    assert_eq!(
        world.fails("--model other --cases cases --out out", 3),
        "nnu-infer: error: a: cases/a/case.toml: was preprocessed by another plan than the model's\n  \
         hint: preprocess this case with the plan.toml in the model's folder"
    );
    let mut image = world.bytes("cases/a/image.npy");
    *image.last_mut().unwrap() ^= 1;
    world.file("cases/a/image.npy", &image);
    let error = world.fails("--model fold_0 --cases cases --out out", 3);
    assert!(error.starts_with("nnu-infer: error: a: cases/a/image.npy: hash is b3:"), "{error}");
}

#[test]
fn command_lines_that_make_no_sense_are_refused() {
    let world = World::new();
    for args in [
        "--images images --out out",
        "--model fold_0 --out out",
        "--model fold_0 --images images",
        "--model fold_0 --images images --cases cases --out out",
        "--model fold_0 --image a.nii --images images --out out",
        "--model fold_0 --images images --validation --out out",
        "--model fold_0 --images images --step 0 --out out",
        "--model fold_0 --images images --step 1.5 --out out",
        "--model fold_0 --images images --stepp 0.5 --out out",
        "--model fold_0 --image images/a_0000.nii.gz --id ../x --out out",
        "--model fold_0 --images images --device gpu --out out",
    ] {
        world.fails(args, 2);
    }
    assert_eq!(
        world.fails(&format!("{ONE} --case c --out out"), 3),
        "nnu-infer: error: images: has no case c"
    );
    assert_eq!(
        world.fails("--model fold_0 --images fold_0 --out out", 3),
        "nnu-infer: error: fold_0: holds no images, expected CASE_0000.nii.gz or CASE.nii.gz\n  \
         hint: preprocessed cases are given by --cases"
    );
    assert!(!world.path("out").exists());
}

#[test]
fn a_signal_ends_the_prediction_within_a_patch() {
    let world = World::new();
    let mut long = plan();
    long.recipe.inference.step = 0.05;
    world.model("long", &long, "3d_fullres", 0);
    let mut command = world.command("--model long --images images --threads 1 --out out");
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("patches") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "ended early");
    }
    let kill = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut log, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert_eq!(rest, "nnu-infer: stopped: interrupted; nothing half-written is left\n");
    let left: Vec<_> = std::fs::read_dir(world.path("out/a")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
