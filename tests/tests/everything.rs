//! 2D, 3D and the cascade with all their folds, selection, and prediction with what was selected; pictures as data sets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use artifact::selection::Selection;
use artifact::{Commit, Record, image};
use e2e::programs::{folder, run, run_all, tree};
use ndarray::Array3;
use std::path::Path;

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

/// Small enough for a test, large enough for its memory to deserve a cascade; two folds.
const PLANNED: [&str; 3] = [
    "nnu-phantom -q --training 4 --test 1 --shape 16,40,40 --spacing 2.0,0.9,0.9 --out {}/data",
    "nnu-fingerprint -q --dataset {}/data --out {}/fingerprint.toml",
    "nnu-plan -q --fingerprint {}/fingerprint.toml --recipe v2 --gpu-memory 0.001 --folds 2 \
     --set planning.base_features=4 --set schedule.epochs=1 --set schedule.iterations_per_epoch=2 \
     --set schedule.validation_iterations=1 --out {}/plan.toml",
];

const CONFIGURATIONS: [&str; 4] = ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"];

/// Every program of a cross-validation, first stages before second ones.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> = PLANNED.map(String::from).to_vec();
    for name in &CONFIGURATIONS[..3] {
        lines.push(format!(
            "nnu-preprocess -q --dataset {{}}/data --plan {{}}/plan.toml --configuration {name} --out {{}}/cases/{name}"
        ));
    }
    for name in CONFIGURATIONS {
        let cascade = name == "3d_cascade_fullres";
        let cases = if cascade { "3d_fullres" } else { name };
        let previous = if cascade {
            "--previous {}/validation/3d_lowres/fold_0 --previous {}/validation/3d_lowres/fold_1"
        } else {
            ""
        };
        let next = if name == "3d_lowres" { "--next-stage {}/cases/3d_fullres" } else { "" };
        for fold in 0..2 {
            lines.push(format!(
                "nnu-train -q --cases {{}}/cases/{cases} --plan {{}}/plan.toml --configuration {name} --fold {fold} \
                 --no-validation {previous} --out {{}}/models/{name}/fold_{fold}"
            ));
            lines.push(format!(
                "nnu-infer -q --model {{}}/models/{name}/fold_{fold} --cases {{}}/cases/{cases} --validation {previous} {next} \
                 --no-mirroring --probabilities --out {{}}/validation/{name}/fold_{fold}"
            ));
        }
    }
    let folders =
        |name: &str| format!("{name}={{}}/validation/{name}/fold_0,{{}}/validation/{name}/fold_1");
    let candidates: Vec<String> =
        CONFIGURATIONS.iter().map(|name| format!("--candidate {}", folders(name))).collect();
    lines.push(format!(
        "nnu-postprocess select -q --plan {{}}/plan.toml --splits {{}}/splits.toml --labels {{}}/data/labelsTr \
         --models {{}}/models {} --out {{}}/selection.toml",
        candidates.join(" ")
    ));
    lines.push(
        "nnu-infer -q --selection {}/selection.toml --images {}/data/imagesTs --no-mirroring --out {}/test".into(),
    );
    lines
}

#[test]
fn a_cross_validation_of_all_configurations_ends_with_predictions_of_the_best() {
    let root = tempfile::tempdir().unwrap();
    let (programs, lines) = (folder(PHANTOM), lines());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    run_all(&programs, root.path(), &lines);

    let selection = Record::<Selection>::load(&root.path().join("selection.toml")).unwrap().body;
    // Four configurations and six pairs.
    assert_eq!(selection.candidates.len(), 10);
    let best = selection.candidates.iter().map(|c| c.mean_dice).fold(0.0, f64::max);
    assert_eq!(selection.selection.mean_dice.to_bits(), best.to_bits());
    assert!(root.path().join("test/phantom_004/segmentation.nii.gz").is_file());

    let made = tree(root.path());
    run_all(&programs, root.path(), &lines[1..]);
    assert_eq!(made, tree(root.path()));
    let verified = run(&programs, root.path(), "nnu-artifact verify {}");
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);

    the_second_stage_looks_at_the_first(root.path());
}

/// The second stage's prediction changes with what it is told about the first one.
fn the_second_stage_looks_at_the_first(root: &Path) {
    let programs = folder(PHANTOM);
    let case = "phantom_004";
    let empty = Array3::<u8>::zeros(
        image::read(&root.join(format!("data/labelsTs/{case}.nii.gz"))).unwrap().geometry.shape,
    );
    let geometry =
        image::read(&root.join(format!("data/labelsTs/{case}.nii.gz"))).unwrap().geometry;
    let bytes = image::encode_labels(empty.view(), &geometry, ".nii.gz").unwrap();
    Commit::file(&root.join(format!("nothing/{case}.nii.gz")), &bytes).unwrap();
    let predict = "nnu-infer -q --model {}/models/3d_cascade_fullres/fold_0 --images {}/data/imagesTs --no-mirroring --probabilities";
    run_all(
        &programs,
        root,
        &[
            &format!("{predict} --out {{}}/told_by_itself"),
            &format!("{predict} --previous {{}}/nothing --out {{}}/told_nothing"),
            &format!("{predict} --previous {{}}/data/labelsTs --out {{}}/told_the_truth"),
        ],
    );
    let found = ["told_by_itself", "told_nothing", "told_the_truth"].map(|name| {
        artifact::hash_file(&root.join(name).join(case).join("probabilities.npy")).unwrap()
    });
    assert_ne!(found[1], found[2]);
    assert_ne!(found[0], found[2]);
}

/// Discs on a slope of grey: as a data set of PNG files, planned in 2D only and predicted as PNG.
#[test]
fn pictures_are_segmented_as_pictures() {
    let root = tempfile::tempdir().unwrap();
    let put = |file: String, pixel: &dyn Fn(f64, f64) -> i32| {
        let geometry = image::Geometry::plain([1, 40, 48], [999.0, 1.0, 1.0]);
        let pixels = Array3::from_shape_fn((1, 40, 48), |(_, y, x)| pixel(y as f64, x as f64));
        let bytes = image::encode_labels(pixels.view(), &geometry, ".png").unwrap();
        Commit::file(&root.path().join(file), &bytes).unwrap();
    };
    for case in 0..6u8 {
        let (cy, cx) = (14.0 + f64::from(case), 30.0 - 2.0 * f64::from(case));
        let inside = move |y: f64, x: f64| (y - cy).hypot(x - cx) < 8.0;
        let grey = move |y: f64, x: f64| 40 + x as i32 + if inside(y, x) { 90 } else { 0 };
        let (images, labels) =
            if case < 5 { ("imagesTr", "labelsTr") } else { ("imagesTs", "labelsTs") };
        put(format!("data/{images}/disc_{case}_0000.png"), &grey);
        put(format!("data/{labels}/disc_{case}.png"), &|y, x| i32::from(inside(y, x)));
    }
    let text = r#"{"channel_names": {"0": "microscope"}, "labels": {"background": 0, "disc": 1},
        "numTraining": 5, "file_ending": ".png"}"#;
    Commit::file(&root.path().join("data/dataset.json"), text.as_bytes()).unwrap();
    run_all(
        &folder(PHANTOM),
        root.path(),
        &[
            "nnu-fingerprint -q --dataset {}/data --out {}/fingerprint.toml",
            "nnu-plan -q --fingerprint {}/fingerprint.toml --recipe v2 --set planning.base_features=8 \
             --set schedule.epochs=2 --set schedule.iterations_per_epoch=30 --set schedule.validation_iterations=1 \
             --out {}/plan.toml",
            "nnu-preprocess -q --dataset {}/data --plan {}/plan.toml --configuration 2d --out {}/cases",
            "nnu-train -q --cases {}/cases --plan {}/plan.toml --configuration 2d --fold 0 --out {}/model",
            "nnu-infer -q --model {}/model --images {}/data/imagesTs --out {}/test",
            "nnu-postprocess evaluate -q --predictions {}/test --labels {}/data/labelsTs --images {}/data/imagesTs \
             --overlays {}/overlays --out {}/summary.toml",
        ],
    );
    let plan = Record::<artifact::plan::Plan>::load(&root.path().join("plan.toml")).unwrap().body;
    assert_eq!(plan.configurations.keys().collect::<Vec<_>>(), ["2d"]);
    let found = image::read(&root.path().join("test/disc_5/segmentation.png")).unwrap();
    let truth = image::read(&root.path().join("data/labelsTs/disc_5.png")).unwrap();
    let both = found.channels.iter().zip(&truth.channels).filter(|(a, b)| **a > 0.0 && **b > 0.0);
    let sum = |v: &image::Volume| v.channels.iter().filter(|l| **l > 0.0).count();
    let dice = 2.0 * both.count() as f64 / (sum(&found) + sum(&truth)) as f64;
    // The disc is 90 of 255 grey values brighter than what surrounds it.
    assert!(dice > 0.9, "Dice {dice}");
}
