//! `nnu-train` as a user meets it: results, resumption, and one line for each way to get it wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use artifact::case::{Case, CaseInfo, FOREGROUND, IMAGE, LABEL, Original};
use artifact::model::{History, Model};
use artifact::nifti::Geometry;
use artifact::plan::Plan;
use artifact::splits::{Fold, Splits};
use artifact::{Commit, Provenance, Record};
use ndarray::{Array2, Array3, Array4};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const PLAN: &str = r#"
dataset = { name = "boxes", training_cases = 3, file_ending = ".nii.gz" }
geometry = { transpose = [0, 1, 2] }
labels = [{ name = "background", value = 0 }, { name = "box", value = 1 }]
channels = [{ name = "MRI", normalisation = "z_score", intensity = { mean = 0.0, sd = 1.0, min = 0.0, median = 0.0, max = 0.0, percentile_00_5 = 0.0, percentile_99_5 = 0.0 } }]

[configurations.3d_fullres]
spacing_mm = [1.0, 1.0, 1.0]
keep_slice_distance = false
median_shape = [8, 8, 8]
patch_shape = [8, 8, 8]
batch_size = 2
batch_dice = false
network = { input_channels = 1, output_channels = 2, features = [2, 4], kernels = [[3, 3, 3], [3, 3, 3]], strides = [[1, 1, 1], [2, 2, 2]], encoder_convs = [1, 1], decoder_convs = [1], deep_supervision = false, negative_slope = 0.01, norm_epsilon = 1e-5 }
"#;

struct Ended {
    code: i32,
    said: String,
}

/// A folder with a plan, three cases `a`, `b`, `c` and two folds; fold 1 has no validation cases.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        bench.write_plan(|_| ());
        for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
            bench.write_case(id, i, 1);
        }
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_string()).collect();
        let splits = Splits {
            folds: vec![
                Fold { train: ids(&["a", "b"]), validation: ids(&["c"]) },
                Fold { train: ids(&["a", "b", "c"]), validation: vec![] },
            ],
        };
        let commit = Commit::begin(&bench.path("splits.toml")).unwrap();
        commit.finish(&Provenance::default(), &splits).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write_plan(&self, change: impl FnOnce(&mut Plan)) {
        let mut table: toml::Table = PLAN.parse().unwrap();
        let recipe: toml::Table = include_str!("../../plan/recipes/paper.toml").parse().unwrap();
        table.insert("recipe".into(), recipe.into());
        let mut plan: Plan = table.try_into().unwrap();
        plan.recipe.schedule.epochs = 2;
        plan.recipe.schedule.iterations_per_epoch = 3;
        plan.recipe.schedule.validation_iterations = 1;
        change(&mut plan);
        let commit = Commit::begin(&self.path("plan.toml")).unwrap();
        commit.finish(&Provenance::default(), &plan).unwrap();
    }

    /// A bright box in the dark, at a place of its own for each `index`.
    fn write_case(&self, id: &str, index: usize, channels: usize) {
        let shape = [10, 9, 12];
        let inside = |z: usize, y: usize, x: usize| {
            (2..7).contains(&z) && (3..7).contains(&y) && (2 + index..8).contains(&x)
        };
        let label = Array3::from_shape_fn(shape, |(z, y, x)| i16::from(inside(z, y, x)));
        let image = Array4::from_shape_fn((channels, 10, 9, 12), |(_, z, y, x)| {
            f32::from(label[[z, y, x]]) + 0.1 * ((z * 7 + y * 5 + x * 3 + index) % 11) as f32
        });
        let rows: Vec<[i32; 4]> = label
            .indexed_iter()
            .filter(|(_, l)| **l > 0)
            .map(|((z, y, x), _)| [1, z as i32, y as i32, x as i32])
            .collect();
        let case = Case {
            case: CaseInfo {
                id: id.into(),
                configuration: "3d_fullres".into(),
                channels,
                classes: 2,
                regions: 0,
                ignore: false,
                shape,
                spacing_mm: [1.0; 3],
                labelled: true,
            },
            original: Original {
                transpose: [0, 1, 2],
                crop_lower: [0; 3],
                crop_upper: shape,
                geometry: Geometry::plain(shape, [1.0; 3]),
            },
        };
        let mut commit = Commit::begin(&self.path("cases").join(id).join("case.toml")).unwrap();
        commit.npy(IMAGE, &image.view()).unwrap();
        commit.npy(LABEL, &label.view()).unwrap();
        commit.npy(FOREGROUND, &Array2::from(rows).view()).unwrap();
        commit.finish(&Provenance::default(), &case).unwrap();
    }

    /// Runs `nnu-train` on fold 0 into `model`, with further arguments; paths in messages are relative.
    fn train(&self, model: &str, more: &[&str]) -> Ended {
        let fixed = [
            "--cases",
            "cases",
            "--plan",
            "plan.toml",
            "--configuration",
            "3d_fullres",
            "--out",
            model,
        ];
        let fold: &[&str] = if more.contains(&"--fold") { &[] } else { &["--fold", "0"] };
        let output = Command::new(env!("CARGO_BIN_EXE_nnu-train"))
            .current_dir(self.0.path())
            .args(fixed.iter().chain(fold).chain(more))
            .output()
            .unwrap();
        Ended {
            code: output.status.code().unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn trained(&self, model: &str, more: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let ended = self.train(model, more);
        assert_eq!(ended.code, 0, "{}", ended.said);
        let entries = std::fs::read_dir(self.path(model)).unwrap().flatten();
        entries
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .collect()
    }

    /// Runs a call that must fail with this code and these first lines.
    fn refused(&self, more: &[&str], code: i32, lines: &[&str]) {
        let ended = self.train("model", more);
        let said: Vec<&str> =
            ended.said.lines().filter(|l| !l.starts_with("nnu-train: device cpu")).collect();
        assert_eq!((ended.code, said.as_slice()), (code, lines));
        assert!(!self.path("model/model.toml").exists());
    }
}

fn load<T: artifact::Kind>(path: &Path) -> T {
    Record::<T>::load(path).unwrap().body
}

#[test]
fn a_model_folder_is_complete_by_itself() {
    let bench = Bench::new();
    let files = bench.trained("model", &[]);
    for name in ["model.toml", "weights.npz", "plan.toml", "history.toml", "progress.png"] {
        assert!(files.contains_key(name), "{name} is missing");
    }
    assert_eq!(files["plan.toml"], std::fs::read(bench.path("plan.toml")).unwrap());
    let model = load::<Model>(&bench.path("model/model.toml")).model;
    assert_eq!(
        (model.epochs, model.ended_by.as_str(), model.validation),
        (2, "epochs", vec!["c".to_string()])
    );
    assert_eq!(model.validation_dice.len(), 1);
    let history = load::<History>(&bench.path("model/history.toml"));
    assert_eq!(history.epochs.len(), 2);
    assert!(
        history.epochs.iter().all(|e| e.train_loss.is_finite() && e.validation_loss.is_finite())
    );

    let again = bench.train("model", &[]);
    assert!(again.said.contains("model/model.toml is up to date"), "{}", again.said);
}

#[test]
fn a_longer_training_goes_on_from_the_end_to_the_same_bytes_as_one_of_that_length() {
    let bench = Bench::new();
    bench.trained("model", &["--epochs", "1"]);
    let ended = bench.train("model", &["--epochs", "3"]);
    assert!(ended.said.contains("resuming at epoch 1, iteration 0"), "{}", ended.said);
    let resumed = bench.trained("model", &["--epochs", "3"]);
    let whole = bench.trained("whole", &["--epochs", "3"]);
    assert_eq!(resumed, whole);
}

#[test]
fn a_shorter_training_than_the_checkpoint_is_refused() {
    let bench = Bench::new();
    bench.trained("model", &[]);
    let ended = bench.train("model", &["--epochs", "1"]);
    let line = "nnu-train: error: model/checkpoint.toml: is at epoch 2, iteration 0 already, but the training asked for has 1 epochs";
    assert!(ended.code == 3 && ended.said.contains(line), "{}", ended.said);
}

#[test]
fn an_earlier_model_stays_whole_while_a_longer_training_runs() {
    let bench = Bench::new();
    bench.trained("model", &[]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_nnu-train"))
        .current_dir(bench.0.path())
        .args([
            "--cases",
            "cases",
            "--plan",
            "plan.toml",
            "--configuration",
            "3d_fullres",
            "--out",
            "model",
        ])
        .args(["--fold", "0", "--epochs", "1000000", "-q"])
        .spawn()
        .unwrap();
    let live = bench.path("model/checkpoint_history.toml");
    while !live.is_file() {
        assert!(child.try_wait().unwrap().is_none(), "ended before its first epoch");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let record = bench.path("model/model.toml");
    Record::<Model>::load(&record).unwrap().verify(&record).unwrap();
}

#[test]
fn cases_that_were_changed_or_follow_another_plan_are_refused() {
    let bench = Bench::new();
    let image = bench.path("cases/b/image.npy");
    let mut bytes = std::fs::read(&image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    Commit::file(&image, &bytes).unwrap();
    let ended = bench.train("model", &[]);
    assert!(
        ended.code == 3 && ended.said.contains("cases/b/image.npy: hash is b3:"),
        "{}",
        ended.said
    );

    let bench = Bench::new();
    let path = bench.path("cases/b/case.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let inputs = "[provenance]\ninputs = [{ name = \"plan\", hash = \"b3:0\" }]\n";
    Commit::file(&path, text.replacen("[provenance]\n", inputs, 1).as_bytes()).unwrap();
    let ended = bench.train("model", &[]);
    let line = "cases/b/case.toml: was preprocessed by other rules than those of plan.toml";
    assert!(ended.code == 3 && ended.said.contains(line), "{}", ended.said);
}

#[test]
fn a_foreign_case_without_hashes_is_known_by_its_content() {
    let bench = Bench::new();
    let path = bench.path("cases/b/case.toml");
    let mut table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    table["artifact"].as_table_mut().unwrap().remove("files");
    Commit::file(&path, table.to_string().as_bytes()).unwrap();
    bench.trained("model", &[]);
    let image = Array4::<f32>::zeros((1, 10, 9, 12));
    Commit::file(&bench.path("cases/b/image.npy"), &artifact::npy::encode(&image.view())).unwrap();
    let ended = bench.train("model", &[]);
    assert!(ended.code == 3 && ended.said.contains("other settings or inputs"), "{}", ended.said);
}

#[test]
fn the_network_learns_what_is_easy() {
    let bench = Bench::new();
    bench.write_plan(|plan| plan.recipe.optimiser.learning_rate = 0.02);
    bench.trained("model", &["--epochs", "4", "--iterations", "40"]);
    let dice = load::<Model>(&bench.path("model/model.toml")).model.validation_dice;
    assert!(dice[0] > 0.9, "Dice {dice:?}");
}

#[test]
fn a_fold_without_validation_cases_trains_too() {
    let bench = Bench::new();
    bench.trained("model", &["--fold", "1"]);
    let history = load::<History>(&bench.path("model/history.toml"));
    assert!(history.epochs.iter().all(|e| e.validation_loss.is_nan() && e.pseudo_dice[0].is_nan()));
}

#[test]
fn another_training_does_not_take_over_a_checkpoint() {
    let bench = Bench::new();
    let before = bench.trained("model", &[]);
    let ended = bench.train("model", &["--seed", "1"]);
    let lines: Vec<&str> =
        ended.said.lines().filter(|l| l.contains("error") || l.contains("hint")).collect();
    assert_eq!(
        (ended.code, lines.as_slice()),
        (
            3,
            &[
                "nnu-train: error: model/checkpoint.toml: belongs to a training with other settings or inputs",
                "  hint: give another --out, or --force to start again from epoch 0"
            ][..]
        )
    );
    let after = bench.trained("model", &["--seed", "1", "--force"]);
    assert_ne!(before["weights.npz"], after["weights.npz"]);
}

#[test]
fn missing_cases_are_counted_and_one_is_named() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.path("cases/b")).unwrap();
    bench.refused(
        &[],
        3,
        &[
            "nnu-train: error: cases: 1 of 2 cases of fold 0 are missing, such as b",
            "  hint: run nnu-preprocess for this configuration first",
        ],
    );
}

#[test]
fn a_case_of_another_plan_is_named() {
    let bench = Bench::new();
    bench.write_case("b", 1, 2);
    bench.refused(
        &[],
        3,
        &[
            "nnu-train: error: cases/b/case.toml: case.channels = 2, but plan.toml expects 1",
            "  hint: this case was preprocessed for another plan; run nnu-preprocess again",
        ],
    );
}

#[test]
fn folds_and_configurations_that_are_not_there_are_refused_with_those_that_are() {
    let bench = Bench::new();
    bench.refused(
        &["--fold", "2"],
        2,
        &["nnu-train: error: --fold 2, but splits.toml has folds 0 to 1"],
    );
    bench.write_plan(|plan| {
        let only = plan.configurations.remove("3d_fullres").unwrap();
        plan.configurations.insert("2d".into(), only);
    });
    let line = "nnu-train: error: plan.toml: configuration \"3d_fullres\" is not planned, expected one of: 2d";
    bench.refused(&[], 3, &[line]);
}

#[test]
fn a_second_stage_of_a_cascade_is_refused() {
    let bench = Bench::new();
    bench.write_plan(|plan| {
        let only = plan.configurations.get_mut("3d_fullres").unwrap();
        only.previous_stage = Some("3d_lowres".into());
    });
    bench.refused(
        &[],
        3,
        &[
            "nnu-train: error: plan.toml: configuration 3d_fullres takes the prediction of 3d_lowres as input, which nnu-train can't do yet",
            "  hint: train 3d_fullres or 3d_lowres",
        ],
    );
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let bench = Bench::new();
    bench.refused(
        &["--device", "cuda:0"],
        2,
        &["nnu-train: error: --device cuda:0: this build has no CUDA engine; use --device cpu"],
    );
}

#[test]
fn a_loss_that_is_no_number_ends_the_training() {
    let bench = Bench::new();
    bench.write_plan(|plan| plan.recipe.optimiser.learning_rate = 1e30);
    let ended = bench.train("model", &["--iterations", "50"]);
    assert_eq!(ended.code, 1, "{}", ended.said);
    assert!(ended.said.contains("error: the loss is NaN at epoch 0"), "{}", ended.said);
    assert!(
        ended.said.contains("hint: plan again with a lower optimiser.learning_rate"),
        "{}",
        ended.said
    );
}

#[test]
fn spools_are_checked_against_the_plan() {
    let bench = Bench::new();
    bench.refused(
        &["--batches", "batches"],
        3,
        &[
            "nnu-train: error: batches: no batches, expected 000000/batch.toml, 000001/…",
            "  hint: write them with nnu-augment or a program of your own; crates/artifact/README.md has the format",
        ],
    );
    let image = ndarray::Array5::<f32>::zeros((2, 1, 8, 8, 4));
    let label = Array4::<i16>::zeros((2, 8, 8, 4));
    let mut commit = Commit::begin(&bench.path("batches/000000/batch.toml")).unwrap();
    commit.npy("image.npy", &image.view()).unwrap();
    commit.npy("label.npy", &label.view()).unwrap();
    let batch =
        artifact::batch::Batch { batch: artifact::batch::BatchInfo { index: 0, cases: vec![] } };
    commit.finish(&Provenance::default(), &batch).unwrap();
    let ended = bench.train("model", &["--batches", "batches"]);
    let line = "nnu-train: error: a batch has shape [2, 1, 8, 8, 4], expected [2, 1, 8, 8, 8]";
    assert!(ended.code == 3 && ended.said.contains(line), "{}", ended.said);
}
