//! A folder with a plan, splits and cases, and `nnu-train` in it.

#![allow(dead_code, reason = "every test file uses its part")]
#![allow(missing_docs, unreachable_pub, reason = "private to the tests")]

use artifact::case::{Case, CaseInfo, FOREGROUND, IMAGE, LABEL, Original};
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

pub struct Ended {
    pub code: i32,
    pub said: String,
}

/// A folder with a plan, three cases `a`, `b`, `c` and two folds; fold 1 has no validation cases.
pub struct Bench(pub tempfile::TempDir);

impl Bench {
    pub fn new() -> Self {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write_plan(&self, change: impl FnOnce(&mut Plan)) {
        let mut table: toml::Table = PLAN.parse().unwrap();
        let recipe: toml::Table = include_str!("../../../plan/recipes/paper.toml").parse().unwrap();
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
    pub fn write_case(&self, id: &str, index: usize, channels: usize) {
        self.write_case_with(id, index, channels, |_| (), |label| label);
    }

    pub fn write_case_with(
        &self,
        id: &str,
        index: usize,
        channels: usize,
        change: impl FnOnce(&mut CaseInfo),
        annotate: impl FnOnce(Array3<i16>) -> Array3<i16>,
    ) {
        let shape = [10, 9, 12];
        let inside = |z: usize, y: usize, x: usize| {
            (2..7).contains(&z) && (3..7).contains(&y) && (2 + index..8).contains(&x)
        };
        let label = Array3::from_shape_fn(shape, |(z, y, x)| i16::from(inside(z, y, x)));
        let image = Array4::from_shape_fn((channels, 10, 9, 12), |(_, z, y, x)| {
            f32::from(label[[z, y, x]]) + 0.1 * ((z * 7 + y * 5 + x * 3 + index) % 11) as f32
        });
        let label = annotate(label);
        let rows: Vec<[i32; 4]> = label
            .indexed_iter()
            .filter(|(_, l)| **l == 1)
            .map(|((z, y, x), _)| [1, z as i32, y as i32, x as i32])
            .collect();
        let mut case = Case {
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
                flip: [false; 3],
                crop_lower: [0; 3],
                crop_upper: shape,
                geometry: Geometry::plain(shape, [1.0; 3]),
            },
        };
        change(&mut case.case);
        let mut commit = Commit::begin(&self.path("cases").join(id).join("case.toml")).unwrap();
        commit.npy(IMAGE, &image.view()).unwrap();
        commit.npy(LABEL, &label.view()).unwrap();
        commit.npy(FOREGROUND, &Array2::from(rows).view()).unwrap();
        commit.finish(&Provenance::default(), &case).unwrap();
    }

    /// Runs `nnu-train` on fold 0 into `model`, with further arguments; paths in messages are relative.
    pub fn train(&self, model: &str, more: &[&str]) -> Ended {
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

    pub fn trained(&self, model: &str, more: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let ended = self.train(model, more);
        assert_eq!(ended.code, 0, "{}", ended.said);
        let entries = std::fs::read_dir(self.path(model)).unwrap().flatten();
        entries
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .collect()
    }

    /// Runs a call that must fail with this code and these first lines.
    pub fn refused(&self, more: &[&str], code: i32, lines: &[&str]) {
        let ended = self.train("model", more);
        let said: Vec<&str> =
            ended.said.lines().filter(|l| !l.starts_with("nnu-train: device cpu")).collect();
        assert_eq!((ended.code, said.as_slice()), (code, lines));
        assert!(!self.path("model/model.toml").exists());
    }
}

pub fn load<T: artifact::Kind>(path: &Path) -> T {
    Record::<T>::load(path).unwrap().body
}
