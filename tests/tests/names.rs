//! The pipelines where paths, cases and options are called what means something to make, to a shell or to Snakemake: the
//! work is done as for any other names, and nothing that stands in one is run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use artifact::Commit;
use e2e::programs::{folder, must_not_skip, run_all};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

/// Cases; the commands in them would leave a file PWNED.
const IDS: [&str; 16] = [
    "x&touch PWNED&y",
    "$(touch PWNED)",
    "`touch PWNED`",
    "a;touch PWNED;",
    "|touch PWNED",
    "$(shell touch PWNED)",
    "$${HOME}",
    "o'brien \"b\"",
    "p%1 #2:3",
    "back\\slash",
    "-dash",
    "--help",
    "ünï\tcode",
    "new\nline",
    "*",
    " a=b,c ~[d]?! ",
];

/// A folder's name with all of it.
const FOLDER: &str =
    "n a'\"$(touch PWNED)`touch PWNED`$(shell touch PWNED);&#%:\\-ü*~\nz$x$$y|<>()[]!?=, ";

/// A data set, the pipelines and the programs (by a link) below `FOLDER`.
struct World {
    root: tempfile::TempDir,
    programs: PathBuf,
}

impl World {
    /// Training cases of these names and a test case of the first.
    fn new(ids: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let world = Self { root, programs: folder(PHANTOM) };
        let line = format!(
            "nnu-phantom -q --training {} --test 1 --shape 8,16,16 --spacing 3,1.2,1.2 --out {{}}/made",
            ids.len()
        );
        run_all(&world.programs, world.root.path(), &[&line]);
        let data = world.path("data");
        for part in ["imagesTr", "labelsTr", "imagesTs", "labelsTs"] {
            std::fs::create_dir_all(data.join(part)).unwrap();
            let from = world.root.path().join("made").join(part);
            let files = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<PathBuf> = files.collect();
            files.sort();
            let channel = if part.starts_with("images") { "_0000" } else { "" };
            for (file, id) in files.iter().zip(ids) {
                let to = data.join(part).join(format!("{id}{channel}.nii.gz"));
                std::fs::copy(file, to).unwrap();
            }
        }
        let described = serde_json::json!({
            "channel_names": {"0": "MRI"}, "labels": {"background": 0, "capsule": 1, "core": 2},
            "numTraining": ids.len(), "file_ending": ".nii.gz",
        });
        let text = described.to_string();
        Commit::file(&data.join("dataset.json"), text.as_bytes()).unwrap();
        let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines");
        std::fs::create_dir(world.path("pipelines")).unwrap();
        for entry in std::fs::read_dir(pipelines).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                let to = world.path("pipelines").join(entry.file_name());
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
        std::os::unix::fs::symlink(&world.programs, world.path("bin")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(FOLDER).join(name)
    }

    /// `make -C pipelines` with the programs here.
    fn make(&self, arguments: &[String]) -> Output {
        let mut make = Command::new("make");
        make.arg("-C").arg(self.path("pipelines")).current_dir(self.root.path());
        make.env("PWD", self.root.path()).env_remove("MAKEFLAGS");
        make.arg(format!("BIN={}", self.path("bin").display())).args(arguments);
        make.output().unwrap()
    }

    /// Every case was preprocessed, some predicted, and no command left its file.
    fn check(&self, work: &Path, ids: &[&str]) {
        for id in ids {
            let record = work.join("cases/3d_fullres").join(id).join("case.toml");
            assert!(record.is_file(), "{}", record.display());
        }
        let predicted = work.join("validation/3d_fullres/fold_0/predictions");
        assert!(std::fs::read_dir(predicted).unwrap().count() >= ids.len() / 2);
        let of_test = work.join("test/predictions").join(ids[0]).join("segmentation.nii.gz");
        assert!(of_test.is_file(), "{}", of_test.display());
        self.nothing_ran();
    }

    fn nothing_ran(&self) {
        let mut folders = vec![self.root.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                assert_ne!(entry.file_name(), "PWNED", "in {}", folder.display());
                // Not along the link to the programs.
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        for here in [".", "../pipelines"] {
            assert!(!Path::new(here).join("PWNED").exists());
        }
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Whether a tool of the pipelines is there; under CI it must be.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    assert!(found || !must_not_skip(), "{tool} is missing");
    if !found {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: no {tool} here");
        }
    }
    found
}

#[test]
fn make_carries_any_name_and_runs_none() {
    if !has("make") {
        return;
    }
    let world = World::new(&IDS);
    let options = [
        format!("DATA={}", world.path("data").display()),
        // From where make was called.
        format!("WORK={FOLDER}/-work"),
        "RECIPE=v2".into(),
        "SET=schedule.validation_iterations=1 planning.base_features=4".into(),
        "SPLIT_INTO=2".into(),
        "EPOCHS=1".into(),
        "ITERATIONS=1".into(),
        "DEVICE=cpu".into(),
        "INFER_FLAGS=--no-mirroring --step 0.75".into(),
    ];
    let run = world.make(&[&[String::from("run")], &options[..]].concat());
    assert!(run.status.success(), "{}", said(&run));
    world.check(&world.path("-work"), &IDS);
    let predict = [
        "predict".into(),
        format!("WORK={FOLDER}/-work"),
        format!("IMAGES={}", world.path("data/imagesTs").display()),
        format!("OUT={}", world.path("$(touch PWNED) out").display()),
    ];
    let predict = world.make(&predict);
    assert!(predict.status.success(), "{}", said(&predict));
    let out = world.path("$(touch PWNED) out").join(IDS[0]).join("segmentation.nii.gz");
    assert!(out.is_file(), "{}", out.display());
    world.nothing_ran();
}

#[test]
fn make_takes_names_of_configurations_and_folds_only() {
    if !has("make") {
        return;
    }
    let world = World::new(&IDS[..1]);
    let data = format!("DATA={}", world.path("data").display());
    for option in ["CONFIGURATIONS=2d;touch PWNED", "FOLDS=$(shell touch PWNED)"] {
        let work = format!("WORK={}", world.path("work").display());
        let run = world.make(&["run".into(), data.clone(), work, option.into()]);
        assert!(!run.status.success());
        assert!(said(&run).contains("expected names without signs"), "{}", said(&run));
        assert!(!world.path("work").exists(), "nothing was started");
    }
    // A plan of somebody else, with a configuration that no recipe of ours makes.
    let plan = "[configurations.2d]\n[configurations.\"x;touch PWNED\"]\n[configurations.'$(touch PWNED)']\n";
    Commit::file(&world.path("work/plan.toml"), plan.as_bytes()).unwrap();
    let mut make = Command::new("make");
    make.arg("-n")
        .arg("--no-print-directory")
        .arg("-C")
        .arg(world.path("work"))
        .arg("-f")
        .arg(world.path("pipelines/stages.mk"));
    let lines = make.arg("cases").env("CONFIGURATIONS", "all").output().unwrap();
    assert!(said(&lines).contains("--configuration 2d --out cases/2d\n"), "{}", said(&lines));
    assert!(!said(&lines).contains("touch"), "{}", said(&lines));
    world.nothing_ran();
}

fn snakemake(world: &World, recipe: &str) -> Output {
    let config = serde_json::json!({
        "data": world.path("data").to_str().unwrap(), "work": world.path("-work").to_str().unwrap(),
        "programs": "../bin", "recipe": recipe, "split_into": 2, "epochs": 1, "iterations": 1, "device": "cpu",
        "set": {"schedule.validation_iterations": 1, "planning.base_features": 4},
        "infer_flags": "--no-mirroring --step 0.75",
    });
    let file = world.root.path().join("config.json");
    Commit::file(&file, config.to_string().as_bytes()).unwrap();
    let mut snakemake = Command::new("snakemake");
    snakemake.arg("--snakefile").arg(world.path("pipelines/Snakefile"));
    snakemake.args(["--cores", "2", "--quiet", "progress", "--configfile"]).arg(&file);
    snakemake.current_dir(world.root.path()).output().unwrap()
}

#[test]
fn snakemake_carries_names_without_braces_and_runs_none() {
    if !has("snakemake") {
        return;
    }
    let ids: Vec<&str> = IDS.into_iter().filter(|id| !id.contains('{')).collect();
    let world = World::new(&ids);
    let run = snakemake(&world, "v2");
    assert!(run.status.success(), "{}", said(&run));
    world.check(&world.path("-work"), &ids);
    assert!(world.path("-work/test/summary.toml").is_file());

    let refused = |recipe: &str, name: &str| {
        let run = snakemake(&world, recipe);
        let line = "takes braces in names for wildcards";
        let named = said(&run).lines().any(|l| l.contains(line) && l.contains(name));
        assert!(!run.status.success() && named, "{}", said(&run));
    };
    let recipe = world.path("a {z} $(touch PWNED).toml");
    Commit::file(&recipe, b"base = \"v2\"\n").unwrap();
    refused(recipe.to_str().unwrap(), "{z}");
    let image = world.path("data/imagesTs");
    std::fs::copy(image.join(format!("{}_0000.nii.gz", ids[0])), image.join("{x}_0000.nii.gz"))
        .unwrap();
    refused("v2", "{x}");
}
