//! Both stages of a cascade: what the first hands over, and where the second gets it from.

use crate::world::{World, plan};
use artifact::npy;
use artifact::previous::{OpenPrevious, Previous};
use artifact::{Commit, Record};
use ndarray::{Array3, Ix3, Zip};

const FIRST: &str = "models/3d_lowres";
const SECOND: &str = "models/3d_cascade_fullres/fold_0";

/// Two folds of the first stage, one of the second, both cases preprocessed for both.
fn cascade() -> World {
    let world = World::new();
    for fold in [0, 1] {
        world.model(&format!("{FIRST}/fold_{fold}"), &plan(), "3d_lowres", fold);
    }
    world.model(SECOND, &plan(), "3d_cascade_fullres", 0);
    for (seed, id) in ["a", "b"].into_iter().enumerate() {
        world.case_in("cases/3d_lowres", id, seed, "3d_lowres", &plan());
        world.case_in("cases/3d_fullres", id, seed, "3d_fullres", &plan());
    }
    world
}

fn first_stage(models: &str, out: &str) -> String {
    format!("{models} --cases cases/3d_lowres --next-stage cases/3d_fullres --out {out}")
}

const FOLD_0: &str = "--model models/3d_lowres/fold_0";
const FOLD_1: &str = "--model models/3d_lowres/fold_1";

#[test]
fn the_first_stage_writes_its_classes_on_the_second_ones_grid() {
    let world = cascade();
    world.done(&first_stage(&format!("{FOLD_1} {FOLD_0}"), "out"));
    for id in ["a", "b"] {
        let path = world.path(&format!("out/{id}/previous.toml"));
        let found = OpenPrevious::open(&path).unwrap();
        found.record.verify(&path).unwrap();
        let info = &found.record.body.previous;
        let case = world.path(&format!("cases/3d_fullres/{id}/case.toml"));
        let case = Record::<artifact::case::Case>::load(&case).unwrap().body.case;
        assert_eq!((info.case.as_str(), info.configuration.as_str()), (id, "3d_lowres"));
        assert_eq!((info.grid.as_str(), info.shape), ("3d_fullres", case.shape));
        assert_eq!((info.classes, &info.folds[..]), (3, &[0, 1][..]));
        for class in 0..3 {
            assert!(found.classes().iter().any(|c| *c == class), "class {class} never wins");
        }
    }
    // The prediction itself doesn't depend on the next stage.
    let models = format!("{FOLD_0} {FOLD_1}");
    world.done(&format!("{models} --cases cases/3d_lowres --out plain"));
    assert!(world.bytes("plain/a/prediction.toml") == world.bytes("out/a/prediction.toml"));
    assert!(!world.path("plain/a/previous.toml").exists());
    // Up to date is a case with both records; a missing one is made.
    assert!(!world.done(&first_stage(&models, "out")).contains("network"));
    let before = world.bytes("out/a/previous.npy");
    std::fs::remove_file(world.path("out/a/previous.toml")).unwrap();
    let log = world.done(&first_stage(&models, "out"));
    assert!(log.contains("a: read") && !log.contains("b: read"), "{log}");
    assert!(world.bytes("out/a/previous.npy") == before);
}

#[test]
fn the_first_stage_runs_by_itself_where_its_predictions_are_not_given() {
    let world = cascade();
    let log = world.done(&format!("--model {SECOND} --images images --out own"));
    assert!(log.contains("3 models of 3d_lowres, 3d_cascade_fullres, 2 cases"), "{log}");
    world.done(&first_stage(&format!("{FOLD_0} {FOLD_1}"), "stage_1"));
    world
        .done(&format!("--model {SECOND} --cases cases/3d_fullres --previous stage_1 --out given"));
    for id in ["a", "b"] {
        let [own, given] =
            ["own", "given"].map(|out| world.bytes(&format!("{out}/{id}/segmentation.nii.gz")));
        assert!(own == given, "{id}");
    }
    // Which first stage it is matters, whether it is predicted here or there.
    world.done(&first_stage(FOLD_1, "stage_1_of_fold_1"));
    let previous = "--previous stage_1_of_fold_1";
    world.done(&format!("--model {SECOND} --cases cases/3d_fullres {previous} --out one"));
    world.done(&format!(
        "--model {SECOND} --images images --case a --previous-model {FIRST}/fold_1 --out two"
    ));
    let one = world.bytes("one/a/segmentation.nii.gz");
    assert!(one == world.bytes("two/a/segmentation.nii.gz"));
    assert!(one != world.bytes("own/a/segmentation.nii.gz"), "the second stage ignores the first");
    let log = world.done(&format!("--model {SECOND} --images images --out own"));
    assert!(!log.contains("network"), "{log}");
}

#[test]
fn each_case_is_taken_from_the_folder_that_has_it() {
    let world = cascade();
    for (id, fold) in [("a", FOLD_0), ("b", FOLD_1)] {
        world.done(&format!("{} --case {id}", first_stage(fold, &format!("of_{id}"))));
    }
    let second = format!("--model {SECOND} --cases cases/3d_fullres");
    world.done(&format!("{second} --previous of_a --previous of_b --out out"));
    assert!(world.path("out/a/prediction.toml").is_file());
    assert!(world.path("out/b/prediction.toml").is_file());
    assert_eq!(
        world.fails(&format!("{second} --case b --previous of_a --out none"), 3),
        "nnu-infer: error: b: of_a: has no prediction of 3d_lowres for case b, expected b/previous.toml\n  \
         hint: nnu-infer --next-stage writes it for preprocessed cases; name the folder by --previous"
    );
    world.done(&first_stage(FOLD_0, "of_b"));
    assert_eq!(
        world.fails(&format!("{second} --case a --previous of_a --previous of_b --out none"), 3),
        "nnu-infer: error: a: of_a/a/previous.toml: is there twice, also as of_b/a/previous.toml\n  \
         hint: each case must be in one of the folders of --previous only"
    );
}

#[test]
fn label_maps_of_whole_images_are_brought_to_the_grid() {
    let world = cascade();
    world.done(&first_stage(FOLD_0, "stage_1"));
    let second = format!("--model {SECOND} --cases cases/3d_fullres --case a --probabilities");
    world.done(&format!("{second} --previous stage_1 --out exact"));
    std::fs::remove_file(world.path("stage_1/a/previous.toml")).unwrap();
    world.done(&format!("{second} --previous stage_1 --out map"));
    world.file("plain/a.nii.gz", &world.bytes("stage_1/a/segmentation.nii.gz"));
    world.done(&format!("{second} --previous plain --out plain_map"));
    let read = |out: &str| world.bytes(&format!("{out}/a/segmentation.nii.gz"));
    assert!(read("map") == read("plain_map"));
    // Detours over the image's grid move borders a little; the bulk is the same.
    let [exact, map] = ["exact", "map"].map(|out| {
        let path = world.path(out).join("a/probabilities.npy");
        npy::read_f16::<ndarray::Ix4>(&path).unwrap()
    });
    let (mut far, mut sum) = (0, 0.0);
    Zip::from(&exact).and(&map).for_each(|a, b| {
        far += usize::from((a - b).abs() > 0.25);
        sum += f64::from((a - b).abs());
    });
    assert!(far * 10 < exact.len() && sum > 0.0, "{far} of {}", exact.len());
}

#[test]
fn what_no_first_stage_can_serve_is_refused() {
    let world = cascade();
    assert_eq!(
        world.fails(&format!("--model {SECOND} --cases cases/3d_fullres --out out"), 3),
        "nnu-infer: error: models/3d_cascade_fullres/fold_0: 3d_cascade_fullres reads the prediction of 3d_lowres, \
         which preprocessed cases don't hold\n  hint: give --previous DIR with CASE/previous.toml, which nnu-infer \
         --next-stage writes, or predict from --images"
    );
    world.model("elsewhere/c/fold_0", &plan(), "3d_cascade_fullres", 0);
    assert_eq!(
        world.fails("--model elsewhere/c/fold_0 --images images --out out", 3),
        "nnu-infer: error: elsewhere/3d_lowres: holds no fold_K/model.toml, but 3d_cascade_fullres reads the \
         prediction of 3d_lowres\n  hint: train 3d_lowres, or name its models by --previous-model, or its predictions \
         by --previous"
    );
    assert_eq!(
        world.fails(
            &format!("--model {SECOND} --images images --previous-model fold_0 --out out"),
            3
        ),
        "nnu-infer: error: fold_0/model.toml: model.configuration = \"3d_fullres\", expected \"3d_lowres\", the \
         previous stage of 3d_cascade_fullres\n  hint: name models of 3d_lowres by --previous-model"
    );
    let mut other = plan();
    other.configurations.get_mut("3d_lowres").unwrap().spacing_mm = [4.0; 3];
    world.model("other/fold_0", &other, "3d_lowres", 0);
    assert_eq!(
        world.fails(
            &format!("--model {SECOND} --images images --previous-model other/fold_0 --out out"),
            3
        ),
        "nnu-infer: error: other/fold_0/plan.toml: is another plan than that of the other models: preprocesses cases \
         of 3d_lowres in another way\n  hint: train 3d_lowres with the same plan.toml"
    );
    assert_eq!(
        world.fails("--model fold_0 --images images --previous-model other/fold_0 --out out", 2),
        "nnu-infer: error: --previous: 3d_fullres reads no prediction of another configuration"
    );
    assert!(!world.path("out").exists());
}

#[test]
fn next_stages_that_do_not_fit_are_refused() {
    let world = cascade();
    let hint = "hint: preprocess this case for 3d_fullres with the plan.toml in the model's folder";
    let error = world
        .fails("--model fold_0 --cases cases/3d_fullres --next-stage cases/3d_lowres --out out", 3);
    assert_eq!(
        error,
        "nnu-infer: error: cases/3d_lowres: is no next stage: no planned configuration reads the prediction of \
         3d_fullres\n  hint: leave --next-stage away, or predict with the models of a cascade's first stage"
    );
    let to = |folder: &str| {
        format!("{FOLD_0} --cases cases/3d_lowres --case a --next-stage {folder} --out out")
    };
    assert_eq!(
        world.fails(&to("nowhere"), 3),
        format!(
            "nnu-infer: error: a: nowhere/a/case.toml: cannot read this case record: No such file or directory (os error 2)\n  {hint}"
        )
    );
    assert_eq!(
        world.fails(&to("cases/3d_lowres"), 3),
        format!(
            "nnu-infer: error: a: cases/3d_lowres/a/case.toml: case.configuration = \"3d_lowres\", expected \"3d_fullres\"\n  {hint}"
        )
    );
    let mut other = plan();
    other.configurations.get_mut("3d_fullres").unwrap().spacing_mm = [2.0; 3];
    world.case_in("other", "a", 0, "3d_fullres", &other);
    assert_eq!(
        world.fails(&to("other"), 3),
        format!(
            "nnu-infer: error: a: other/a/case.toml: was preprocessed by another plan than the model's\n  {hint}"
        )
    );
    let text = String::from_utf8(world.bytes("cases/3d_fullres/a/case.toml")).unwrap();
    let moved = text.replace("crop_lower = [\n    2,", "crop_lower = [\n    1,");
    let moved = moved.replace("crop_lower = [2,", "crop_lower = [1,");
    assert_ne!(text, moved);
    world.file("cases/3d_fullres/a/case.toml", moved.as_bytes());
    let error = world.fails(&to("cases/3d_fullres"), 3);
    assert!(
        error.starts_with("nnu-infer: error: a: cases/3d_fullres/a/case.toml: crop box is [1, "),
        "{error}"
    );
}

#[test]
fn predictions_of_another_stage_or_plan_are_refused() {
    let world = cascade();
    world.done(&first_stage(FOLD_0, "stage_1"));
    let path = world.path("stage_1/a/previous.toml");
    let record = Record::<Previous>::load(&path).unwrap();
    let classes: Array3<i16> = npy::read(&path.with_file_name("previous.npy")).unwrap();
    let fails = |provenance: &artifact::Provenance, change: &dyn Fn(&mut Previous)| {
        let mut body = record.body.clone();
        change(&mut body);
        let mut commit = Commit::begin(&world.path("changed/a/previous.toml")).unwrap();
        commit.npy("previous.npy", &classes.view()).unwrap();
        commit.finish(provenance, &body).unwrap();
        let error = world.fails(
            &format!(
                "--model {SECOND} --cases cases/3d_fullres --case a --previous changed --out out"
            ),
            3,
        );
        let mut lines = error.lines();
        let first = lines
            .next()
            .unwrap()
            .strip_prefix("nnu-infer: error: a: changed/a/previous.toml: ")
            .unwrap();
        assert_eq!(
            lines.next(),
            Some(
                "  hint: predict it again: nnu-infer --next-stage with the cases and models of this plan"
            )
        );
        first.to_string()
    };
    let same = record.provenance.clone();
    assert_eq!(
        fails(&same, &|p| p.previous.configuration = "2d".into()),
        "previous.configuration = \"2d\", expected \"3d_lowres\""
    );
    assert_eq!(
        fails(&same, &|p| p.previous.grid = "2d".into()),
        "previous.grid = \"2d\", expected \"3d_fullres\""
    );
    assert_eq!(fails(&same, &|p| p.previous.classes = 4), "previous.classes = 4, expected 3");
    let mut other = same.clone();
    other.inputs.iter_mut().find(|i| i.name == "preprocessing").unwrap().hash = "b3:0".into();
    assert_eq!(fails(&other, &|_| ()), "was predicted by models of another plan");
    let b: Array3<i16> = npy::read::<i16, Ix3>(&world.path("stage_1/b/previous.npy")).unwrap();
    assert_eq!(b.dim(), classes.dim(), "both images have the same margin of zeros");
}
