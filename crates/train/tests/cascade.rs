//! The second stage of a cascade, data sets with regions, and an ignore label, as a user of `nnu-train` meets them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use artifact::model::Model;
use artifact::plan::Plan;
use artifact::previous::{ARRAY, Previous, PreviousInfo};
use artifact::{Commit, Label, Provenance, Region};
use ndarray::Array3;
use support::{Bench, load};

/// The bench's configuration as the second stage of a cascade.
fn second_stage(plan: &mut Plan) {
    let first = plan.configurations["3d_fullres"].clone();
    plan.configurations.insert("3d_lowres".into(), first);
    let only = plan.configurations.get_mut("3d_fullres").unwrap();
    only.previous_stage = Some("3d_lowres".into());
    only.network.input_channels = 2;
}

/// What the first stage saw: `cases` by the fold that left them out, `change` alters the record.
fn previous(bench: &Bench, folder: &str, id: &str, change: impl FnOnce(&mut PreviousInfo)) {
    previous_from(bench, folder, id, change, &Provenance::default());
}

fn previous_from(
    bench: &Bench,
    folder: &str,
    id: &str,
    change: impl FnOnce(&mut PreviousInfo),
    provenance: &Provenance,
) {
    let mut info = PreviousInfo {
        case: id.into(),
        configuration: "3d_lowres".into(),
        folds: vec![0],
        grid: "3d_fullres".into(),
        classes: 2,
        shape: [10, 9, 12],
    };
    change(&mut info);
    let [z, y, x] = info.shape;
    let seen = Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        i16::from((3..6).contains(&z) && (3..7).contains(&y) && (4..8).contains(&x))
    });
    let mut commit = Commit::begin(&bench.path(folder).join(id).join("previous.toml")).unwrap();
    commit.npy(ARRAY, &seen.view()).unwrap();
    commit.finish(provenance, &Previous { previous: info }).unwrap();
}

/// Only case c is validated in a fold: a and b may come from any model.
fn complete(bench: &Bench) {
    bench.write_plan(second_stage);
    for id in ["a", "b"] {
        previous(bench, "first", id, |_| ());
    }
    previous(bench, "second", "c", |_| ());
}

const FOLDERS: [&str; 4] = ["--previous", "first", "--previous", "second"];

#[test]
fn a_second_stage_trains_on_image_and_first_stage() {
    let bench = Bench::new();
    complete(&bench);
    let files = bench.trained("model", &FOLDERS);
    let dice = load::<Model>(&bench.path("model/model.toml")).model.validation_dice;
    assert_eq!(dice.len(), 1);
    // Another first stage is another training.
    previous(&bench, "second", "c", |_| ());
    assert_eq!(bench.trained("model", &FOLDERS), files);
    let all_background = Array3::<i16>::zeros((10, 9, 12));
    let mut commit = Commit::begin(&bench.path("first/a/previous.toml")).unwrap();
    commit.npy(ARRAY, &all_background.view()).unwrap();
    let info = load::<Previous>(&bench.path("first/b/previous.toml")).previous;
    let info = PreviousInfo { case: "a".into(), ..info };
    commit.finish(&Provenance::default(), &Previous { previous: info }).unwrap();
    let mut forced = FOLDERS.to_vec();
    forced.push("--force");
    let changed = bench.trained("model", &forced);
    assert_ne!(changed["weights.npz"], files["weights.npz"]);
}

#[test]
fn a_second_stage_without_the_first_is_refused() {
    let bench = Bench::new();
    bench.write_plan(second_stage);
    bench.refused(
        &[],
        2,
        &[
            "nnu-train: error: configuration 3d_fullres takes the predictions of 3d_lowres as input, expected --previous DIR",
            "  hint: nnu-infer --model 3d_lowres/fold_K --cases … --validation --next-stage … writes them, fold by fold",
        ],
    );
    previous(&bench, "first", "a", |_| ());
    bench.refused(
        &FOLDERS,
        3,
        &[
            "nnu-train: error: first, second: 1 of 2 cases have no prediction of 3d_lowres, such as b",
            "  hint: train 3d_lowres for every fold and predict its validation cases with nnu-infer --validation --next-stage",
        ],
    );
    bench.write_plan(|_| ());
    let line =
        "nnu-train: error: --previous is for the second stage of a cascade, and 3d_fullres is none";
    bench.refused(&FOLDERS, 2, &[line]);
}

#[test]
fn a_first_stage_of_other_models_is_refused() {
    type Change = fn(&mut PreviousInfo);
    let again = "  hint: predict with the 3d_lowres models of plan.toml again, with --next-stage";
    let cases: [(Change, &str, &str); 4] = [
        (
            |p| p.configuration = "2d".into(),
            "previous.configuration = \"2d\", expected \"3d_lowres\"",
            again,
        ),
        (
            |p| p.shape = [10, 9, 11],
            "previous.shape = [10, 9, 11], but its case has [10, 9, 12]",
            again,
        ),
        (|p| p.classes = 3, "previous.classes = 3, but plan.toml has 2 labels", again),
        (
            |p| p.folds = vec![1],
            "previous.folds = [1], expected [0], the fold that was not trained on case c",
            "  hint: a second stage that learns from predictions of seen cases trusts them too much",
        ),
    ];
    for (change, line, hint) in cases {
        let bench = Bench::new();
        complete(&bench);
        previous(&bench, "second", "c", change);
        let line = format!("nnu-train: error: second/c/previous.toml: {line}");
        bench.refused(&FOLDERS, 3, &[&line, hint]);
    }
    let bench = Bench::new();
    complete(&bench);
    let elsewhere = Provenance::default().input("preprocessing", "b3:00");
    previous_from(&bench, "second", "c", |_| (), &elsewhere);
    let line = "nnu-train: error: second/c/previous.toml: was predicted by models of another plan than plan.toml";
    bench.refused(&FOLDERS, 3, &[line, again]);
}

#[test]
fn regions_are_learnt_by_one_output_each() {
    let bench = Bench::new();
    bench.write_plan(|plan| {
        plan.regions = vec![Region { name: "box".into(), values: vec![1], value: 1 }];
        plan.recipe.optimiser.learning_rate = 0.02;
        plan.configurations.get_mut("3d_fullres").unwrap().network.output_channels = 1;
    });
    for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
        bench.write_case_with(id, i, 1, |case| case.regions = 1, |label| label);
    }
    bench.trained("model", &["--epochs", "4", "--iterations", "40"]);
    let dice = load::<Model>(&bench.path("model/model.toml")).model.validation_dice;
    assert!(dice.len() == 1 && dice[0] > 0.9, "Dice {dice:?}");
}

/// Half of every volume is annotated wrongly; told to ignore it, the network learns what the other half shows.
#[test]
fn ignored_voxels_teach_nothing() {
    let bench = Bench::new();
    bench.write_plan(|plan| {
        plan.ignore = Some(Label { name: "ignore".into(), value: 2 });
        plan.recipe.optimiser.learning_rate = 0.02;
    });
    for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
        bench.write_case_with(
            id,
            i,
            1,
            |case| case.ignore = true,
            |mut label| {
                label.slice_mut(ndarray::s![5.., .., ..]).fill(2);
                label
            },
        );
    }
    bench.trained("model", &["--epochs", "4", "--iterations", "40"]);
    let dice = load::<Model>(&bench.path("model/model.toml")).model.validation_dice;
    assert!(dice[0] > 0.9, "Dice {dice:?}");
}
