//! The real binary: happy paths, exit codes, exact messages.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use artifact::image::{Turn, Volume};
use artifact::nifti::{Geometry, encode_image, encode_labels, read};
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Prediction;
use artifact::splits::{Fold, Splits};
use artifact::summary::Summary;
use artifact::{Commit, Provenance, Record, inspect};
use ndarray::{Array3, Array4, s};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nnu-postprocess"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The exit code and the lines of the error, without the log.
fn fails(arguments: &[&str], folder: &Path) -> (i32, String) {
    let output = run(arguments, folder);
    let text = stderr(&output);
    let at = text.find("nnu-postprocess: error: ").unwrap_or_else(|| panic!("no error: {text}"));
    (output.status.code().unwrap(), text[at..].to_string())
}

fn save(path: PathBuf, map: &Array3<i16>) {
    let (z, y, x) = map.dim();
    let geometry = Geometry::plain([z, y, x], [3.0, 1.0, 1.0]);
    Commit::file(&path, &encode_labels(map.view(), &geometry, true).unwrap()).unwrap();
}

/// A cube of class 1 and one of class 2; `stray` adds a voxel of class 1 far away.
fn map(stray: bool) -> Array3<i16> {
    let mut map = Array3::zeros((4, 12, 10));
    map.slice_mut(s![1..3, 2..6, 2..5]).fill(1);
    map.slice_mut(s![1..3, 6..9, 2..5]).fill(2);
    if stray {
        map[[0, 11, 9]] = 1;
    }
    map
}

/// `labels/`, `predictions/` and `images/` of two cases; prediction `b` has a stray voxel.
fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for (case, stray) in [("a", false), ("b", true)] {
        save(at(&format!("labels/{case}.nii.gz")), &map(false));
        save(at(&format!("predictions/{case}.nii.gz")), &map(stray));
        let image = Array4::from_shape_fn((1, 4, 12, 10), |(_, z, y, x)| (z + y + x) as f32);
        let geometry = Geometry::plain([4, 12, 10], [3.0, 1.0, 1.0]);
        let bytes = encode_image(image.view(), &geometry, true).unwrap();
        Commit::file(&at(&format!("images/{case}_0000.nii.gz")), &bytes).unwrap();
    }
    save(at("labels/unpredicted.nii.gz"), &map(false));
    Commit::file(&at("plan.toml"), world::plan("paper", "").as_bytes()).unwrap();
    folder
}

const EVALUATE: [&str; 7] =
    ["evaluate", "--predictions", "predictions", "--labels", "labels", "--out", "out/summary.toml"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    EVALUATE.iter().chain(more).copied().collect()
}

#[test]
fn evaluate_prints_the_table_and_writes_summary_csv_and_pictures() {
    let data = data();
    let flags = with(&["--plan", "plan.toml", "--images", "images", "--overlays", "pictures"]);
    let output = run(&flags, data.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    // Case b: 24 voxels right, one too many: 48 / 49.
    let expected = "\
class                cases    Dice     min  median     max     IoU
sphere                 2/2  0.9898  0.9796  0.9898  1.0000  0.9800
cube                   2/2  1.0000  1.0000  1.0000  1.0000  1.0000
foreground mean             0.9949                          0.9900
";
    assert_eq!(table, expected);
    let log = "nnu-postprocess: 1 of the labels in labels have no prediction and are left out\n";
    assert!(String::from_utf8_lossy(&output.stderr).starts_with(log));
    let record = data.path().join("out/summary.toml");
    assert!(inspect::verify(&record).is_empty());
    let summary = Record::<Summary>::load(&record).unwrap().body;
    assert_eq!(summary.cases[1].classes[0].predicted_ml, 25.0 * 0.003);
    let csv = std::fs::read_to_string(data.path().join("out/summary.csv")).unwrap();
    assert_eq!(csv.lines().nth(2), Some("a,cube,1,1,18,0,0,462,0.054,0.054"));
    for case in ["a", "b"] {
        let picture = std::fs::read(data.path().join(format!("pictures/{case}.png"))).unwrap();
        assert!(picture.starts_with(b"\x89PNG"));
    }
    // Again: nothing is done, the table still printed, with any number of threads.
    let before = std::fs::read(&record).unwrap();
    let again = run(&[&flags[..], &["--threads", "1"]].concat(), data.path());
    assert!(stderr(&again).contains("out/summary.toml is up to date"));
    assert_eq!(String::from_utf8(again.stdout).unwrap(), expected);
    let forced = run(&[&flags[..], &["--threads", "3", "--force"]].concat(), data.path());
    assert!(forced.status.success() && !stderr(&forced).contains("up to date"));
    assert_eq!(std::fs::read(&record).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_fails_alone() {
    use std::os::unix::ffi::OsStrExt;
    let data = data();
    let odd = |folder: &str| {
        let name = std::ffi::OsStr::from_bytes(b"c\xff.nii.gz");
        let path = data.path().join(folder).join(name);
        save(path.clone(), &map(false));
        path
    };
    let named = "/c\u{fffd}.nii.gz: has a name that is not UTF-8, expected one that can stand in a record\n  hint: rename the file\n";
    // A label map without prediction, as others.
    let label = odd("labels");
    assert!(run(&with(&["--plan", "plan.toml"]), data.path()).status.success());
    let fit = ["fit", "--labels", "labels", "--plan", "plan.toml", "--out", "rules.toml"];
    let (code, text) = fails(&fit, data.path());
    assert_eq!((code, text), (3, format!("nnu-postprocess: error: labels{named}")));
    std::fs::remove_file(label).unwrap();
    assert!(run(&fit, data.path()).status.success());

    let prediction = odd("predictions");
    let expected = (3, format!("nnu-postprocess: error: predictions{named}"));
    // Up to date without it; the pictures of the others are drawn.
    let pictures = with(&["--plan", "plan.toml", "--images", "images", "--overlays", "pictures"]);
    assert_eq!(fails(&pictures, data.path()), expected);
    for case in ["a", "b"] {
        assert!(data.path().join(format!("pictures/{case}.png")).is_file());
    }
    let both = [&fit[..], &["--predictions", "predictions"]].concat();
    assert_eq!(fails(&both, data.path()), expected);
    let apply = [
        "apply",
        "--predictions",
        "predictions",
        "--postprocessing",
        "rules.toml",
        "--out",
        "applied",
    ];
    assert_eq!(fails(&apply, data.path()), expected);
    for case in ["a", "b"] {
        assert!(data.path().join(format!("applied/{case}/prediction.toml")).is_file());
    }
    std::fs::remove_file(prediction).unwrap();
    assert!(run(&apply, data.path()).status.success());
}

#[test]
fn with_a_fold_exactly_its_validation_cases_are_scored() {
    let data = data();
    let split = |train: &[&str], validation: &[&str]| {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_string()).collect();
        Fold { train: ids(train), validation: ids(validation) }
    };
    let folds = vec![split(&["a"], &["b"]), split(&["a"], &["b", "unpredicted"])];
    let commit = Commit::begin(&data.path().join("splits.toml")).unwrap();
    commit.finish(&Provenance::default(), &Splits { folds }).unwrap();

    let flags = with(&["--splits", "splits.toml", "--fold", "0", "-q"]);
    assert!(run(&flags, data.path()).status.success());
    let summary = Record::<Summary>::load(&data.path().join("out/summary.toml")).unwrap().body;
    assert_eq!(summary.cases.iter().map(|c| c.case.as_str()).collect::<Vec<_>>(), ["b"]);

    let line = "nnu-postprocess: error: predictions: no prediction of unpredicted, a validation case of fold 1\n";
    let (code, text) = fails(&with(&["--splits", "splits.toml", "--fold", "1"]), data.path());
    assert!(code == 3 && text.starts_with(line), "{code} {text}");
    let line = "nnu-postprocess: error: --fold 2, but splits.toml has folds 0 to 1\n";
    let (code, text) = fails(&with(&["--splits", "splits.toml", "--fold", "2"]), data.path());
    assert_eq!((code, text.as_str()), (2, line));
}

#[test]
fn labels_are_named_by_value_where_nothing_names_them() {
    let data = data();
    assert!(run(&with(&["--quiet"]), data.path()).status.success());
    let record = Record::<Summary>::load(&data.path().join("out/summary.toml")).unwrap();
    let names: Vec<&str> = record.body.labels.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["background", "1", "2"]);
}

#[test]
fn bad_input_ends_with_one_line_and_its_exit_code() {
    let data = data();
    let at = |path: &str| data.path().join(path);
    let error = |line: &str| (3, format!("nnu-postprocess: error: {line}\n"));
    save(at("predictions/c.nii.gz"), &map(false));
    assert_eq!(
        fails(&EVALUATE, data.path()),
        error(
            "labels: no label for the prediction of case c\n  hint: expected c.nii.gz or c.nii in this folder"
        )
    );
    save(at("labels/c.nii.gz"), &map(false).slice(s![..3, .., ..]).to_owned());
    assert_eq!(
        fails(&EVALUATE, data.path()),
        error(
            "predictions/c.nii.gz: shape [4, 12, 10], expected [3, 12, 10] (z, y, x) as in labels/c.nii.gz"
        )
    );
    save(at("labels/c.nii.gz"), &map(false).mapv(|v| 3 * v));
    let planned = with(&["--plan", "plan.toml"]);
    assert_eq!(
        fails(&planned, data.path()),
        error("labels/c.nii.gz: contains the value 3, expected one of [0, 1, 2]")
    );
    let cut = std::fs::read(at("labels/a.nii.gz")).unwrap();
    Commit::file(&at("labels/c.nii.gz"), &cut[..cut.len() / 2]).unwrap();
    let (code, text) = fails(&EVALUATE, data.path());
    assert_eq!(code, 3);
    assert!(text.starts_with("nnu-postprocess: error: labels/c.nii.gz: "), "{text}");
    // Two broken cases: both named, then counted.
    Commit::file(&at("labels/a.nii.gz"), &cut[..cut.len() / 2]).unwrap();
    let (code, text) = fails(&EVALUATE, data.path());
    assert_eq!((code, text.matches("nnu-postprocess: error: ").count()), (3, 3));
    assert!(text.ends_with("nnu-postprocess: error: 2 of 3 cases failed\n"), "{text}");
    assert!(!at("out/summary.toml").exists());
    assert_eq!(fails(&with(&["--plan", "none.toml"]), data.path()).0, 3);
    let usage = run(&with(&["--overlays", "pictures"]), data.path());
    assert_eq!(usage.status.code(), Some(2));
    assert_eq!(run(&with(&["--frobnicate"]), data.path()).status.code(), Some(2));
}

#[test]
fn fit_then_apply_removes_the_stray_voxel_and_keeps_the_geometry() {
    let data = data();
    let at = |path: &str| data.path().join(path);
    let fit = [
        "fit",
        "--labels",
        "labels",
        "--predictions",
        "predictions",
        "--plan",
        "plan.toml",
        "--out",
        "p.toml",
    ];
    let output = run(&fit, data.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let line = "nnu-postprocess: sphere: largest component only (up to 1 components in a training label, Dice 0.9898 becomes 1.0000)\n";
    assert!(stderr(&output).contains(line), "{}", stderr(&output));
    let rules = Record::<Postprocessing>::load(&at("p.toml")).unwrap().body;
    assert!(rules.classes.iter().all(|c| c.keep_largest_component));
    let apply =
        ["apply", "--predictions", "predictions", "--postprocessing", "p.toml", "--out", "clean"];
    let output = run(&apply, data.path());
    assert!(
        stderr(&output).contains("sphere: 1 voxels removed from 1 of 2 cases"),
        "{}",
        stderr(&output)
    );
    for case in ["a", "b"] {
        let record = at(&format!("clean/{case}/prediction.toml"));
        assert_eq!(inspect::verify(&record).len(), 0);
        assert_eq!(
            Record::<Prediction>::load(&record).unwrap().body.prediction.class_voxels,
            [438, 24, 18]
        );
        let source = read(&at(&format!("predictions/{case}.nii.gz"))).unwrap();
        let clean = read(&at(&format!("clean/{case}/segmentation.nii.gz"))).unwrap();
        assert_eq!(clean.geometry, source.geometry);
    }
    let again = run(&apply, data.path());
    assert_eq!(stderr(&again).matches("is up to date").count(), 2);
    // Records name the labels, so that no plan is needed.
    let evaluate = ["evaluate", "--predictions", "clean", "--labels", "labels", "--out", "s.toml"];
    let table = String::from_utf8(run(&evaluate, data.path()).stdout).unwrap();
    assert!(table.contains("sphere                 2/2  1.0000"), "{table}");
    let same = ["apply", "--predictions", "clean", "--postprocessing", "p.toml", "--out", "clean"];
    assert_eq!(
        fails(&same, data.path()),
        (
            2,
            "nnu-postprocess: error: --out clean: is --predictions clean, which is read; expected another path\n"
                .into()
        )
    );
}

/// A batch's own output isn't one of its inputs, wherever the folder that `--out` names lies.
#[test]
fn a_prediction_that_is_read_is_never_replaced() {
    let data = data();
    let at = |path: &str| data.path().join(path);
    let fit = "fit --labels labels --predictions predictions --plan plan.toml --out p.toml";
    assert!(run(&fit.split(' ').collect::<Vec<_>>(), data.path()).status.success());
    save(at("o/segmentation/segmentation.nii.gz"), &map(true));
    std::fs::create_dir_all(at("linked/a")).unwrap();
    std::os::unix::fs::symlink(at("predictions/b.nii.gz"), at("linked/a/segmentation.nii.gz"))
        .unwrap();
    std::fs::create_dir(at("pictures")).unwrap();
    std::fs::hard_link(at("labels/a.nii.gz"), at("pictures/b.png")).unwrap();
    for (line, lost) in [
        (
            "apply --predictions o/segmentation --postprocessing p.toml --out o",
            "o/segmentation/segmentation.nii.gz",
        ),
        (
            "apply --predictions predictions --postprocessing p.toml --out linked",
            "predictions/b.nii.gz",
        ),
        (
            "evaluate --predictions predictions --labels labels --images images --overlays pictures --out s.toml",
            "labels/a.nii.gz",
        ),
    ] {
        let before = std::fs::read(at(lost)).unwrap();
        let (code, text) = fails(&line.split(' ').collect::<Vec<_>>(), data.path());
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(&format!("{lost}: would be written for --")), "{text}");
        assert!(std::fs::read(at(lost)).unwrap() == before, "{line}");
    }
    assert!(at("linked/a/segmentation.nii.gz").is_symlink());
}

#[test]
fn a_table_or_picture_replaces_one_of_its_own_only() {
    let data = data();
    let at = |path: &str| data.path().join(path);
    let line = with(&["--images", "images", "--overlays", "pictures"]);
    for (other, what) in [
        ("out/summary.csv", "is no table of these scores"),
        ("pictures/b.png", "is no PNG picture"),
    ] {
        Commit::file(&at(other), b"id,age").unwrap();
        let (code, text) = fails(&line, data.path());
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(&format!("{other}: {what}")), "{text}");
        assert_eq!(std::fs::read(at(other)).unwrap(), b"id,age");
        std::fs::remove_file(at(other)).unwrap();
    }
    assert!(run(&line, data.path()).status.success());
    let table = std::fs::read(at("out/summary.csv")).unwrap();
    // Damaged, and left behind by a call that ended before it wrote the record.
    Commit::file(&at("out/summary.csv"), b"id,age").unwrap();
    assert!(run(&line, data.path()).status.success());
    std::fs::remove_file(at("out/summary.toml")).unwrap();
    assert!(run(&line, data.path()).status.success());
    assert_eq!(std::fs::read(at("out/summary.csv")).unwrap(), table);
}

#[test]
fn fit_refuses_a_case_predicted_twice() {
    let data = data();
    let fit = [
        "fit",
        "--labels",
        "labels",
        "--predictions",
        "predictions",
        "--predictions",
        "predictions",
        "--plan",
        "plan.toml",
        "--out",
        "p.toml",
    ];
    let expected = "nnu-postprocess: error: predictions: case a is in an earlier --predictions folder too\n  hint: each case is predicted once, by the fold that did not train on it; remove what an earlier split left in these folders\n";
    assert_eq!(fails(&fit, data.path()), (3, expected.into()));
}

/// The body is two labels and ignored voxels; what is scored are the body and its core.
const REGIONS: &str = "
ignore = { name = \"ignore\", value = 9 }
regions = [
    { name = \"body\", values = [1, 2], value = 1 },
    { name = \"core\", values = [2], value = 2 },
]";

#[test]
fn regions_are_scored_decided_and_postprocessed_and_ignored_voxels_are_left_out() {
    let data = data();
    let at = |path: &str| data.path().join(path);
    Commit::file(&at("plan.toml"), world::plan("v2", REGIONS).as_bytes()).unwrap();
    // A row of the label's core is nobody's.
    let mut label = map(false);
    label.slice_mut(s![1..3, 8, 2..5]).fill(9);
    save(at("labels/a.nii.gz"), &label);
    let output = run(&with(&["--plan", "plan.toml"]), data.path());
    let table = String::from_utf8(output.stdout).unwrap();
    // b: 42 voxels and a stray one: 84 / 85.
    assert!(table.contains("\nbody                   2/2  0.9941  0.9882"), "{table}");
    assert!(table.contains("\ncore                   2/2  1.0000"), "{table}");
    let record = at("out/summary.toml");
    assert!(inspect::verify(&record).is_empty());
    let summary = Record::<Summary>::load(&record).unwrap().body;
    let scores = &summary.cases[0].classes;
    assert_eq!((scores[0].true_positives, scores[1].true_positives), (36, 12));
    assert_eq!(scores[1].true_negatives, 480 - 6 - 12);
    assert_eq!(summary.ignore.unwrap().value, 9);
    // Without the plan nobody knows what 9 means.
    assert!(run(&EVALUATE, data.path()).status.success());
    let fit = "fit --labels labels --predictions predictions --plan plan.toml --out p.toml";
    let output = run(&fit.split(' ').collect::<Vec<_>>(), data.path());
    let log = stderr(&output);
    assert!(
        log.contains("all foreground: largest component only, Dice 0.9971 becomes 1.0000"),
        "{log}"
    );
    assert!(
        log.contains(
            "body: as it is (up to 1 components in a training label, Dice 1.0000 becomes 1.0000)"
        ),
        "{log}"
    );
    assert!(inspect::verify(&at("p.toml")).is_empty());
    let apply = "apply --predictions predictions --postprocessing p.toml --out clean";
    let output = run(&apply.split(' ').collect::<Vec<_>>(), data.path());
    assert!(
        stderr(&output).contains("all foreground: 1 voxels removed from 1 of 2 cases"),
        "{}",
        stderr(&output)
    );
    let clean = Record::<Prediction>::load(&at("clean/b/prediction.toml")).unwrap().body;
    assert_eq!((clean.prediction.class_voxels, clean.regions.len()), (vec![438, 24, 18], 2));
    // The records know the regions now; a plan without them is another one.
    Commit::file(&at("plan.toml"), world::plan("v2", "").as_bytes()).unwrap();
    let flags = [
        "evaluate",
        "--predictions",
        "clean",
        "--labels",
        "labels",
        "--plan",
        "plan.toml",
        "--out",
        "s.toml",
    ];
    let expected = "nnu-postprocess: error: clean: regions are body = [1, 2] → 1, core = [2] → 2, but plan.toml says none\n";
    assert_eq!(fails(&flags, data.path()), (3, expected.into()));
}

#[test]
fn v2s_rule_asks_for_predictions() {
    let data = data();
    Commit::file(&data.path().join("plan.toml"), world::plan("v2", "").as_bytes()).unwrap();
    let fit = ["fit", "--labels", "labels", "--plan", "plan.toml", "--out", "p.toml"];
    let expected = "nnu-postprocess: error: plan.toml: recipe.postprocessing.rule = \"cross_validated_dice\", which needs --predictions\n  hint: give the folders that nnu-infer --validation wrote, one --predictions per fold\n";
    assert_eq!(fails(&fit, data.path()), (3, expected.into()));
}

/// A label map in another voxel order, with a header that says where it lies; `change` moves it.
fn save_turned(path: PathBuf, map: &Array3<i16>, turn: Turn, change: impl FnOnce(&mut Geometry)) {
    let channels = map.mapv(f32::from).insert_axis(ndarray::Axis(0));
    let mut volume = Volume { geometry: Geometry::plain([4, 12, 10], [3.0, 1.0, 1.0]), channels };
    change(&mut volume.geometry);
    let Volume { geometry: g, channels } = volume.turned(turn);
    let geometry = Geometry::placed(g.shape, g.spacing_mm, g.origin_mm, g.direction);
    let labels = channels.index_axis(ndarray::Axis(0), 0).mapv(|v| v as i16);
    Commit::file(&path, &encode_labels(labels.view(), &geometry, true).unwrap()).unwrap();
}

/// The plan of [`data`] with a reader that turns images to RAS.
fn turning_plan(folder: &Path) {
    let plan =
        world::plan("paper", "").replacen("[dataset]", "[dataset]\nreader = \"nibabel_ras\"", 1);
    Commit::file(&folder.join("plan.toml"), plan.as_bytes()).unwrap();
}

#[test]
fn maps_that_lie_elsewhere_are_named() {
    let data = data();
    let at = |path: &str| data.path().join(path);
    let flipped = |g: &mut Geometry| (g.direction[0][0], g.origin_mm[0]) = (-1.0, 9.0);
    save_turned(at("predictions/a.nii.gz"), &map(false), Turn::NONE, flipped);
    save_turned(at("predictions/b.nii.gz"), &map(true), Turn::NONE, |g| g.origin_mm[1] = 2.5);
    let a = "warning: predictions/a.nii.gz is turned against labels/a.nii.gz: corners lie up to 9.000 mm";
    let b = "warning: predictions/b.nii.gz lies elsewhere than labels/b.nii.gz: corners lie up to 2.500 mm";
    let fit = "fit --labels labels --predictions predictions --plan plan.toml --out rules.toml";
    let overlays = with(&["--images", "images", "--overlays", "pictures"]);
    for line in [&EVALUATE[..], &overlays, &fit.split(' ').collect::<Vec<_>>()] {
        let output = run(line, data.path());
        let said = stderr(&output);
        assert!(output.status.success() && said.contains(a) && said.contains(b), "{said}");
    }
    // Images are held against the references, too.
    for case in ["a", "b"] {
        save(at(&format!("predictions/{case}.nii.gz")), &map(false));
    }
    save_turned(at("images/b_0000.nii.gz"), &map(false), Turn::NONE, |g| g.origin_mm[1] = 2.5);
    let said = stderr(&run(&overlays, data.path()));
    assert!(
        said.contains("warning: images/b_0000.nii.gz lies elsewhere than labels/b.nii.gz"),
        "{said}"
    );
    assert_eq!(said.matches("warning").count(), 1, "{said}");
}

#[test]
fn maps_in_other_voxel_orders_are_compared_where_they_lie() {
    let data = data();
    let plain = Record::<Summary>::load;
    let summary = |more: &[&'static str]| {
        let output = run(&with(more), data.path());
        let said = stderr(&output);
        assert!(output.status.success() && !said.contains("warning"), "{said}");
        plain(&data.path().join("out/summary.toml")).unwrap().body
    };
    let expected = summary(&["--plan", "plan.toml"]);
    turning_plan(data.path());
    let turn = Turn { axes: [2, 0, 1], flip: [true, false, true] };
    for (case, stray) in [("a", false), ("b", true)] {
        let path = data.path().join(format!("predictions/{case}.nii.gz"));
        save_turned(path, &map(stray), turn, |_| ());
        let path = data.path().join(format!("images/{case}_0000.nii.gz"));
        save_turned(path, &map(false), turn.inverse(), |_| ());
    }
    assert_eq!(summary(&["--plan", "plan.toml"]), expected);
    let pictures = ["--images", "images", "--overlays", "pictures"];
    let all = [&["--plan", "plan.toml"][..], &pictures].concat();
    assert_eq!(summary(&all), expected);
    let fit = "fit --labels labels --predictions predictions --plan plan.toml --out rules.toml";
    let output = run(&fit.split(' ').collect::<Vec<_>>(), data.path());
    assert!(output.status.success() && !stderr(&output).contains("warning"));
    let rules = Record::<Postprocessing>::load(&data.path().join("rules.toml")).unwrap().body;
    let dice = |class: usize| rules.classes[class].dice_before;
    assert_eq!([dice(0), dice(1)], [expected.mean.dice[0], expected.mean.dice[1]]);
    // As stored they don't fit.
    let (code, error) = fails(&EVALUATE, data.path());
    assert!(code == 3 && error.contains("predictions/a.nii.gz: shape"), "{error}");
}

#[test]
fn two_files_of_one_case_are_refused_by_both_names() {
    for (stray, beside) in [
        ("predictions/a.nii", "predictions/a.nii.gz"),
        ("predictions/a.png", "predictions/a.nii.gz"),
        ("labels/b.hdr", "labels/b.nii.gz"),
        ("images/a.nii.gz", "images/a_0000.nii.gz"),
    ] {
        let data = data();
        Commit::file(&data.path().join(stray), b"whatever it holds").unwrap();
        let (code, error) = fails(&with(&["--images", "images", "--overlays", "o"]), data.path());
        assert_eq!(code, 3, "{error}");
        assert!(error.contains(stray) && error.contains(beside), "{error}");
    }
}

/// A label map of few stored bytes that says very many voxels.
#[test]
#[cfg(target_os = "linux")]
fn a_case_beyond_the_memory_fails_alone() {
    let data = data();
    let fit = ["fit", "--labels", "labels", "--predictions", "predictions", "--plan", "plan.toml"];
    let fitted = run(&[&fit[..], &["--out", "fitted.toml"]].concat(), data.path());
    assert!(fitted.status.success(), "{}", stderr(&fitted));
    let large = Array3::<i16>::zeros((300, 500, 500));
    for folder in ["labels", "predictions"] {
        save(data.path().join(folder).join("c.nii.gz"), &large);
    }
    let image = Array4::<f32>::zeros((1, 300, 500, 500));
    let geometry = Geometry::plain([300, 500, 500], [3.0, 1.0, 1.0]);
    let bytes = encode_image(image.view(), &geometry, true).unwrap();
    Commit::file(&data.path().join("images/c_0000.nii.gz"), &bytes).unwrap();
    let apply = "apply --predictions predictions --postprocessing fitted.toml --out applied";
    let evaluate =
        "evaluate --predictions predictions --labels labels --plan plan.toml --out s.toml";
    for task in [
        apply,
        "fit --labels labels --predictions predictions --plan plan.toml --out f.toml",
        evaluate,
        &format!("{evaluate} --images images --overlays pictures"),
    ] {
        let program = env!("CARGO_BIN_EXE_nnu-postprocess");
        let line = format!("ulimit -v 1000000; exec {program} {task} -q --threads 2");
        let output = Command::new("sh").args(["-c", &line]).current_dir(data.path()).output();
        let output = output.unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{task}: {said}");
        let named = said.contains("c.nii.gz: needs about ") && said.contains(" GiB of memory, ");
        assert!(named, "{task}: {said}");
    }
    for case in ["a", "b"] {
        assert!(data.path().join("applied").join(case).join("prediction.toml").exists(), "{case}");
        assert!(data.path().join("pictures").join(format!("{case}.png")).exists(), "{case}");
    }
}
