//! A small cross-validation: four cases, two folds, configurations that err in different places.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(dead_code, reason = "not every test file needs all of it")]

use artifact::image::Reader;
use artifact::model::{Model, ModelInfo};
use artifact::nifti::{Geometry, encode_labels};
use artifact::plan::Plan;
use artifact::prediction::{Prediction, PredictionInfo};
use artifact::splits::{Fold, Splits};
use artifact::{Commit, Label, Provenance, hash_file};
use half::f16;
use ndarray::{Array3, Array4, s};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const SHAPE: [usize; 3] = [4, 12, 10];

pub fn run(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nnu-postprocess"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Runs it by one line; the standard output.
pub fn succeeds(line: &str, folder: &Path) -> String {
    let output = run(&line.split_whitespace().collect::<Vec<_>>(), folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and the lines of the error, without the log.
pub fn fails(line: &str, folder: &Path) -> (i32, String) {
    let output = run(&line.split_whitespace().collect::<Vec<_>>(), folder);
    let text = String::from_utf8(output.stderr).unwrap();
    let begin = "nnu-postprocess: error: ";
    let at = text.find(begin).unwrap_or_else(|| panic!("no error: {text}"));
    (output.status.code().unwrap(), text[at + begin.len()..].trim_end().to_string())
}

/// Writes a label map with 3 mm slices.
pub fn save(path: &Path, map: &Array3<i16>) {
    let (z, y, x) = map.dim();
    let geometry = Geometry::plain([z, y, x], [3.0, 1.0, 1.0]);
    Commit::file(path, &encode_labels(map.view(), &geometry, true).unwrap()).unwrap();
}

/// A cube of class 1 beside one of class 2: 24 and 18 voxels.
pub fn truth() -> Array3<i16> {
    let mut map = Array3::zeros(SHAPE);
    map.slice_mut(s![1..3, 2..6, 2..5]).fill(1);
    map.slice_mut(s![1..3, 6..9, 2..5]).fill(2);
    map
}

pub fn labels() -> Vec<Label> {
    let label = |name: &str, value| Label { name: name.into(), value };
    vec![label("background", 0), label("sphere", 1), label("cube", 2)]
}

/// The plan of the specification with two classes, four configurations and a recipe's present text.
pub fn plan(recipe: &str, more: &str) -> String {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| std::fs::read_to_string(crates.join(path)).unwrap();
    let mut plan: toml::Table =
        read("artifact/tests/golden/records/plan.3/plan.toml").parse().unwrap();
    let recipe: toml::Table = read(&format!("plan/recipes/{recipe}.toml")).parse().unwrap();
    plan.insert("recipe".into(), recipe.into());
    plan.remove("provenance");
    let labels = labels();
    plan.insert("labels".into(), toml::Value::try_from(labels).unwrap());
    let configurations = plan["configurations"].as_table_mut().unwrap();
    let mut full = configurations["3d_fullres"].clone();
    full["network"]["output_channels"] = 3.into();
    for name in ["2d", "3d_fullres", "3d_lowres"] {
        configurations.insert(name.into(), full.clone());
    }
    full["network"]["input_channels"] = 3.into();
    full.as_table_mut().unwrap().insert("previous_stage".into(), "3d_lowres".into());
    configurations.insert("3d_cascade_fullres".into(), full);
    plan.extend(more.parse::<toml::Table>().unwrap());
    toml::to_string(&plan).unwrap()
}

/// `labels/`, `plan.toml`, `splits.toml`; folds 0 and 1 validate on a, b and on c, d.
pub fn world() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for case in ["a", "b", "c", "d"] {
        save(&at(&format!("labels/{case}.nii.gz")), &truth());
    }
    Commit::file(&at("plan.toml"), plan("v2", "").as_bytes()).unwrap();
    write_splits(&at("splits.toml"), &[["a", "b"], ["c", "d"]]);
    folder
}

pub fn write_splits(path: &Path, validation: &[[&str; 2]; 2]) {
    let ids = |ids: &[&str; 2]| ids.iter().map(|id| (*id).to_string()).collect::<Vec<_>>();
    let fold = |k: usize| Fold { train: ids(&validation[1 - k]), validation: ids(&validation[k]) };
    let splits = Splits { folds: vec![fold(0), fold(1)] };
    Commit::begin(path).unwrap().finish(&Provenance::default(), &splits).unwrap();
}

/// A model's folder; its weights are its name.
pub fn model(root: &Path, configuration: &str, fold: usize) -> PathBuf {
    let folder = root.join(format!("models/{configuration}/fold_{fold}"));
    let mut commit = Commit::begin(&folder.join("model.toml")).unwrap();
    commit.bytes("weights.npz", format!("{configuration} {fold}").as_bytes()).unwrap();
    commit.bytes("plan.toml", &std::fs::read(root.join("plan.toml")).unwrap()).unwrap();
    let info = ModelInfo {
        configuration: configuration.into(),
        fold,
        epochs: 1,
        ended_by: "epochs".into(),
        precision: "f32".into(),
        validation: [["a", "b"], ["c", "d"]][fold].map(String::from).to_vec(),
        validation_dice: Vec::new(),
    };
    commit.finish(&Provenance::default(), &Model { model: info }).unwrap();
    folder
}

/// Probabilities of the truth: 0.9 for the right class and the rest for the next one, but 0.4 in the first `errors` rows of
/// class `weak`; a voxel far away is taken for class 1.
pub fn probabilities(weak: i16, errors: usize) -> Array4<f32> {
    let truth = truth();
    let [z, y, x] = SHAPE;
    let first = if weak == 1 { 2 } else { 6 };
    let mut maps = Array4::zeros((3, z, y, x));
    for ((z, y, x), &class) in truth.indexed_iter() {
        let wrong = class == weak && (first..first + errors).contains(&y);
        let sure = if wrong { 0.4 } else { 0.9 };
        let right = if (z, y, x) == (0, 11, 9) { 1 } else { class as usize };
        maps[[right, z, y, x]] = sure;
        maps[[(right + 1) % 3, z, y, x]] = 1.0 - sure;
    }
    maps
}

/// Writes `CASE/prediction.toml` with everything beside it.
pub fn write_prediction(folder: &Path, case: &str, maps: &Array4<f32>, weights: &str) {
    let (_, z, y, x) = maps.dim();
    let geometry = Geometry::plain([z, y, x], [3.0, 1.0, 1.0]);
    write_placed(folder, case, maps, weights, (&geometry, Reader::default()));
}

/// As [`write_prediction`], at a place and of a reader.
pub fn write_placed(
    folder: &Path,
    case: &str,
    maps: &Array4<f32>,
    weights: &str,
    (geometry, reader): (&Geometry, Reader),
) {
    let mut commit = Commit::begin(&folder.join(case).join("prediction.toml")).unwrap();
    let (_, z, y, x) = maps.dim();
    let halves = maps.mapv(f16::from_f32);
    commit.npy("probabilities.npy", &halves.view()).unwrap();
    let classes = Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        let column = halves.slice(s![.., z, y, x]);
        (0..3i16).rev().max_by(|a, b| column[*a as usize].total_cmp(&column[*b as usize])).unwrap()
    });
    let bytes = encode_labels(classes.view(), geometry, true).unwrap();
    commit.bytes("segmentation.nii.gz", &bytes).unwrap();
    let count = |class: i16| classes.iter().filter(|&&c| c == class).count() as u64;
    let info = PredictionInfo {
        case: case.into(),
        segmentation: "segmentation.nii.gz".into(),
        shape: geometry.shape,
        spacing_mm: geometry.spacing_mm,
        class_voxels: vec![count(0), count(1), count(2)],
        reader,
    };
    let provenance = Provenance::default().input("weights", weights);
    let body = Prediction { prediction: info, labels: labels(), regions: Vec::new() };
    commit.finish(&provenance, &body).unwrap();
}

/// Models and validation predictions of a configuration, in `predictions/NAME/fold_K`.
pub fn configuration(root: &Path, name: &str, weak: i16, errors: usize) {
    for (fold, cases) in [["a", "b"], ["c", "d"]].into_iter().enumerate() {
        let weights = hash_file(&model(root, name, fold).join("weights.npz")).unwrap();
        let folder = root.join(format!("predictions/{name}/fold_{fold}"));
        for case in cases {
            write_prediction(&folder, case, &probabilities(weak, errors), &weights);
        }
    }
}

/// The plan that a test wrote is one.
pub fn load_plan(root: &Path) -> Plan {
    artifact::Record::<Plan>::load(&root.join("plan.toml")).unwrap().body
}
