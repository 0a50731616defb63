//! Every stage failed, stopped or killed at its file operations, alone and beside a second process: the same command again
//! ends with the bytes of an undisturbed run and leaves nothing else. `shim.c` disturbs; it's compiled here.
//!
//! Some operations in CI; `tests/kill.sh` kills as often as one likes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use artifact::{Commit, Kind, Record};
use e2e::programs::{folder, run_all, tree};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");
const SIGKILL: i32 = 9;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// The phantoms' description in nnU-Net's own layout, which exports ask for.
const NNUNET: &str = r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "capsule": 1, "core": 2},
    "numTraining": 4, "file_ending": ".nii.gz"}"#;

/// What all commands below read, made once; `{}` is its folder.
const WORLD: [&str; 13] = [
    "nnu-phantom -q --training 4 --test 2 --shape 8,16,16 --spacing 3,1.2,1.2 --out {}/data",
    "nnu-fingerprint -q --dataset {}/data --out {}/fingerprint.toml",
    "nnu-plan -q --fingerprint {}/fingerprint.toml --recipe v2 --folds 2 --set planning.base_features=4 \
     --set schedule.epochs=2 --set schedule.iterations_per_epoch=2 --set schedule.validation_iterations=1 \
     --out {}/plan.toml",
    "nnu-plan export -q --plan {}/plan.toml --out {}/plans.json",
    "nnu-preprocess -q --dataset {}/data --plan {}/plan.toml --configuration 3d_fullres --out {}/cases",
    "nnu-train -q --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --device cpu \
     --no-validation --out {}/models/3d_fullres/fold_0",
    "nnu-train -q --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 1 --device cpu \
     --no-validation --out {}/models/3d_fullres/fold_1",
    "nnu-infer -q --model {}/models/3d_fullres/fold_0 --cases {}/cases --validation --device cpu --no-mirroring \
     --probabilities --out {}/fold_0",
    "nnu-infer -q --model {}/models/3d_fullres/fold_1 --cases {}/cases --validation --device cpu --no-mirroring \
     --probabilities --out {}/fold_1",
    "nnu-infer -q --model {}/models/3d_fullres/fold_1 --cases {}/cases --device cpu --no-mirroring --step 1 \
     --probabilities --out {}/other",
    "nnu-infer -q --model {}/models/3d_fullres/fold_0 --cases {}/cases --device cpu --no-mirroring --probabilities \
     --out {}/another",
    "nnu-postprocess fit -q --labels {}/data/labelsTr --predictions {}/fold_0 --predictions {}/fold_1 \
     --plan {}/plan.toml --out {}/postprocess.toml",
    "nnu-net export -q --model {}/models/3d_fullres/fold_0 --plans {}/plans.json \
     --dataset-json {}/nnunet.json --out {}/checkpoint.pth",
];

/// One of each kind of output; `@` is the folder that it goes to.
const COMMANDS: [&str; 16] = [
    "nnu-phantom -q --training 2 --test 1 --shape 8,12,12 --out @/data",
    "nnu-fingerprint -q --dataset {}/data --out @/fingerprint.toml",
    "nnu-plan -q --fingerprint {}/fingerprint.toml --folds 2 --out @/plan.toml",
    "nnu-plan export -q --plan {}/plan.toml --out @/plans.json",
    "nnu-plan import -q --plans {}/plans.json --dataset-json {}/nnunet.json \
     --fingerprint {}/fingerprint.toml --out @/plan.toml",
    "nnu-preprocess -q --dataset {}/data --plan {}/plan.toml --configuration 3d_fullres --out @/cases",
    "nnu-augment -q --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --batches 2 \
     --out @/spool --preview @/preview.png",
    "nnu-train -q --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --device cpu --out @/model",
    "nnu-infer -q --model {}/models/3d_fullres/fold_0 --images {}/data/imagesTs --device cpu --no-mirroring \
     --probabilities --out @/test",
    "nnu-postprocess evaluate -q --predictions {}/fold_0 --labels {}/data/labelsTr --images {}/data/imagesTr \
     --overlays @/overlays --out @/summary.toml",
    "nnu-postprocess ensemble -q --predictions {}/other --predictions {}/another --probabilities --out @/mean",
    "nnu-postprocess select -q --plan {}/plan.toml --labels {}/data/labelsTr --splits {}/splits.toml \
     --models {}/models --candidate 3d_fullres={}/fold_0,{}/fold_1 --out @/selection.toml",
    "nnu-postprocess fit -q --labels {}/data/labelsTr --predictions {}/fold_0 --predictions {}/fold_1 \
     --plan {}/plan.toml --out @/postprocess.toml",
    "nnu-postprocess apply -q --predictions {}/other --postprocessing {}/postprocess.toml --out @/final",
    "nnu-net export -q --model {}/models/3d_fullres/fold_0 --plans {}/plans.json \
     --dataset-json {}/nnunet.json --out @/checkpoint.pth",
    "nnu-net import -q --checkpoint {}/checkpoint.pth --plan {}/plan.toml --model @/model",
];

/// The programs, what they read, and the library that disturbs them.
struct World {
    programs: PathBuf,
    root: tempfile::TempDir,
    shim: PathBuf,
    stages: Vec<Stage>,
}

/// A command, and what an undisturbed run of it does.
struct Stage {
    line: &'static str,
    operations: usize,
    tree: BTreeMap<PathBuf, String>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::new)
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let shim = root.path().join("shim.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim).args([source, "-ldl"]);
        assert!(cc.status().expect("a C compiler").success(), "{source} doesn't compile");
        let programs = folder(PHANTOM);
        Commit::file(&root.path().join("nnunet.json"), NNUNET.as_bytes()).unwrap();
        run_all(&programs, root.path(), &WORLD);
        let mut world = Self { programs, root, shim, stages: Vec::new() };
        world.stages = COMMANDS.iter().map(|line| world.undisturbed(line)).collect();
        world
    }

    /// A command with its folders, to be run as it is or with `SHIM_…` set.
    fn command(&self, line: &str, out: &Path, shim: &[(&str, String)]) -> Command {
        let root = self.root.path().display().to_string();
        let line = line.replace("{}", &root).replace('@', &out.display().to_string());
        let mut words = line.split_whitespace();
        let mut command = Command::new(self.programs.join(words.next().unwrap()));
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if !shim.is_empty() {
            command.env("LD_PRELOAD", &self.shim).env("SHIM_ROOT", out.as_os_str());
            command.envs(shim.iter().map(|(name, value)| (name, value)));
        }
        command
    }

    fn undisturbed(&self, line: &'static str) -> Stage {
        let out = tempfile::tempdir().unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let list = [("SHIM_LOG", log.path().display().to_string())];
        let ended = self.command(line, out.path(), &list).output().unwrap();
        assert!(ended.status.success(), "{line}: {}", stderr(&ended));
        let operations = std::fs::read_to_string(log.path()).unwrap().lines().count();
        assert!(operations >= 6, "{line}: only {operations} file operations were seen");
        let tree = tree(out.path());
        assert!(!tree.is_empty(), "{line} wrote nothing");
        for path in tree.keys() {
            assert!(!hidden(path), "{line} leaves {}", path.display());
        }
        Stage { line, operations, tree }
    }
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn stderr(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

/// How a run is disturbed, at which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Kill,
    KillBesideAnother,
    Stop,
    Fail(i32),
    Short,
}

impl Way {
    fn shim(self, at: usize) -> Vec<(&'static str, String)> {
        let mode = match self {
            Self::Kill | Self::KillBesideAnother => "kill",
            Self::Stop => "term",
            Self::Fail(_) => "fail",
            Self::Short => "short",
        };
        let mut shim = vec![("SHIM_MODE", mode.to_owned()), ("SHIM_AT", at.to_string())];
        match self {
            Self::Fail(errno) => shim.push(("SHIM_ERRNO", errno.to_string())),
            // What is read, too.
            Self::Short => shim.push(("SHIM_ROOT", "/".into())),
            _ => {}
        }
        shim
    }
}

impl Stage {
    /// Disturbs a run, gives the same command again, and says what was lost. Whether the disturbance came.
    fn disturb(&self, world: &World, way: Way, at: usize) -> Result<bool, String> {
        let out = tempfile::tempdir().unwrap();
        let shim = way.shim(at);
        let first = self.spawn(world, out.path(), &shim);
        let second = (way == Way::KillBesideAnother).then(|| self.spawn(world, out.path(), &[]));
        let first = first.wait_with_output().unwrap();
        let hit = self.check(way, &first)?;
        if let Some(second) = second {
            self.check_second(&second.wait_with_output().unwrap(), out.path())?;
        }
        let again = world.command(self.line, out.path(), &[]).output().unwrap();
        if !again.status.success() {
            return Err(format!("again: {}: {}", again.status, stderr(&again)));
        }
        self.compare(out.path())?;
        Ok(hit)
    }

    fn spawn(&self, world: &World, out: &Path, shim: &[(&str, String)]) -> Child {
        world.command(self.line, out, shim).spawn().unwrap()
    }

    /// The exit code fits the disturbance; whether there was one.
    fn check(&self, way: Way, ended: &Output) -> Result<bool, String> {
        let (code, signal) = (ended.status.code(), ended.status.signal());
        let wrong = || Err(format!("{way:?}: {}: {}", ended.status, stderr(ended)));
        match way {
            Way::Kill | Way::KillBesideAnother => match (code, signal) {
                (_, Some(SIGKILL)) => Ok(true),
                // Too few operations this time, or the other one holds the folder.
                (Some(0), _) => Ok(false),
                (Some(75), _) if self.is_training() => Ok(false),
                _ => wrong(),
            },
            // At the last unit of work nobody asks any more.
            Way::Stop => match code {
                Some(0) => Ok(false),
                Some(130) => Ok(true),
                Some(75) if self.is_training() => Ok(true),
                _ => wrong(),
            },
            // Removing what is in the way no more, or a checkpoint that can wait, may fail without consequence.
            Way::Fail(_) => match code {
                Some(0) => Ok(false),
                Some(1) if stderr(ended).contains("error: ") => Ok(true),
                _ => wrong(),
            },
            Way::Short => {
                if code == Some(0) {
                    Ok(true)
                } else {
                    wrong()
                }
            }
        }
    }

    fn is_training(&self) -> bool {
        self.line.starts_with("nnu-train") || self.line.contains("--model @")
    }

    /// The one that nobody killed did all of the work, or was told that the other one was at it.
    fn check_second(&self, ended: &Output, out: &Path) -> Result<(), String> {
        match ended.status.code() {
            Some(75) if self.is_training() => return Ok(()),
            Some(0) => {}
            _ => return Err(format!("second: {}: {}", ended.status, stderr(ended))),
        }
        let found = tree(out);
        match self.tree.iter().find(|(path, hash)| found.get(*path) != Some(hash)) {
            None => Ok(()),
            Some((path, _)) => {
                Err(format!("the second said 0, but {} is not right", path.display()))
            }
        }
    }

    fn compare(&self, out: &Path) -> Result<(), String> {
        let found = tree(out);
        if found == self.tree {
            return Ok(());
        }
        let differs = |(path, hash): &(&PathBuf, &String)| self.tree.get(*path) != Some(hash);
        let more: Vec<_> = found.iter().filter(differs).map(|(path, _)| path).collect();
        let less: Vec<_> = self.tree.keys().filter(|path| !found.contains_key(*path)).collect();
        Err(format!("differs or is left over: {more:?}; is missing: {less:?}"))
    }
}

/// A stage, how it's disturbed, at which operation.
type Job = (usize, Way, usize);

/// Does jobs on as many threads as there are cores; whether each was disturbed, or what was lost.
fn all(jobs: &[Job]) -> Vec<Result<bool, String>> {
    let world = world();
    let (next, results) = (AtomicUsize::new(0), Mutex::new(vec![Ok(false); jobs.len()]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(4) {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(stage, way, at)) = jobs.get(job) else { return };
                    let stage = &world.stages[stage];
                    let result = stage.disturb(world, way, at).map_err(|lost| {
                        format!("{}\n{way:?} at operation {at}: {lost}", stage.line)
                    });
                    results.lock().unwrap()[job] = result;
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// How many of the jobs were disturbed; none may lose anything.
fn disturbed(jobs: &[Job]) -> usize {
    let results = all(jobs);
    let lost: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(lost.is_empty(), "{} of {} lost something: {lost:#?}", lost.len(), jobs.len());
    results.iter().filter(|r| **r == Ok(true)).count()
}

/// `count` operations of every stage, spread over all of them; each test begins elsewhere.
fn some(way: Way, count: usize, offset: usize) -> Vec<Job> {
    let stages = world().stages.iter().enumerate();
    stages
        .flat_map(|(stage, of)| {
            let spread =
                |i: usize| 1 + ((2 * i + 1) * of.operations / (2 * count) + offset) % of.operations;
            (0..count).map(move |i| (stage, way, spread(i)))
        })
        .collect()
}

#[test]
fn killed_the_same_command_ends_as_if_undisturbed() {
    let jobs = some(Way::Kill, 3, 0);
    assert!(disturbed(&jobs) > jobs.len() / 2);
}

#[test]
fn killed_beside_a_second_process_neither_loses_anything() {
    assert!(disturbed(&some(Way::KillBesideAnother, 2, 1)) > 0);
}

#[test]
fn asked_to_stop_the_same_command_ends_as_if_undisturbed() {
    assert!(disturbed(&some(Way::Stop, 1, 2)) > 0);
}

#[test]
fn on_a_full_or_broken_disk_the_same_command_ends_as_if_undisturbed() {
    assert!(disturbed(&some(Way::Fail(ENOSPC), 2, 3)) > 0);
    assert!(disturbed(&some(Way::Fail(EIO), 1, 4)) > 0);
}

#[test]
fn reads_and_writes_of_parts_change_nothing() {
    let jobs = some(Way::Short, 1, 0);
    assert_eq!(disturbed(&jobs), jobs.len());
}

/// A training that is stopped while it validates, and killed when it is stopped there again: its checkpoint, which stands
/// at the same iteration, is never away.
#[test]
fn a_checkpoint_survives_a_kill_at_any_operation_of_the_next() {
    let world = world();
    let out = tempfile::tempdir().unwrap();
    let line = format!("{} --iterations 1", world.stages[TRAINING].line);
    let endless = format!("{}/endless.toml", world.root.path().display());
    let line = line.replace("{}/plan.toml", &endless);
    run_all(&world.programs, world.root.path(), &[ENDLESS]);
    let model = |out: &Path| out.join("model/checkpoint.toml");
    // Stopped once: seen by its log, which says where it resumes.
    stop(world.command(&line.replace(" -q", ""), out.path(), &[]), "to train on", || {
        std::thread::sleep(Duration::from_secs(1));
    });
    let first = Record::<Checkpoint>::load(&model(out.path())).unwrap();
    let log = out.path().join("operations");
    let list = [("SHIM_LOG", log.display().to_string())];
    let copy = |from: &Path| {
        let to = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(from.join("model")).arg(to.path()).status();
        assert!(copied.unwrap().success());
        to
    };
    let resumed = |out: &Path, shim: &[(&str, String)]| {
        stop(world.command(&line.replace(" -q", ""), out, shim), "resuming", || {
            std::thread::sleep(Duration::from_millis(200));
        })
    };
    assert_eq!(resumed(copy(out.path()).path(), &list).code(), Some(75));
    let operations = std::fs::read_to_string(&log).unwrap().lines().count();
    assert!(operations >= 10, "only {operations} file operations in a save");
    for at in (1..=operations).step_by(3) {
        let out = copy(out.path());
        let ended = resumed(out.path(), &Way::Kill.shim(at));
        assert_eq!(ended.signal(), Some(SIGKILL), "operation {at} of {operations}");
        let record = model(out.path());
        let found = Record::<Checkpoint>::load(&record).unwrap_or_else(|e| panic!("{at}: {e}"));
        found.verify(&record).unwrap();
        assert_eq!(found.body, first.body, "operation {at}");
    }
}

const TRAINING: usize = 7;
const ENDLESS: &str = "nnu-plan -q --fingerprint {}/fingerprint.toml --recipe v2 --folds 2 --set planning.base_features=4 \
                       --set schedule.validation_iterations=1000000 --out {}/endless.toml";

/// What this test needs of a checkpoint: that it is one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Checkpoint {
    checkpoint: toml::Table,
}

impl Kind for Checkpoint {
    const KIND: &'static str = "checkpoint";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Sends SIGTERM once the program has said something and `wait` is over.
fn stop(mut command: Command, said: &str, wait: impl FnOnce()) -> std::process::ExitStatus {
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains(said) {
        if log.read_line(&mut seen).unwrap() == 0 {
            break;
        }
    }
    wait();
    signal(&child, "TERM");
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    child.wait().unwrap()
}

fn signal(child: &Child, name: &str) {
    // It may be gone already.
    let _ = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).output();
}

#[test]
fn a_program_that_waits_says_for_whom_and_can_be_stopped() {
    let world = world();
    let out = tempfile::tempdir().unwrap();
    let line = world.stages[2].line;
    assert!(line.starts_with("nnu-plan -q --fingerprint"), "{line}");
    // Stopped in its first write: it holds the lock.
    let log = out.path().join("operations");
    let list = [("SHIM_LOG", log.display().to_string())];
    assert!(world.command(line, &out.path().join("a"), &list).output().unwrap().status.success());
    let operations = std::fs::read_to_string(&log).unwrap();
    let write = operations.lines().position(|l| l.contains(" write ")).unwrap() + 1;
    let shim = [("SHIM_MODE", "stop".to_owned()), ("SHIM_AT", write.to_string())];
    let there = out.path().join("b");
    let first = world.command(line, &there, &shim).spawn().unwrap();
    let begun = Instant::now();
    while !there.join(".plan.toml.lock").exists() || !is_stopped(&first) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the first program never stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = format!("waiting for nnu-plan (process {})", first.id());
    let status = stop(world.command(line, &there, &[]), &said, || ());
    assert_eq!(status.code(), Some(130));
    let second = world.command(line, &there, &[]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    signal(&first, "CONT");
    let (first, second) = (first.wait_with_output().unwrap(), second.wait_with_output().unwrap());
    assert!(first.status.success() && second.status.success(), "{first:?} {second:?}");
    world.stages[2].compare(&there).unwrap();
}

fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

#[test]
fn of_two_trainings_in_one_folder_the_second_ends_at_once() {
    let world = world();
    let out = tempfile::tempdir().unwrap();
    let line = world.stages[TRAINING].line.replace(" -q", "");
    let long = format!("{line} --epochs 2 --iterations 100000");
    let mut first = world.command(&long, out.path(), &[]).spawn().unwrap();
    let mut log = BufReader::new(first.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("to train on") {
        assert_ne!(log.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    let second = world.command(&line, out.path(), &[]).output().unwrap();
    let said = stderr(&second);
    assert_eq!(second.status.code(), Some(75), "{said}");
    let who = format!("nnu-train (process {}) is at work on this output", first.id());
    assert!(said.contains(&who), "{said}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The kernel has freed the lock.
    let third = world.command(&line, out.path(), &[]).output().unwrap();
    assert!(third.status.success(), "{}", stderr(&third));
    world.stages[TRAINING].compare(out.path()).unwrap();
}

/// The disk is full for a while: the training waits with its checkpoint, not the other way round.
#[test]
fn a_training_outlives_a_full_disk() {
    let world = world();
    let stage = &world.stages[TRAINING];
    let out = tempfile::tempdir().unwrap();
    let log = out.path().join("operations");
    let list = [("SHIM_LOG", log.display().to_string())];
    assert!(world.command(stage.line, out.path(), &list).output().unwrap().status.success());
    let operations = std::fs::read_to_string(&log).unwrap();
    // The first epoch's checkpoint: from the first write on, five failures.
    let first = operations.lines().position(|l| l.contains(" write ")).unwrap() + 1;
    let out = tempfile::tempdir().unwrap();
    let mut shim = Way::Fail(ENOSPC).shim(first);
    shim.push(("SHIM_TIMES", "5".into()));
    let ended = world.command(stage.line, out.path(), &shim).output().unwrap();
    let said = stderr(&ended);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("the checkpoint before stays until the next is written"), "{said}");
    stage.compare(out.path()).unwrap();
}

/// `tests/kill.sh` calls it. Kills at random operations, every second one beside another process; a table at the end.
#[test]
#[ignore = "as many kills as KILLS says"]
fn many_kills_lose_nothing() {
    #[expect(clippy::disallowed_methods, reason = "the script's only argument")]
    let kills = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let stages = &world().stages;
    let mut rng = stage::rng(0, &[kills as u64]);
    // Killed alone, killed beside another, lost.
    let mut rows = vec![[0; 3]; stages.len()];
    let mut done = 0;
    while done < kills {
        let jobs: Vec<Job> = (0..(kills - done).min(64))
            .map(|i| {
                let stage = (done + i) % stages.len();
                let way = [Way::Kill, Way::KillBesideAnother][(done + i) / stages.len() % 2];
                (stage, way, rng.random_range(1..=stages[stage].operations))
            })
            .collect();
        for (&(stage, way, _), result) in jobs.iter().zip(all(&jobs)) {
            if let Err(lost) = &result {
                eprintln!("{lost}");
                rows[stage][2] += 1;
            }
            let killed = result != Ok(false);
            rows[stage][usize::from(way == Way::KillBesideAnother)] += usize::from(killed);
            done += usize::from(killed);
        }
    }
    let name = |line: &str| line.split(" -q").next().unwrap_or_default().to_owned();
    eprintln!(
        "| program | operations | killed | killed beside another | lost |\n|---|---|---|---|---|"
    );
    for (stage, [alone, beside, lost]) in stages.iter().zip(&rows) {
        let name = name(stage.line);
        eprintln!("| {name} | {} | {alone} | {beside} | {lost} |", stage.operations);
    }
    let [alone, beside, lost] = [0, 1, 2].map(|i| rows.iter().map(|row| row[i]).sum::<usize>());
    eprintln!("| all | | {alone} | {beside} | {lost} |");
    assert_eq!(lost, 0);
}
