//! `--selection`: several configurations, their average, and what follows.

use crate::world::{World, plan};
use artifact::postprocessing::{ClassRule, Postprocessing};
use artifact::prediction::Prediction;
use artifact::selection::{Candidate, Selected, SelectedModel, Selection};
use artifact::{Commit, Provenance, Record, hash_file, nifti, npy};
use ndarray::{Array3, Array4, Axis, Ix4};

/// Writes `models/selection.toml` for these configurations; their models lie in `models/CONFIGURATION/fold_K`.
fn select(world: &World, configurations: &[&str], models: &[&str], keep_largest: bool) {
    let rule = |label: &str, value| ClassRule {
        label: label.into(),
        value,
        keep_largest_component: keep_largest,
        most_components_in_training: 1,
        dice_before: 0.5,
        dice_after: 0.6,
    };
    let postprocessing = Postprocessing {
        decision: None,
        foreground: None,
        labels: plan().labels,
        regions: Vec::new(),
        classes: vec![rule("liver", 2), rule("tumour", 5)],
    };
    let model = |folder: &&str| SelectedModel {
        configuration: folder.split('/').next().unwrap().into(),
        fold: folder.rsplit('_').next().unwrap().parse().unwrap(),
        folder: (*folder).into(),
        hash: hash_file(&world.path("models").join(folder).join("model.toml")).unwrap(),
    };
    let names: Vec<String> = configurations.iter().map(|c| (*c).into()).collect();
    let body = Selection {
        selection: Selected {
            configurations: names.clone(),
            mean_dice: 0.5,
            mean_dice_postprocessed: 0.6,
        },
        labels: plan().labels,
        regions: Vec::new(),
        candidates: vec![Candidate {
            configurations: names,
            mean_dice: 0.5,
            dice: vec![0.5, 0.5],
            cases: 2,
        }],
        models: models.iter().map(model).collect(),
        postprocessing,
    };
    let commit = Commit::begin(&world.path("models/selection.toml")).unwrap();
    commit.finish(&Provenance::default(), &body).unwrap();
}

fn world() -> World {
    let world = World::new();
    for fold in [0, 1] {
        for name in ["2d", "3d_fullres", "3d_lowres"] {
            world.model(&format!("models/{name}/fold_{fold}"), &plan(), name, fold);
        }
    }
    world.model("models/3d_cascade_fullres/fold_0", &plan(), "3d_cascade_fullres", 0);
    world
}

const SELECTION: &str = "--selection models/selection.toml --images images";

fn probabilities(world: &World, out: &str) -> Array4<f32> {
    npy::read_f16::<Ix4>(&world.path(out).join("a/probabilities.npy")).unwrap()
}

fn classes(world: &World, out: &str) -> Array3<i16> {
    let path = world.path(out).join("a/segmentation.nii.gz");
    let volume = nifti::read(&path).unwrap();
    artifact::prediction::class_indices(&path, &volume, &plan().labels, None).unwrap()
}

#[test]
fn a_pair_is_the_mean_of_its_configurations() {
    let world = world();
    let pair = ["2d/fold_0", "2d/fold_1", "3d_fullres/fold_0"];
    select(&world, &["2d", "3d_fullres"], &pair, false);
    world.done(&format!("{SELECTION} --case a --probabilities --out pair"));
    let flat = "--model models/2d/fold_0 --model models/2d/fold_1";
    world.done(&format!("{flat} --images images --case a --probabilities --out flat"));
    let deep = "--model models/3d_fullres/fold_0";
    world.done(&format!("{deep} --images images --case a --probabilities --out deep"));
    let [pair, flat, deep] = ["pair", "flat", "deep"].map(|out| probabilities(&world, out));
    assert!(flat.iter().zip(&deep).any(|(a, b)| (a - b).abs() > 0.05), "they agree");
    // The files' own numbers are averaged, and rounded once.
    let mean = (&flat + &deep) / 2.0;
    for (found, expected) in pair.iter().zip(&mean) {
        assert!((found - expected).abs() <= 1.0 / 4096.0, "{found}, {expected}");
    }
    for (class, column) in classes(&world, "pair").iter().zip(mean.lanes(Axis(0))) {
        let largest = column.fold(0.0f32, |m, p| m.max(*p));
        assert_eq!(column[*class as usize], largest);
    }
    // Without probabilities the label map is the same.
    let before = world.bytes("pair/a/segmentation.nii.gz");
    world.done(&format!("{SELECTION} --case a --out lean"));
    assert!(before == world.bytes("lean/a/segmentation.nii.gz"));
}

#[test]
fn postprocessing_is_applied_and_counted() {
    let world = world();
    select(&world, &["3d_fullres"], &["3d_fullres/fold_0"], false);
    world.done(&format!("{SELECTION} --case a --out plain"));
    world.done("--model models/3d_fullres/fold_0 --images images --case a --out model");
    assert!(
        world.bytes("plain/a/segmentation.nii.gz") == world.bytes("model/a/segmentation.nii.gz")
    );
    select(&world, &["3d_fullres"], &["3d_fullres/fold_0"], true);
    let log = world.done(&format!("{SELECTION} --case a --out plain"));
    assert!(log.contains("a: read"), "other postprocessing, other output: {log}");
    let [before, after] = ["model", "plain"].map(|out| classes(&world, out));
    let mut expected = before.clone();
    for class in [1i16, 2] {
        use postprocess::components::{Components, Connectivity};
        let components = Components::of(before.view(), Connectivity::Corners, |c| *c == class);
        components.keep_largest(&mut expected, 0);
    }
    assert_ne!(before, expected, "nothing to remove");
    assert_eq!(after, expected);
    let record = Record::<Prediction>::load(&world.path("plain/a/prediction.toml")).unwrap();
    for (class, count) in record.body.prediction.class_voxels.iter().enumerate() {
        assert_eq!(after.iter().filter(|c| **c as usize == class).count() as u64, *count);
    }
}

#[test]
fn a_selected_cascade_runs_its_first_stage_once() {
    let world = world();
    let models = ["3d_lowres/fold_0", "3d_lowres/fold_1", "3d_cascade_fullres/fold_0"];
    select(&world, &["3d_cascade_fullres"], &models, false);
    let log = world.done(&format!("{SELECTION} --case a --out selected"));
    assert!(log.contains("3 models of 3d_lowres, 3d_cascade_fullres"), "{log}");
    world.done("--model models/3d_cascade_fullres/fold_0 --images images --case a --out model");
    let expected = world.bytes("model/a/segmentation.nii.gz");
    assert!(world.bytes("selected/a/segmentation.nii.gz") == expected);

    select(&world, &["3d_cascade_fullres", "3d_lowres"], &models, false);
    let log = world.done(&format!("{SELECTION} --case a --probabilities --out pair"));
    assert!(log.contains("3 models of 3d_lowres, 3d_cascade_fullres"), "{log}");
    let low = "--model models/3d_lowres/fold_0 --model models/3d_lowres/fold_1";
    world.done(&format!("{low} --images images --case a --probabilities --out low"));
    let second = "--model models/3d_cascade_fullres/fold_0 --images images";
    world.done(&format!("{second} --case a --probabilities --out high"));
    let [pair, low, high] = ["pair", "low", "high"].map(|out| probabilities(&world, out));
    let mean = (&low + &high) / 2.0;
    for (found, expected) in pair.iter().zip(&mean) {
        assert!((found - expected).abs() <= 1.0 / 4096.0, "{found}, {expected}");
    }
}

#[test]
fn selections_that_do_not_fit_are_refused() {
    let world = world();
    let fails = || world.fails(&format!("{SELECTION} --out out"), 3);
    let again = "hint: run nnu-postprocess select again";
    select(&world, &["3d_cascade_fullres"], &["3d_cascade_fullres/fold_0"], false);
    assert_eq!(
        fails(),
        format!(
            "nnu-infer: error: models/selection.toml: names no model of 3d_lowres, which the selected configurations need\n  {again} with the models of every stage"
        )
    );
    select(&world, &["3d_fullres"], &["3d_fullres/fold_0", "3d_fullres/fold_1"], false);
    let text = String::from_utf8(world.bytes("models/3d_fullres/fold_1/model.toml")).unwrap();
    world.file(
        "models/3d_fullres/fold_1/model.toml",
        text.replace("epochs = 1", "epochs = 2").as_bytes(),
    );
    assert_eq!(
        fails(),
        format!(
            "nnu-infer: error: models/3d_fullres/fold_1/model.toml: was changed after models/selection.toml was written\n  {again}"
        )
    );
    let mut other = plan();
    other.configurations.get_mut("2d").unwrap().spacing_mm = [2.0; 3];
    world.model("models/2d/fold_0", &other, "2d", 0);
    select(&world, &["3d_fullres", "2d"], &["3d_fullres/fold_0", "2d/fold_0"], false);
    assert_eq!(
        fails(),
        "nnu-infer: error: models/2d/fold_0/plan.toml: is another plan than that of the other models: preprocesses \
         cases of 2d in another way\n  hint: train 2d with the same plan.toml"
    );
    let log = world.fails("--selection models/selection.toml --cases cases --out out", 2);
    assert!(log.contains("cannot be used with"), "{log}");
    assert!(!world.path("out").exists());
}
