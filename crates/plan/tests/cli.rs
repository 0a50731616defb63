//! The real binary: outputs, exit codes, exact error lines.
#![expect(clippy::disallowed_methods, reason = "tests write broken files on purpose")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use artifact::fingerprint::Fingerprint;
use artifact::plan::Plan;
use artifact::splits::Splits;
use artifact::{Commit, Provenance, Record};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::fingerprint;

/// A folder with the fingerprint of twelve phantoms.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self::with(&fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3))
    }

    fn with(measured: &Fingerprint) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let commit = Commit::begin(&folder.path("fingerprint.toml")).unwrap();
        commit.finish(&Provenance::default(), measured).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs nnu-plan inside the folder.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nnu-plan"));
        command.current_dir(self.0.path()).args(args).output().unwrap()
    }

    /// Runs with the fingerprint and `--out plan.toml`.
    fn plan(&self, args: &[&str]) -> Output {
        self.run(&[&["--fingerprint", "fingerprint.toml", "--out", "plan.toml"], args].concat())
    }

    /// The run fails with this code and these lines.
    fn fails(&self, args: &[&str], code: i32, stderr: &str) {
        assert_ended(&self.plan(args), code, stderr);
        assert!(!self.path("plan.toml").exists(), "{args:?} left a plan");
    }
}

fn assert_ended(output: &Output, code: i32, stderr: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), stderr);
    assert_eq!(output.status.code(), Some(code));
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_fingerprint_becomes_a_plan_and_splits() {
    let folder = Folder::new();
    let output = folder.plan(&[]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    let lines: Vec<&str> = log.lines().collect();
    let full = "nnu-plan: 3d_fullres         patch 24×48×48     batch 2    spacing 3.000×1.000×1.000  mm  poolings 2,3,3";
    assert_eq!(lines[1], full);
    assert!(lines[2].starts_with("nnu-plan: done in "));
    assert_eq!((lines.len(), output.stdout.len()), (3, 0));

    let plan = Record::<Plan>::load(&folder.path("plan.toml")).unwrap().body;
    assert_eq!(plan.dataset.training_cases, 12);
    let splits = Record::<Splits>::load(&folder.path("splits.toml")).unwrap().body;
    assert_eq!(splits.folds.len(), 5);
    assert_eq!(splits.folds[0].train.len() + splits.folds[0].validation.len(), 12);
}

#[test]
fn the_same_call_touches_nothing_and_another_rewrites_what_it_changes() {
    let folder = Folder::new();
    folder.plan(&["-q"]);
    let (plan, splits) = (folder.path("plan.toml"), folder.path("splits.toml"));
    let before = (modified(&plan), modified(&splits), fs::read(&plan).unwrap());
    let output = folder.plan(&[]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.starts_with("nnu-plan: plan.toml is up to date\n"), "{log}");
    assert_eq!((modified(&plan), modified(&splits)), (before.0, before.1));

    assert_ended(&folder.plan(&["-q", "--set", "schedule.epochs=3"]), 0, "");
    assert_eq!(modified(&splits), before.1);
    assert_eq!(Record::<Plan>::load(&plan).unwrap().body.recipe.schedule.epochs, 3);
    // Back again, by force and with another thread count: the same bytes.
    assert_ended(&folder.plan(&["-q", "--force", "--threads", "1"]), 0, "");
    assert_eq!(fs::read(&plan).unwrap(), before.2);
}

#[test]
fn memory_folds_and_groups_are_flags() {
    let folder = Folder::new();
    let args = ["-q", "--gpu-memory", "24", "--folds", "3", "--group-by", r"(\d)\d$"];
    assert_ended(&folder.plan(&args), 0, "nnu-plan: warning: 2 groups make 2 folds, not 3\n");
    let plan = Record::<Plan>::load(&folder.path("plan.toml")).unwrap();
    assert_eq!(plan.body.recipe.planning.gpu_memory_gib(), 24.0);
    let text = fs::read_to_string(folder.path("plan.toml")).unwrap();
    assert!(text.contains("gpu_memory_gib = 24.0"), "{text}");
    let splits = Record::<Splits>::load(&folder.path("splits.toml")).unwrap();
    assert_eq!(splits.body.folds.len(), 2);
    assert_eq!(splits.header.key.len(), 3 + 64);
}

#[test]
fn one_case_is_planned_with_a_warning() {
    let folder = Folder::with(&fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 1, 2));
    let warning =
        "nnu-plan: warning: only one case: fold 0 trains on it and validates on nothing\n";
    assert_ended(&folder.plan(&["-q"]), 0, warning);
}

#[test]
fn one_s_own_recipe_starts_from_the_printed_one() {
    let folder = Folder::new();
    let output = folder.run(&["--print-recipe", "--set", "schedule.epochs=3"]);
    assert_eq!(output.status.code(), Some(0));
    fs::write(folder.path("mine.toml"), &output.stdout).unwrap();
    assert_ended(&folder.plan(&["-q", "--recipe", "mine.toml"]), 0, "");
    let plan = Record::<Plan>::load(&folder.path("plan.toml")).unwrap().body;
    assert_eq!(plan.recipe.schedule.epochs, 3);
    // A recipe that changes makes another plan.
    fs::write(folder.path("mine.toml"), "base = \"paper\"\nname = \"mine\"\n").unwrap();
    assert_ended(&folder.plan(&["-q", "--recipe", "mine.toml"]), 0, "");
    let plan = Record::<Plan>::load(&folder.path("plan.toml")).unwrap().body;
    assert_eq!((plan.recipe.name.as_str(), plan.recipe.schedule.epochs), ("mine", 1000));
}

#[test]
fn bad_settings_are_usage_errors_that_name_the_nearest_key() {
    let folder = Folder::new();
    let cases = [
        ("schedule.epoch=3", "--set: unknown key schedule.epoch, did you mean schedule.epochs?"),
        (
            "schedule.epochs=many",
            "--set schedule.epochs=many: found no TOML value, expected an integer such as 1000",
        ),
        (
            "configurations.3d_fulres.batch_size=4",
            "--set: unknown key configurations.3d_fulres.batch_size, did you mean configurations.3d_fullres.batch_size?",
        ),
        ("epochs", "--set epochs: expected KEY=VALUE"),
    ];
    for (setting, line) in cases {
        folder.fails(&["--set", setting], 2, &format!("nnu-plan: error: {line}\n"));
    }
    let hint = "  hint: nnu-plan --print-recipe shows all keys\n";
    folder.fails(
        &["--set", "zzz=1"],
        2,
        &format!("nnu-plan: error: --set: unknown key zzz\n{hint}"),
    );
}

#[test]
fn bad_flags_are_usage_errors() {
    let folder = Folder::new();
    let no_recipe = "nnu-plan: error: --recipe v3: neither a built-in recipe (paper, v2, v2-resenc, v2-resenc-m, v2-resenc-l, v2-resenc-xl) nor a file\n";
    folder.fails(&["--recipe", "v3"], 2, no_recipe);
    folder.fails(&["--folds", "1"], 2, "nnu-plan: error: --folds 1, expected at least 2\n");
    folder.fails(&["--group-by", "("], 2, "nnu-plan: error: --group-by (: unclosed group\n");
    let no_match = "nnu-plan: error: --group-by p(.) doesn't match case case_000\n  hint: the pattern must match every case id; its first (…) is the patient\n";
    folder.fails(&["--group-by", "p(.)"], 2, no_match);
    let memory = "nnu-plan: error: --set planning.gpu_memory_gib=0: recipe.planning.gpu_memory_gib = 0, expected above 0 and at most 100000\n";
    folder.fails(&["--gpu-memory", "0"], 2, memory);
    assert_eq!(folder.plan(&["--gpu-memroy", "8"]).status.code(), Some(2));
    assert_eq!(folder.run(&["--out", "plan.toml"]).status.code(), Some(2));
}

#[test]
fn bad_inputs_are_input_errors() {
    let folder = Folder::new();
    let path = folder.path("fingerprint.toml");
    let good = fs::read_to_string(&path).unwrap();
    let cases = [
        (
            good.replace("version = 2", "version = 7"),
            "fingerprint.toml: artifact.version = 7, expected 2\n  hint: this fingerprint was written by another version; make it again\n",
        ),
        (
            good.replace("kind = \"fingerprint\"", "kind = \"plan\""),
            "fingerprint.toml: artifact.kind = \"plan\", expected \"fingerprint\"\n",
        ),
        (
            good.replacen("spacing_mm = [3.0", "spacing_mm = [0.0", 1),
            "fingerprint.toml: case case_000 has spacing_mm = [0.0, 1.0, 1.0], expected positive numbers\n",
        ),
        (
            good.replace("cropped_shape", "croped_shape"),
            "fingerprint.toml: line 50 (cases[0]): missing field `cropped_shape`\n",
        ),
        (good.replace("[[cases]]", "[[other]]"), "fingerprint.toml: missing field `cases`\n"),
    ];
    for (text, expected) in cases {
        fs::write(&path, text).unwrap();
        folder.fails(&[], 3, &format!("nnu-plan: error: {expected}"));
    }
    fs::remove_file(&path).unwrap();
    let missing = "nnu-plan: error: fingerprint.toml: cannot read this fingerprint record: No such file or directory (os error 2)\n";
    folder.fails(&[], 3, missing);

    fs::write(&path, good).unwrap();
    let missing = "nnu-plan: error: mine.toml: cannot read this recipe: No such file or directory (os error 2)\n";
    folder.fails(&["--recipe", "mine.toml"], 3, missing);
    fs::write(folder.path("mine.toml"), "base = \"paper\"\n[schedule]\nepochz = 1\n").unwrap();
    let unknown =
        "nnu-plan: error: mine.toml: unknown key schedule.epochz, did you mean schedule.epochs?\n";
    folder.fails(&["--recipe", "mine.toml"], 3, unknown);
}

#[test]
fn io_names_what_is_read_and_written() {
    let output = Folder::new().run(&["--io"]);
    let expected = "\
reads --fingerprint fingerprint 2
reads --fingerprint nnU-Net dataset_fingerprint.json
reads --dataset-json nnU-Net dataset.json
reads --recipe recipe
writes --out plan 3
writes --out/../splits.toml splits 1
reads export --plan plan 3
writes export --out nnU-Net plans.json
reads import --plans nnU-Net plans.json
writes import --out plan 3
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
