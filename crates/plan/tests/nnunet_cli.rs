//! The real binary on nnU-Net's files: outputs, exit codes, exact error lines.
#![expect(clippy::disallowed_methods, reason = "tests write nnU-Net's files")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use artifact::plan::Plan;
use artifact::recipe::Weighting;
use artifact::splits::Splits;
use artifact::{Commit, Provenance, Record};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::fingerprint;

/// A folder with nnU-Net's fingerprint and description of twelve phantoms.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let numbers = json!({"max": 9.0, "mean": 1.5, "median": 1.0, "min": -3.0,
            "percentile_00_5": -2.0, "percentile_99_5": 8.0, "std": 2.0});
        folder.write(
            "dataset_fingerprint.json",
            &json!({
                "spacings": vec![[3.0, 1.0, 1.0]; 12],
                "shapes_after_crop": vec![[24, 48, 48]; 12],
                "foreground_intensity_properties_per_channel": {"0": numbers},
                "median_relative_size_after_cropping": 1.0,
            }),
        );
        folder.write("dataset.json", &Self::described());
        folder
    }

    fn described() -> Value {
        json!({
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "a": 1, "b": 2},
            "numTraining": 12,
            "file_ending": ".nii.gz",
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.path(name), value.to_string()).unwrap();
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    /// Runs nnu-plan inside the folder: exit code and log.
    fn run(&self, line: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nnu-plan"));
        let command = command.current_dir(self.0.path()).args(line.split_whitespace());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

const PLAN: &str = "--fingerprint dataset_fingerprint.json --recipe v2 --out plan.toml";
const IMPORT: &str = "import -q --plans plans.json --dataset-json dataset.json --out back.toml";

#[test]
fn nnu_net_s_fingerprint_becomes_a_plan_its_plans_and_a_plan_again() {
    let folder = Folder::new();
    let (code, log) = folder.run(PLAN);
    assert_eq!(code, 0, "{log}");
    let line = "nnu-plan: splits.toml is not written: nnU-Net's files don't name the cases";
    assert!(log.lines().any(|l| l == line), "{log}");
    assert!(!folder.path("splits.toml").exists());
    let plan = Record::<Plan>::load(&folder.path("plan.toml")).unwrap().body;
    assert_eq!((plan.recipe.name.as_str(), plan.dataset.training_cases), ("v2", 12));
    let again = folder.run(PLAN).1;
    assert!(again.starts_with("nnu-plan: plan.toml is up to date\n"), "{again}");

    let export = "export --plan plan.toml --out plans.json --dataset-name Dataset012_Phantoms";
    let (code, log) = folder.run(export);
    assert_eq!(code, 0, "{log}");
    assert!(log.starts_with("nnu-plan: 2 configurations in plans.json\n"), "{log}");
    let plans = folder.read("plans.json");
    assert_eq!(plans["dataset_name"], "Dataset012_Phantoms");
    assert_eq!(plans["configurations"]["3d_fullres"]["patch_size"], json!([24, 48, 48]));
    // Indented as nnU-Net does.
    let text = fs::read_to_string(folder.path("plans.json")).unwrap();
    assert!(text.starts_with("{\n    \"dataset_name\": "), "{text}");

    assert_eq!(folder.run(&format!("{IMPORT} --set schedule.epochs=3")), (0, String::new()));
    let back = Record::<Plan>::load(&folder.path("back.toml")).unwrap().body;
    assert_eq!(back.configurations, plan.configurations);
    assert_eq!(back.recipe.schedule.epochs, 3);
    let (code, log) = folder.run("export -q --plan back.toml --out again.json");
    let said = "it trains and predicts otherwise than schedule.epochs = 3 (1000)\n";
    assert!(code == 0 && log.lines().count() == 1 && log.ends_with(said), "{log}");
    assert_eq!(folder.read("again.json"), plans);
}

/// nnU-Net's statistics are per case, whatever a recipe asks for: the plan says so, and for CT a warning does.
#[test]
fn plans_from_nnu_net_s_statistics_say_how_these_are_weighted() {
    let folder = Folder::new();
    let weighting = |name: &str| {
        let plan = Record::<Plan>::load(&folder.path(name)).unwrap().body;
        plan.recipe.planning.intensity_weighting()
    };
    let line = |name: &str| {
        let text = fs::read_to_string(folder.path(name)).unwrap();
        text.lines().find(|l| l.starts_with("intensity_weighting")).unwrap().to_string()
    };
    let warning = "warning: planning.intensity_weighting is per_case in this plan: nnU-Net's fingerprint has no statistics per voxel";
    let paper = "--fingerprint dataset_fingerprint.json --recipe paper --out paper.toml";
    let per_voxel = "--fingerprint dataset_fingerprint.json --recipe v2 --set planning.intensity_weighting=per_voxel --out set.toml";
    for (call, name, warned, note) in [
        (PLAN, "plan.toml", false, None),
        (paper, "paper.toml", true, Some("; nnU-Net's fingerprint, was \"per_voxel\"")),
        (per_voxel, "set.toml", true, Some("; nnU-Net's fingerprint, was \"per_voxel\"")),
    ] {
        let (code, log) = folder.run(call);
        assert_eq!(code, 0, "{log}");
        assert_eq!(log.contains(warning), warned, "{call}: {log}");
        assert_eq!(weighting(name), Weighting::PerCase, "{call}");
        assert!(note.is_none_or(|note| line(name).ends_with(note)), "{}", line(name));
        let plan = Record::<Plan>::load(&folder.path(name)).unwrap().body;
        assert_eq!(plan.channels[0].intensity.mean, 1.5);
    }
    // Only CT is normalised by them.
    let mut described = Folder::described();
    described["channel_names"] = json!({"0": "MRI"});
    folder.write("dataset.json", &described);
    let (code, log) = folder.run(paper);
    assert!(code == 0 && !log.contains("warning"), "{log}");
    assert_eq!(folder.run("export -q --plan plan.toml --out plans.json"), (0, String::new()));
    let import = format!("{IMPORT} --recipe paper");
    assert_eq!(folder.run(&import), (0, String::new()));
    assert_eq!(weighting("back.toml"), Weighting::PerCase);
    assert!(
        line("back.toml").ends_with("; plans.json, was \"per_voxel\""),
        "{}",
        line("back.toml")
    );
}

#[test]
fn cases_that_are_named_somewhere_are_split() {
    let folder = Folder::new();
    let entry = json!({"images": ["x.nii.gz"], "label": "y.nii.gz"});
    let mut described = Folder::described();
    for i in 0..12 {
        described["dataset"][format!("case_{i:03}")] = entry.clone();
    }
    folder.write("dataset.json", &described);
    assert_eq!(folder.run(&format!("{PLAN} -q --folds 4")), (0, String::new()));
    let path = folder.path("splits.toml");
    let splits = Record::<Splits>::load(&path).unwrap().body;
    assert_eq!((splits.folds.len(), splits.folds[0].validation.len()), (4, 3));

    fs::remove_file(&path).unwrap();
    folder.write("dataset.json", &Folder::described());
    assert_eq!(folder.run("export -q --plan plan.toml --out plans.json"), (0, String::new()));
    let data = fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 7, 3);
    let commit = Commit::begin(&folder.path("fingerprint.toml")).unwrap();
    commit.finish(&Provenance::default(), &data).unwrap();
    let import = format!("{IMPORT} --fingerprint fingerprint.toml");
    assert_eq!(folder.run(&import), (0, String::new()));
    let splits = Record::<Splits>::load(&path).unwrap().body;
    let fold = &splits.folds[0];
    assert_eq!((splits.folds.len(), fold.train.len() + fold.validation.len()), (5, 7));
}

#[test]
fn orders_in_the_plans_reach_the_recipe() {
    let folder = Folder::new();
    assert_eq!(folder.run(&format!("{PLAN} -q")).0, 0);
    assert_eq!(folder.run("export -q --plan plan.toml --out plans.json").0, 0);
    let mut plans = folder.read("plans.json");
    for c in plans["configurations"].as_object_mut().unwrap().values_mut() {
        c["resampling_fn_data_kwargs"]["order"] = json!(1);
    }
    folder.write("plans.json", &plans);
    assert_eq!(folder.run(IMPORT), (0, String::new()));
    let text = fs::read_to_string(folder.path("back.toml")).unwrap();
    let line =
        "image_order = 1                         # spline order for images [C]; plans.json, was 3";
    assert!(text.lines().any(|l| l == line), "{text}");
}

#[test]
fn broken_files_are_input_errors_of_one_line() {
    let folder = Folder::new();
    let fails = |args: &str, line: &str| {
        assert_eq!(folder.run(args), (3, format!("nnu-plan: error: {line}\n")), "{args}");
    };
    let good = folder.read("dataset_fingerprint.json");
    let change = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        folder.write("dataset_fingerprint.json", &changed);
    };
    change("shapes_after_crop", json!([[24, 48, 48]]));
    fails(
        PLAN,
        "dataset_fingerprint.json: shapes_after_crop has 1 entries, expected 12, one per entry of spacings",
    );
    change("spacings", json!(vec![[0.0, 1.0, 1.0]; 12]));
    fails(
        PLAN,
        "dataset_fingerprint.json: spacings[0] = [0.0, 1.0, 1.0], expected positive numbers",
    );
    change("shapes_after_crop", json!(vec![[2.5, 1.0, 1.0]; 12]));
    fails(
        PLAN,
        "dataset_fingerprint.json: shapes_after_crop[0] = [2.5, 1.0, 1.0], expected voxels from 1",
    );
    change("foreground_intensity_properties_per_channel", json!({}));
    fails(
        PLAN,
        "dataset_fingerprint.json: foreground_intensity_properties_per_channel has 0 entries, expected 1, one per channel of dataset.json",
    );
    folder.write("dataset_fingerprint.json", &good);

    let mut described = Folder::described();
    described.as_object_mut().unwrap().remove("numTraining");
    folder.write("dataset.json", &described);
    let hint =
        "\n  hint: --dataset-json names the dataset.json that belongs to nnU-Net's fingerprint";
    fails(
        PLAN,
        &format!(
            "dataset.json: numTraining is missing, expected the number of training cases{hint}"
        ),
    );
    fails(
        &format!("{PLAN} --dataset-json none.json"),
        &format!(
            "none.json: cannot read this description of the data set: No such file or directory (os error 2){hint}"
        ),
    );
    folder.write("dataset.json", &Folder::described());

    folder.write("plans.json", &json!({"dataset_name": "x", "UNet_class_name": "PlainConvUNet"}));
    fails(IMPORT, "plans.json: plans_name is missing, expected a name");
    fs::write(folder.path("plans.json"), "{").unwrap();
    fails(IMPORT, "plans.json: is not JSON: EOF while parsing an object at line 1 column 1");
    let paper = PLAN.replace("v2", "paper");
    assert_eq!(folder.run(&format!("{paper} -q")).0, 0);
    fails(
        "export --plan plan.toml --out plans.json",
        "plan.toml: recipe.preprocessing.order = \"resample_then_normalise\", expected \"normalise_then_resample\", the only order that nnU-Net v2 knows",
    );
}

#[test]
fn an_imported_plan_s_reader_is_held_against_dataset_json() {
    let folder = Folder::new();
    assert_eq!(folder.run(&format!("{PLAN} -q")).0, 0);
    assert_eq!(folder.run("export -q --plan plan.toml --out plans.json").0, 0);
    let import = |planned: &str, told: Option<&str>, ending: &str| {
        let mut plans = folder.read("plans.json");
        plans["image_reader_writer"] = json!(planned);
        folder.write("plans.json", &plans);
        let mut described = Folder::described();
        described["file_ending"] = json!(ending);
        if let Some(told) = told {
            described["overwrite_image_reader_writer"] = json!(told);
        }
        folder.write("dataset.json", &described);
        folder.run(&IMPORT.replace(" -q", ""))
    };
    for (planned, told, how) in [
        ("SimpleITKIO", "NibabelIOWithReorient", Some("takes them as stored, the latter turns")),
        ("SimpleITKIOWithReorient", "SimpleITKIO", Some("turns images to RAS, the latter takes")),
        ("NibabelIO", "SimpleITKIO", Some("by rules of their own")),
        ("NibabelIO", "NibabelIO", None),
        ("NibabelIOWithReorient", "None", None),
    ] {
        let (code, log) = import(planned, Some(told), ".nii.gz");
        assert_eq!(code, 0, "{log}");
        let begins = format!(
            "nnu-plan: warning: plans.json: image_reader_writer = \"{planned}\" is followed, although dataset.json says \
             overwrite_image_reader_writer = \"{told}\": "
        );
        let warning = log.lines().find(|line| line.contains("is followed"));
        assert_eq!(warning.is_some(), how.is_some(), "{log}");
        if let (Some(warning), Some(how)) = (warning, how) {
            assert!(warning.starts_with(&begins) && warning.contains(how), "{warning}");
        }
    }
    for (planned, ending) in [("NaturalImage2DIO", ".nii.gz"), ("SimpleITKIO", ".png")] {
        let (code, log) = import(planned, None, ending);
        assert_eq!(code, 3, "{log}");
        let begins = format!(
            "nnu-plan: error: plans.json: image_reader_writer = \"{planned}\", which reads ."
        );
        let found = format!(", but dataset.json says file_ending = \"{ending}\"; expected ");
        assert!(log.starts_with(&begins) && log.contains(&found), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}

#[test]
fn flags_of_planning_and_of_the_other_tasks_do_not_mix() {
    let folder = Folder::new();
    assert_eq!(folder.run("--recipe v2 export --plan plan.toml --out plans.json").0, 2);
    assert_eq!(folder.run("export --plan plan.toml").0, 2);
    assert_eq!(folder.run("import --plans plans.json --out plan.toml").0, 2);
}
