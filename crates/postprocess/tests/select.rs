//! `select` and `evaluate` over a cross-validation: what wins, what is written, what is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use artifact::image::{Geometry, Turn};
use artifact::selection::Selection;
use artifact::summary::Summary;
use artifact::{Commit, Record, hash_file, inspect};
use std::path::Path;
use world::{
    configuration, fails, model, plan, probabilities, run, succeeds, world, write_prediction,
    write_splits,
};

const SELECT: &str = "select --plan plan.toml --labels labels --splits splits.toml --models models --out out/selection.toml";
const FULL: &str =
    "--candidate 3d_fullres=predictions/3d_fullres/fold_0,predictions/3d_fullres/fold_1";
const FLAT: &str = "--candidate 2d=predictions/2d/fold_0,predictions/2d/fold_1";

fn both() -> String {
    format!("{SELECT} {FULL} {FLAT}")
}

/// 2d loses a row of class 1, six voxels, to class 2; 3d_fullres two rows of class 2 to the background.
fn compared() -> tempfile::TempDir {
    let folder = world();
    configuration(folder.path(), "3d_fullres", 2, 2);
    configuration(folder.path(), "2d", 1, 1);
    folder
}

fn selected(folder: &Path) -> Selection {
    let record = folder.join("out/selection.toml");
    assert!(inspect::verify(&record).is_empty());
    Record::<Selection>::load(&record).unwrap().body
}

#[test]
fn the_pair_wins_where_its_members_err_in_different_places() {
    let data = compared();
    let table = succeeds(&both(), data.path());
    let expected = "\
configurations   mean Dice  sphere    cube
3d_fullres          0.7398  0.9796  0.5000
2d                  0.8472  0.8372  0.8571
3d_fullres + 2d     0.9898  0.9796  1.0000  selected
postprocessed       1.0000
";
    assert_eq!(table, expected);
    let selection = selected(data.path());
    assert_eq!(selection.selection.configurations, ["3d_fullres", "2d"]);
    // 24 voxels and a stray one; 6 of 18 left; 18 and a stray one of 24, the other 6 in class 2.
    let dice: Vec<&[f64]> = selection.candidates.iter().map(|c| &c.dice[..]).collect();
    assert_eq!(dice, [[48.0 / 49.0, 0.5], [36.0 / 43.0, 36.0 / 42.0], [48.0 / 49.0, 1.0]]);
    assert!(selection.candidates.iter().all(|c| c.cases == 4));
    assert_eq!(selection.selection.mean_dice_postprocessed, 1.0);
    let rules = &selection.postprocessing;
    // The two cubes touch, so that the foreground is one component but for the stray voxel.
    assert!(rules.foreground.as_ref().unwrap().keep_largest_component);
    let models: Vec<(&str, usize, &str)> = selection
        .models
        .iter()
        .map(|m| (m.configuration.as_str(), m.fold, m.folder.as_str()))
        .collect();
    assert_eq!(
        models,
        [
            ("3d_fullres", 0, "../models/3d_fullres/fold_0"),
            ("3d_fullres", 1, "../models/3d_fullres/fold_1"),
            ("2d", 0, "../models/2d/fold_0"),
            ("2d", 1, "../models/2d/fold_1"),
        ]
    );
    let hash = hash_file(&data.path().join("models/2d/fold_1/model.toml")).unwrap();
    assert_eq!(selection.models[3].hash, hash);
    // Again: nothing is done, the table still printed, with any number of threads.
    let bytes = std::fs::read(data.path().join("out/selection.toml")).unwrap();
    let again = run(&both().split(' ').collect::<Vec<_>>(), data.path());
    assert!(String::from_utf8_lossy(&again.stderr).contains("is up to date"));
    assert_eq!(String::from_utf8(again.stdout).unwrap(), expected);
    for threads in [1, 3] {
        succeeds(&format!("{} --force --threads {threads}", both()), data.path());
        assert!(std::fs::read(data.path().join("out/selection.toml")).unwrap() == bytes);
    }
}

#[test]
fn labels_in_another_voxel_order_select_the_same() {
    let data = compared();
    let expected = succeeds(&both(), data.path());
    let plan = plan("v2", "").replacen("[dataset]", "[dataset]\nreader = \"simple_itk_ras\"", 1);
    Commit::file(&data.path().join("plan.toml"), plan.as_bytes()).unwrap();
    for case in ["a", "b", "c", "d"] {
        let path = data.path().join(format!("labels/{case}.nii.gz"));
        let stored = artifact::image::read(&path).unwrap();
        let turned = stored.turned(Turn { axes: [1, 2, 0], flip: [true, false, true] });
        let g = &turned.geometry;
        let geometry = Geometry::placed(g.shape, g.spacing_mm, g.origin_mm, g.direction);
        let map = turned.channels.index_axis(ndarray::Axis(0), 0).mapv(|v| v as i16);
        let bytes = artifact::nifti::encode_labels(map.view(), &geometry, true).unwrap();
        Commit::file(&path, &bytes).unwrap();
    }
    let output = run(&both().split(' ').collect::<Vec<_>>(), data.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("warning"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn moved_models_are_named_anew() {
    let data = compared();
    succeeds(&both(), data.path());
    #[expect(clippy::disallowed_methods, reason = "the test moves a folder")]
    std::fs::rename(data.path().join("models"), data.path().join("out/models")).unwrap();
    succeeds(&both().replace("--models models", "--models out/models"), data.path());
    assert_eq!(selected(data.path()).models[0].folder, "models/3d_fullres/fold_0");
}

#[test]
fn without_pairs_the_best_single_configuration_wins_and_needs_no_probabilities() {
    let data = compared();
    for fold in ["3d_fullres/fold_0/a", "2d/fold_1/d"] {
        let folder = data.path().join("predictions").join(fold);
        let map = folder.join("segmentation.nii.gz");
        std::fs::copy(map, folder.with_extension("nii.gz")).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
    let table = succeeds(&format!("{} --no-ensembles", both()), data.path());
    assert!(table.contains("0.8472  0.8372  0.8571  selected\n"), "{table}");
    assert!(!table.contains(" + "), "{table}");
    let selection = selected(data.path());
    assert_eq!(selection.models.len(), 2);
    let expected = "case a: predictions/3d_fullres/fold_0/a.nii.gz: no probabilities, expected a/prediction.toml with probabilities.npy\n  hint: predict with probabilities: nnu-infer --probabilities; or compare without pairs: --no-ensembles";
    let (code, text) = fails(&both(), data.path());
    assert_eq!((code, text.contains(expected)), (3, true), "{text}");
}

#[test]
fn equal_configurations_leave_it_to_the_first_and_a_cascade_brings_its_first_stage() {
    let data = world();
    configuration(data.path(), "3d_cascade_fullres", 1, 1);
    configuration(data.path(), "2d", 1, 1);
    let cascade = "--candidate 3d_cascade_fullres=predictions/3d_cascade_fullres/fold_0,predictions/3d_cascade_fullres/fold_1";
    let line = format!("{SELECT} {cascade} {FLAT}");
    let expected = "models/3d_lowres/fold_0/model.toml: cannot read this model record: No such file or directory (os error 2)\n  hint: train this fold: nnu-train --configuration 3d_lowres --fold 0";
    assert_eq!(fails(&line, data.path()), (3, expected.into()));
    for fold in 0..2 {
        model(data.path(), "3d_lowres", fold);
    }
    succeeds(&line, data.path());
    let selection = selected(data.path());
    assert_eq!(selection.selection.configurations, ["3d_cascade_fullres"]);
    let models: Vec<String> =
        selection.models.iter().map(|m| format!("{} {}", m.configuration, m.fold)).collect();
    let expected = ["3d_lowres 0", "3d_lowres 1", "3d_cascade_fullres 0", "3d_cascade_fullres 1"];
    assert_eq!(models, expected);
}

#[test]
fn the_papers_rule_and_labels_that_were_not_predicted() {
    let data = compared();
    Commit::file(&data.path().join("plan.toml"), plan("paper", "").as_bytes()).unwrap();
    for (name, weak, errors) in [("3d_fullres", 2, 2), ("2d", 1, 1)] {
        configuration(data.path(), name, weak, errors);
    }
    // A training case of fold 0 and 1 whose class 2 is in two pieces: the paper's rule lets it be.
    let mut pieces = world::truth();
    pieces[[0, 11, 0]] = 2;
    world::save(&data.path().join("labels/e.nii.gz"), &pieces);
    succeeds(&both(), data.path());
    let rules = selected(data.path()).postprocessing;
    assert!(rules.foreground.is_none());
    assert_eq!(
        rules.classes.iter().map(|c| c.keep_largest_component).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(rules.classes[1].most_components_in_training, 2);
}

#[test]
fn what_does_not_belong_together_is_refused_in_one_line() {
    let data = compared();
    let at = |path: &str| data.path().join(path);
    let check = |line: &str, code: i32, expected: &str| {
        let (found, text) = fails(line, data.path());
        assert_eq!((found, text.lines().next().unwrap()), (code, expected));
        assert!(text.lines().count() <= 2 && !at("out/selection.toml").exists(), "{text}");
    };
    check(
        &format!("{} --candidate 3d=predictions/2d/fold_0", both()),
        3,
        "plan.toml: configuration \"3d\" is not planned, expected one of: 2d, 3d_cascade_fullres, 3d_fullres, 3d_lowres",
    );
    check(
        &format!("{} --candidate 2d=predictions/2d/fold_0", both()),
        2,
        "--candidate 2d is given twice, expected all its folders behind one, separated by commas",
    );
    check(
        &format!("{SELECT} {FULL} --candidate 2d=predictions/2d/fold_0"),
        3,
        "predictions/2d/fold_0: no prediction of c by 2d, which 3d_fullres has",
    );
    check(
        &format!("{SELECT} --candidate 2d=predictions/2d/fold_0,predictions/3d_fullres/fold_0"),
        3,
        "predictions/3d_fullres/fold_0: case a is in an earlier --predictions folder too",
    );
    write_splits(&at("other.toml"), &[["a", "b"], ["c", "x"]]);
    let other = both().replace("splits.toml", "other.toml");
    let line =
        "predictions/3d_fullres/fold_0: case d is a validation case of no fold of other.toml";
    check(&other, 3, line);
    write_splits(&at("other.toml"), &[["a", "c"], ["b", "d"]]);
    check(
        &other,
        3,
        "predictions/3d_fullres/fold_0: case b of fold 1 and case a of fold 0 were predicted with the same weights",
    );
    check(
        &both().replace("--labels labels", "--labels predictions"),
        3,
        "predictions: holds no label maps",
    );
    let weights = hash_file(&at("models/2d/fold_0/weights.npz")).unwrap();
    write_prediction(&at("predictions/3d_fullres/fold_0"), "a", &probabilities(1, 1), &weights);
    check(
        &both(),
        3,
        "predictions/3d_fullres/fold_0: case a of fold 0 was not predicted with the weights of models/3d_fullres/fold_0 alone",
    );
    let usage = run(&["select", "--candidate", "2d"], data.path());
    assert_eq!(usage.status.code(), Some(2));
}

#[cfg(unix)]
#[test]
#[expect(clippy::disallowed_methods, reason = "a person moves a folder")]
fn candidates_may_lie_in_folders_of_any_name() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;
    let data = compared();
    succeeds(&both(), data.path());
    let before = selected(data.path());
    std::fs::remove_file(data.path().join("out/selection.toml")).unwrap();
    let named = |bytes: &[u8]| data.path().join(OsStr::from_bytes(bytes));
    let odd = named(b"pred\xffictions");
    std::fs::rename(named(b"predictions"), &odd).unwrap();
    let command = |more: &str| {
        let lines = format!("{SELECT} {FULL} {FLAT}{more}");
        let arguments = lines.split_whitespace().map(|argument| {
            let mut parts = argument.split("predictions");
            let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
            for part in parts {
                bytes.extend(b"pred\xffictions");
                bytes.extend(part.as_bytes());
            }
            OsStr::from_bytes(&bytes).to_owned()
        });
        let arguments: Vec<OsString> = arguments.collect();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nnu-postprocess"));
        command.current_dir(data.path()).args(arguments).output().unwrap()
    };
    let output = command("");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(selected(data.path()), before);
    for wrong in ["2d=predictions,", "2d=", "=predictions", "predictions", "2d=,predictions"] {
        let output = command(&format!(" --candidate {wrong}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && said.contains("CONFIGURATION=DIR,DIR"),
            "{said}"
        );
    }
    // What has such a name itself isn't left out.
    let map = odd.join("2d/fold_0/a/segmentation.nii.gz");
    std::fs::copy(map, odd.join("2d/fold_0").join(OsStr::from_bytes(b"c\xff.nii.gz"))).unwrap();
    let output = command(" --force");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("/2d/fold_0/c\u{fffd}.nii.gz: has a name that is not UTF-8"), "{said}");
}

#[test]
fn models_of_other_folds_or_plans_are_refused() {
    let data = compared();
    let at = |path: &str| data.path().join(path);
    let text = std::fs::read_to_string(at("models/2d/fold_1/model.toml")).unwrap();
    let check = |changed: String, expected: &str| {
        Commit::file(&at("models/2d/fold_1/model.toml"), changed.as_bytes()).unwrap();
        let (code, found) = fails(&both(), data.path());
        assert_eq!((code, found.lines().next().unwrap()), (3, expected));
    };
    check(
        text.replace("fold = 1", "fold = 0"),
        "models/2d/fold_1/model.toml: is fold 0 of 2d, expected fold 1 of 2d",
    );
    check(
        text.replace("\"d\"", "\"b\""),
        "models/2d/fold_1/model.toml: model.validation isn't that of fold 1 of splits.toml",
    );
    let other = plan("v2", "").replace("batch_size = 2", "batch_size = 3");
    Commit::file(&at("models/2d/fold_1/plan.toml"), other.as_bytes()).unwrap();
    check(text, "models/2d/fold_1/plan.toml: configuration 2d isn't that of plan.toml");
}

#[test]
fn evaluate_merges_the_folds_and_holds_them_against_the_splits() {
    let data = compared();
    let folders = "--predictions predictions/2d/fold_0 --predictions predictions/2d/fold_1";
    let line = |more: &str| format!("evaluate {folders} --labels labels {more} --out s.toml");
    let table = succeeds(&line("--splits splits.toml"), data.path());
    assert!(table.contains("sphere                 4/4  0.8372"), "{table}");
    let summary = Record::<Summary>::load(&data.path().join("s.toml")).unwrap().body;
    let cases: Vec<&str> = summary.cases.iter().map(|c| c.case.as_str()).collect();
    assert_eq!(cases, ["a", "b", "c", "d"]);
    let one = "evaluate --predictions predictions/2d/fold_1 --labels labels --splits splits.toml --out s.toml";
    assert!(succeeds(one, data.path()).contains("2/2"));
    assert!(succeeds(&line("--splits splits.toml --fold 0"), data.path()).contains("2/2"));
    std::fs::remove_dir_all(data.path().join("predictions/2d/fold_1/d")).unwrap();
    let expected = "predictions/2d/fold_0: no prediction of d, a validation case of fold 1\n  hint: predict it first: nnu-infer --cases DIR --validation";
    assert_eq!(fails(&line("--splits splits.toml"), data.path()), (3, expected.into()));
    // Without splits nothing is asked.
    assert!(succeeds(&line(""), data.path()).contains("3/3"));
    let (code, text) =
        fails(&line("--splits splits.toml --predictions predictions/2d/fold_0"), data.path());
    assert_eq!(code, 3);
    assert!(
        text.starts_with("predictions/2d/fold_0: case a is in an earlier --predictions folder too"),
        "{text}"
    );
}
