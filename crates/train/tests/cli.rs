//! `nnu-train` as a user meets it: results, resumption, and one line for each way to get it wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Bench, load};

use artifact::model::{History, Model};
use artifact::{Commit, Provenance, Record};
use ndarray::Array4;
use std::process::Command;

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
fn devices_that_cannot_do_it_are_refused() {
    let bench = Bench::new();
    bench.refused(
        &["--device", "gpu"],
        2,
        &["nnu-train: error: --device gpu: unknown device, expected auto, cpu, cuda or cuda:N"],
    );
    if !net::Unit::available().contains(&net::Unit::Amx) {
        bench.refused(
            &["--device", "cpu", "--precision", "f32-fast"],
            2,
            &["nnu-train: error: --precision f32-fast: this CPU has no matrix unit (AMX with bfloat16); use \
               --precision f32 or auto"],
        );
    }
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
    let line = "nnu-train: error: batches/000000/image.npy: has shape [2, 1, 8, 8, 4], expected [2, 1, 8, 8, 8]";
    assert!(ended.code == 3 && ended.said.contains(line), "{}", ended.said);
}

/// Numbers of which no network makes anything, and how they are refused.
const SENSELESS: [(f32, &str); 3] = [
    (f32::NAN, "is NaN or infinite, expected numbers"),
    (f32::NEG_INFINITY, "is NaN or infinite, expected numbers"),
    (3e38, "is 3e38, expected -1e12 to 1e12"),
];

#[test]
fn senseless_numbers_in_a_case_are_its_fault_and_not_the_learning_rate_s() {
    for (number, line) in SENSELESS {
        for case in ["b", "c"] {
            // Numbers that are large only are refused once they make a loss that is none.
            if case == "c" && number.is_finite() {
                continue;
            }
            let bench = Bench::new();
            let path = bench.path("cases").join(case).join("case.toml");
            let record: artifact::case::Case = load(&path);
            let array = |name: &str| path.with_file_name(name);
            let mut image: Array4<f32> = artifact::npy::read(&array("image.npy")).unwrap();
            // All of a row, so that every patch shows one of them.
            image.slice_mut(ndarray::s![0, 5, .., 4]).fill(number);
            let label: ndarray::Array3<i16> = artifact::npy::read(&array("label.npy")).unwrap();
            let rows: ndarray::Array2<i32> = artifact::npy::read(&array("foreground.npy")).unwrap();
            let mut commit = Commit::begin(&path).unwrap();
            commit.npy("image.npy", &image.view()).unwrap();
            commit.npy("label.npy", &label.view()).unwrap();
            commit.npy("foreground.npy", &rows.view()).unwrap();
            commit.finish(&Provenance::default(), &record).unwrap();
            let ended = bench.train("model", &["--iterations", "20"]);
            let start = format!("nnu-train: error: cases/{case}/image.npy: value ");
            let fits = ended.said.contains(&start) && ended.said.contains(line);
            assert!(ended.code == 3 && fits, "{case}, {number}: {} {}", ended.code, ended.said);
        }
    }
}

#[test]
fn senseless_numbers_in_a_batch_are_its_fault_and_not_the_learning_rate_s() {
    for (number, line) in SENSELESS {
        let bench = Bench::new();
        write_batch(&bench, 0);
        write_batch_with(&bench, 1, |image, _| {
            image.slice_mut(ndarray::s![1, 0, 3, 3, ..;2]).fill(number);
        });
        let ended = bench.train("model", &["--batches", "batches", "--iterations", "4"]);
        let line = format!("nnu-train: error: batches/000001/image.npy: value 728 {line}");
        assert!(ended.code == 3 && ended.said.contains(&line), "{} {}", ended.code, ended.said);
    }
    let bench = Bench::new();
    write_batch_with(&bench, 0, |_, label| label[[1, 3, 3, 3]] = 2);
    let ended = bench.train("model", &["--batches", "batches"]);
    let line =
        "nnu-train: error: batches/000000/label.npy: has class index 2, expected less than 2";
    assert!(ended.code == 3 && ended.said.contains(line), "{}", ended.said);
}

/// Writes batch `index` of a spool that fits the plan.
fn write_batch(bench: &Bench, index: usize) {
    write_batch_with(bench, index, |_, _| ());
}

fn write_batch_with(
    bench: &Bench,
    index: usize,
    change: impl FnOnce(&mut ndarray::Array5<f32>, &mut Array4<i16>),
) {
    let record = artifact::batch::path(&bench.path("batches"), index);
    let mut image = ndarray::Array5::from_shape_fn((2, 1, 8, 8, 8), |(n, _, z, y, x)| {
        ((n + 3 * z + 5 * y + 7 * x + index) % 13) as f32
    });
    let mut label = image.index_axis(ndarray::Axis(1), 0).mapv(|v| i16::from(v > 6.0));
    change(&mut image, &mut label);
    let mut commit = Commit::begin(&record).unwrap();
    commit.npy("image.npy", &image.view()).unwrap();
    commit.npy("label.npy", &label.view()).unwrap();
    let batch = artifact::batch::BatchInfo { index, cases: vec![] };
    commit.finish(&Provenance::default(), &artifact::batch::Batch { batch }).unwrap();
}

#[test]
fn gaps_in_a_spool_and_batches_that_are_used_again_are_said() {
    let bench = Bench::new();
    let spool = ["--batches", "batches", "--epochs", "1", "--iterations", "3", "-q"];
    let warnings = |model: &str| {
        let ended = bench.train(model, &spool);
        assert_eq!(ended.code, 0, "{}", ended.said);
        ended.said
    };
    (0..3).for_each(|index| write_batch(&bench, index));
    assert_eq!(warnings("enough"), "");
    for index in [5, 4, 1_000_000] {
        write_batch(&bench, index);
    }
    // No batch's: another way of writing the number, no record in it, no number.
    for name in ["7", "000008", "batch"] {
        std::fs::create_dir_all(bench.path("batches").join(name)).unwrap();
    }
    assert_eq!(
        warnings("gap"),
        "nnu-train: warning: batches: batch 000003 is missing; 3 behind it, from 000004 on, aren't used\n"
    );
    std::fs::remove_dir_all(bench.path("batches/000001")).unwrap();
    assert_eq!(
        warnings("again"),
        "nnu-train: warning: batches: batch 000001 is missing; 4 behind it, from 000002 on, aren't used\n\
         nnu-train: warning: batches: 1 batches for 3 iterations; they are used again in turn\n"
    );
    std::fs::remove_dir_all(bench.path("batches/000000")).unwrap();
    let ended = bench.train("none", &spool);
    let line = "nnu-train: error: batches: batch 000000 is missing; 4 behind it, from 000002 on, aren't used, \
                expected 000000/batch.toml, 000001/…";
    assert!(ended.code == 3 && ended.said.starts_with(line), "{}", ended.said);
}

#[test]
fn batches_that_were_changed_are_refused() {
    for name in ["image.npy", "label.npy"] {
        let bench = Bench::new();
        (0..3).for_each(|index| write_batch(&bench, index));
        let file = bench.path("batches/000001").join(name);
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        Commit::file(&file, &bytes).unwrap();
        let ended = bench.train("model", &["--batches", "batches"]);
        let line = format!("nnu-train: error: batches/000001/{name}: hash is b3:");
        assert!(ended.code == 3 && ended.said.contains(&line), "{}", ended.said);
        assert!(!bench.path("model/model.toml").exists());
    }
}

/// Writes the record of batch `at` again, with this in it.
fn write_record(bench: &Bench, at: usize, index: usize, cases: &[&str], provenance: &Provenance) {
    let record = artifact::batch::path(&bench.path("batches"), at);
    let read = |name: &str| std::fs::read(record.with_file_name(name)).unwrap();
    let (image, label) = (read("image.npy"), read("label.npy"));
    let mut commit = Commit::begin(&record).unwrap();
    commit.bytes("image.npy", &image).unwrap();
    commit.bytes("label.npy", &label).unwrap();
    let cases = cases.iter().map(|id| (*id).to_string()).collect();
    let batch = artifact::batch::BatchInfo { index, cases };
    commit.finish(provenance, &artifact::batch::Batch { batch }).unwrap();
}

#[test]
fn batches_of_another_fold_place_or_plan_are_told_apart() {
    let bench = Bench::new();
    let spool = ["--batches", "batches", "--epochs", "1", "--iterations", "3", "-q"];
    (0..3).for_each(|index| write_batch(&bench, index));
    let unknown = Provenance::default();
    write_record(&bench, 1, 2, &[], &unknown);
    let ended = bench.train("model", &spool);
    let line =
        "nnu-train: error: batches/000001/batch.toml: batch.index = 2, but its folder says 1\n";
    assert!(ended.code == 3 && ended.said.starts_with(line), "{}", ended.said);
    write_record(&bench, 1, 1, &["a", "c"], &unknown);
    let ended = bench.train("model", &spool);
    let line = "nnu-train: error: batches/000001/batch.toml: batch.cases has c, expected none that fold 0 is validated on\n";
    assert!(ended.code == 3 && ended.said.starts_with(line), "{}", ended.said);
    assert!(!bench.path("model/plan.toml").exists());

    let plan = load::<artifact::plan::Plan>(&bench.path("plan.toml"));
    let configuration = plan.configuration("3d_fullres").unwrap();
    let own = augment::spool::plan_hash(&plan, configuration);
    for (model, hash, said) in [
        ("own", own.as_str(), ""),
        (
            "other",
            "b3:0",
            "nnu-train: warning: batches/000001/batch.toml: 1 of 3 batches were made by other rules than those of \
             plan.toml for 3d_fullres (patch, batch size, sampling, augmentation)\n",
        ),
    ] {
        write_record(&bench, 1, 1, &["a", "b"], &Provenance::default().input("plan", hash));
        let ended = bench.train(model, &spool);
        assert_eq!((ended.code, ended.said.as_str()), (0, said));
    }
}

#[test]
fn a_plan_that_is_no_training_s_copy_is_not_replaced() {
    let bench = Bench::new();
    let copy = bench.path("model/plan.toml");
    let text = std::fs::read(bench.path("plan.toml")).unwrap();
    let other = [text.as_slice(), b"# mine\n"].concat();
    Commit::file(&copy, &other).unwrap();
    let ended = bench.train("model", &[]);
    let line = "nnu-train: error: model/plan.toml: is another plan, and no training's copy, \
                expected nothing or what nnu-train made\n";
    assert!(ended.code == 3 && ended.said.contains(line), "{}", ended.said);
    assert_eq!(std::fs::read(&copy).unwrap(), other);
    // What a training left that was killed between its last files.
    Commit::file(&copy, &text).unwrap();
    bench.trained("model", &[]);
    // A training's own copy goes with its model, and with its checkpoint.
    Commit::file(&copy, &other).unwrap();
    std::fs::remove_file(bench.path("model/model.toml")).unwrap();
    assert_eq!(bench.trained("model", &[])["plan.toml"], text);
}

/// Removes what a training could go on from.
fn remove_checkpoints(bench: &Bench) {
    for entry in std::fs::read_dir(bench.path("model")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("checkpoint") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Refused with these words, and nothing in the folder changed.
fn keeps_the_model(bench: &Bench, more: &[&str], what: &str) {
    let files = || -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(bench.path("model")).unwrap().flatten();
        let read = |e: std::fs::DirEntry| {
            (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())
        };
        let mut files: Vec<_> = entries.map(read).collect();
        files.sort();
        files
    };
    let before = files();
    let ended = bench.train("model", more);
    let lines: Vec<&str> =
        ended.said.lines().filter(|l| l.contains("error") || l.contains("hint")).collect();
    let error = format!(
        "nnu-train: error: model/model.toml: {what}, expected nothing or what nnu-train made"
    );
    let hint = "  hint: give another --out, or remove this first; --force replaces it";
    assert_eq!((ended.code, lines), (3, vec![error.as_str(), hint]));
    assert!(files() == before, "the folder's files changed");
}

#[test]
fn a_model_of_another_training_is_not_replaced() {
    let bench = Bench::new();
    let before = bench.trained("model", &[]);
    remove_checkpoints(&bench);
    let again = bench.train("model", &[]);
    assert!(again.code == 0 && again.said.contains("up to date"), "{}", again.said);
    let what = "is of another training (settings, inputs or revisions) or broken, and no checkpoint of this one is here";
    keeps_the_model(&bench, &["--seed", "1"], what);
    keeps_the_model(&bench, &["--epochs", "3"], what);
    // What an older program made has no revisions, and isn't taken for this training's.
    let record = bench.path("model/model.toml");
    let text = std::fs::read_to_string(&record).unwrap();
    let mut old: toml::Table = text.parse().unwrap();
    old["provenance"].as_table_mut().unwrap().remove("revisions").unwrap();
    old["provenance"]["stage"] = "train 0.1.0".into();
    old["artifact"]["key"] = "b3:0".into();
    Commit::file(&record, old.to_string().as_bytes()).unwrap();
    keeps_the_model(&bench, &[], what);
    // Asked to, it is trained anew; stopped and without --force, that training would go on.
    let after = bench.trained("model", &["--seed", "1", "--force"]);
    assert_ne!(before["weights.npz"], after["weights.npz"]);
    // Files of the same training that are damaged are made again.
    remove_checkpoints(&bench);
    std::fs::remove_file(bench.path("model/weights.npz")).unwrap();
    let mended = bench.trained("model", &["--seed", "1"]);
    assert_eq!(mended["weights.npz"], after["weights.npz"]);
}

#[test]
fn a_model_that_another_program_made_is_not_replaced() {
    let makers =
        [("net", "is a model that nnu-net made"), ("", "is a model that no program of nnu made")];
    // A checkpoint that lies beside it is another training's, and doesn't give the model away.
    for ((stage, what), checkpoint) in makers.into_iter().flat_map(|m| [(m, false), (m, true)]) {
        let bench = Bench::new();
        bench.trained("model", &[]);
        if !checkpoint {
            remove_checkpoints(&bench);
        }
        let record = bench.path("model/model.toml");
        let text = std::fs::read_to_string(&record).unwrap();
        let mut foreign: toml::Table = text.parse().unwrap();
        foreign["provenance"]["stage"] = stage.into();
        Commit::file(&record, foreign.to_string().as_bytes()).unwrap();
        keeps_the_model(&bench, &[], what);
    }
    for (text, what) in [
        (
            "[artifact]\nkind = \"plan\"\nversion = 1\n",
            "is a plan record, which a model would replace",
        ),
        ("notes = \"mine\"\n", "is no record, which a model would replace"),
    ] {
        let bench = Bench::new();
        let record = bench.path("model/model.toml");
        Commit::file(&record, text.as_bytes()).unwrap();
        for more in [&[][..], &["--force"]] {
            let ended = bench.train("model", more);
            let line = format!("nnu-train: error: model/model.toml: {what}");
            assert!(ended.code == 3 && ended.said.contains(&line), "{}", ended.said);
        }
        assert_eq!(std::fs::read_to_string(&record).unwrap(), text);
    }
}

/// Whatever is wrong with a checkpoint: nothing can go on from it, and it isn't thrown away unasked.
#[test]
fn a_broken_checkpoint_says_how_to_start_again() {
    let bench = Bench::new();
    let sound = bench.trained("model", &[]);
    let record = String::from_utf8(sound["checkpoint.toml"].clone()).unwrap();
    let state = sound.keys().find(|name| name.ends_with(".npz") && name.starts_with("checkpoint"));
    let state = state.unwrap();
    let arrays = artifact::npz::read(&bench.path("model").join(state)).unwrap();
    // The record doesn't vouch for the state: what it holds is looked at.
    let unhashed = {
        let mut table: toml::Table = record.parse().unwrap();
        table["artifact"]["files"][state] = "".into();
        toml::to_string(&table).unwrap()
    };
    let without = |name: &str| {
        let kept: Vec<_> = arrays.iter().filter(|(n, _)| !n.starts_with(name)).cloned().collect();
        assert!(kept.len() < arrays.len());
        artifact::npz::encode(&kept)
    };
    let other = [arrays.clone(), vec![("other/a".into(), arrays[0].1.clone())]].concat();
    let cases: [(&str, Option<&[u8]>, &str); 8] = [
        ("", Some(&sound[state]), "checkpoint.toml: is empty, expected a record"),
        ("{ \"a\": 1 }", Some(&sound[state]), "checkpoint.toml: line 1"),
        (
            &record.replace("version = 1", "version = 7"),
            Some(&sound[state]),
            "checkpoint.toml: artifact.version = 7",
        ),
        (&record, Some(&sound[state][..100]), ".npz: hash is "),
        (&record, None, ".npz: missing, but "),
        (&unhashed, Some(&without("weights/")), ".npz: tensor "),
        (&unhashed, Some(&without("optimiser/")), ".npz: holds nothing of the optimiser"),
        (&unhashed, Some(&artifact::npz::encode(&other)), ".npz: holds an array other/a"),
    ];
    for (record, bytes, expected) in cases {
        Commit::file(&bench.path("model/checkpoint.toml"), record.as_bytes()).unwrap();
        let state = bench.path("model").join(state);
        match bytes {
            Some(bytes) => Commit::file(&state, bytes).unwrap(),
            None => std::fs::remove_file(&state).unwrap(),
        }
        let ended = bench.train("model", &["--epochs", "3"]);
        let at =
            ended.said.find("nnu-train: error: model/").unwrap_or_else(|| panic!("{}", ended.said));
        let mut lines = ended.said[at..].lines();
        assert!(ended.code == 3 && lines.next().unwrap().contains(expected), "{}", ended.said);
        let hint = "  hint: give another --out, or --force to start again from epoch 0";
        assert_eq!(lines.next(), Some(hint), "{}", ended.said);
    }
    bench.trained("model", &["--epochs", "3", "--force"]);
}

#[test]
fn a_checkpoint_with_numbers_that_no_training_comes_to_is_refused() {
    let bench = Bench::new();
    bench.trained("model", &[]);
    let file = bench.path("model/checkpoint.toml");
    let before: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    type Change = fn(&mut toml::Table);
    fn first(table: &mut toml::Table) -> &mut toml::Table {
        table["epochs"].as_array_mut().unwrap()[0].as_table_mut().unwrap()
    }
    let changes: [(Change, &str); 7] = [
        (
            |t| first(t)["pseudo_dice"][0] = 1e300.into(),
            "epochs[0].pseudo_dice = 1e300, expected 0 to 1",
        ),
        (
            |t| first(t)["pseudo_dice"][0] = (-0.1).into(),
            "epochs[0].pseudo_dice = -0.1, expected 0 to 1",
        ),
        (|t| first(t)["epoch"] = 1.into(), "epochs[0].epoch = 1, expected 0"),
        (
            |t| first(t)["train_loss"] = 1e300.into(),
            "epochs[0].train_loss = 1e300, expected -1e60 to 1e60",
        ),
        (
            |t| first(t)["learning_rate"] = f64::NAN.into(),
            "epochs[0].learning_rate = NaN, expected 0 to 1e30",
        ),
        (
            |t| t["schedule"]["learning_rate"] = (-1.0).into(),
            "schedule.learning_rate = -1e0, expected 0 to 1e30",
        ),
        (
            |t| t["checkpoint"]["iteration"] = i64::MAX.into(),
            "checkpoint.iteration = 9223372036854775807, expected at most 1000000000",
        ),
    ];
    for (change, line) in changes {
        let mut table = before.clone();
        change(&mut table);
        table["artifact"].as_table_mut().unwrap().remove("key");
        Commit::file(&file, toml::to_string(&table).unwrap().as_bytes()).unwrap();
        let ended = bench.train("model", &["--epochs", "3"]);
        let line = format!("nnu-train: error: model/checkpoint.toml: {line}");
        assert!(
            ended.code == 3 && ended.said.contains(&line),
            "{line}: {} {}",
            ended.code,
            ended.said
        );
    }
}
