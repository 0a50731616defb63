//! The real binary: spool, preview, exit codes, exact messages.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/previous.rs"]
mod previous;
mod support;

use artifact::splits::{Fold, Splits};
use artifact::{Commit, Provenance};
use previous::{info, with_cascade, write_previous};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{phantom, plan, write_case};
use tempfile::TempDir;

/// A folder with plan.toml, splits.toml and four cases.
fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let save = Provenance::default();
    let plan = with_cascade(plan([16, 24, 20], 3, 1));
    Commit::begin(&folder.path().join("plan.toml")).unwrap().finish(&save, &plan).unwrap();
    let ids = |numbers: &[usize]| numbers.iter().map(|n| format!("case_{n}")).collect();
    let folds = vec![
        Fold { train: ids(&[0, 1, 2]), validation: ids(&[3]) },
        Fold { train: ids(&[1, 2, 3]), validation: ids(&[0]) },
    ];
    let splits = Commit::begin(&folder.path().join("splits.toml")).unwrap();
    splits.finish(&save, &Splits { folds }).unwrap();
    for n in 0..4 {
        let (image, label) = phantom([18 + n, 30, 22], 1, n as u64, false);
        write_case(&folder.path().join("cases"), &format!("case_{n}"), &image, Some(&label));
    }
    folder
}

/// Runs in `folder` with the inputs of fold 0 and these further words.
fn augment(folder: &Path, words: &[&str]) -> Output {
    let mut all = vec!["--cases", "cases", "--plan", "plan.toml", "--configuration", "3d_fullres"];
    all.extend(["--fold", "0"]);
    all.extend(words);
    run(folder, &all)
}

fn run(folder: &Path, words: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_nnu-augment");
    Command::new(binary).args(words).current_dir(folder).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn batch_file(folder: &Path, index: usize, name: &str) -> PathBuf {
    folder.join(format!("batches/{index:06}/{name}"))
}

/// Bytes of all files of the first `n` batches.
fn bytes(folder: &Path, n: usize) -> Vec<Vec<u8>> {
    let names = ["batch.toml", "image.npy", "label.npy"];
    let files = (0..n).flat_map(|i| names.map(|name| batch_file(folder, i, name)));
    files.map(|path| std::fs::read(path).unwrap()).collect()
}

const SPOOL: [&str; 4] = ["--batches", "3", "--out", "batches"];

#[test]
fn a_spool_is_written_verified_and_not_written_again() {
    let folder = project();
    let first = augment(folder.path(), &SPOOL);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    for index in 0..3 {
        let path = batch_file(folder.path(), index, "batch.toml");
        let (record, image, label) = artifact::batch::read(&path).unwrap();
        record.verify(&path).unwrap();
        assert_eq!(record.body.batch.index, index);
        assert_eq!(record.body.batch.cases.len(), 3);
        assert!(record.body.batch.cases.iter().all(|id| id != "case_3"), "a validation case");
        assert_eq!((image.dim(), label.dim()), ((3, 1, 16, 24, 20), (3, 16, 24, 20)));
        assert!(label.iter().all(|c| (0..3).contains(c)) && label.iter().any(|&c| c > 0));
    }
    let before = bytes(folder.path(), 3);
    let changed = || {
        std::fs::metadata(batch_file(folder.path(), 1, "batch.toml")).unwrap().modified().unwrap()
    };
    let time = changed();
    let second = augment(folder.path(), &SPOOL);
    assert_eq!(second.status.code(), Some(0));
    assert!(
        stderr(&second).contains("batches/000002/batch.toml is up to date"),
        "{}",
        stderr(&second)
    );
    assert_eq!(changed(), time);
    assert_eq!(bytes(folder.path(), 3), before);
}

#[test]
fn an_incomplete_or_damaged_spool_is_completed_to_the_same_bytes() {
    let folder = project();
    augment(folder.path(), &SPOOL);
    let before = bytes(folder.path(), 3);
    std::fs::remove_file(batch_file(folder.path(), 0, "batch.toml")).unwrap();
    std::fs::remove_dir_all(folder.path().join("batches/000001")).unwrap();
    let damaged = batch_file(folder.path(), 2, "label.npy");
    let mut label = std::fs::read(&damaged).unwrap();
    *label.last_mut().unwrap() ^= 1;
    #[expect(clippy::disallowed_methods, reason = "the test damages a file on purpose")]
    std::fs::write(&damaged, label).unwrap();
    let again = augment(folder.path(), &SPOOL);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(!stderr(&again).contains("up to date"), "{}", stderr(&again));
    assert_eq!(bytes(folder.path(), 3), before);
}

#[test]
fn threads_do_not_change_the_bytes_but_the_seed_does() {
    let folder = project();
    augment(folder.path(), &[&SPOOL[..], &["--threads", "1"]].concat());
    let one = bytes(folder.path(), 3);
    augment(folder.path(), &[&SPOOL[..], &["--threads", "4", "--force"]].concat());
    assert_eq!(bytes(folder.path(), 3), one);
    let other = augment(folder.path(), &[&SPOOL[..], &["--seed", "1"]].concat());
    assert!(!stderr(&other).contains("up to date"), "{}", stderr(&other));
    assert_ne!(bytes(folder.path(), 3), one);
}

#[test]
fn a_preview_is_a_picture_of_originals_and_versions() {
    let folder = project();
    let output = augment(folder.path(), &["--preview", "pictures/sheet.png"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let png = std::fs::read(folder.path().join("pictures/sheet.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let (width, height) = (reader.info().width, reader.info().height);
    assert!(width > 6 * 216 && height > 5 * 240, "{width} × {height}");
    for colour in &stage::picture::PALETTE[..2] {
        let count = pixels.chunks(3).filter(|p| p == colour).count();
        assert!(count > 1000, "outlines of colour {colour:?}: {count} pixels");
    }
    assert!(!folder.path().join("batches").exists());
}

#[test]
fn the_command_line_is_checked() {
    let folder = project();
    let nothing = augment(folder.path(), &[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("--out <DIR>"), "{}", stderr(&nothing));
    assert_eq!(augment(folder.path(), &["--out", "batches"]).status.code(), Some(2));
    assert_eq!(augment(folder.path(), &["--batches", "3"]).status.code(), Some(2));
    let unknown = augment(folder.path(), &["--batchs", "3"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("a similar argument exists: '--batches'"),
        "{}",
        stderr(&unknown)
    );
    let words = [
        "--cases",
        "cases",
        "--plan",
        "plan.toml",
        "--configuration",
        "3d_fullres",
        "--fold",
        "2",
        "--preview",
        "sheet.png",
    ];
    let fold = run(folder.path(), &words);
    assert_eq!(fold.status.code(), Some(2));
    assert_eq!(stderr(&fold), "nnu-augment: error: --fold 2, but splits.toml has folds 0 to 1\n");
}

#[test]
fn inputs_that_are_missing_or_do_not_fit_end_with_code_3() {
    let folder = project();
    for case in ["case_1", "case_2"] {
        std::fs::remove_dir_all(folder.path().join("cases").join(case)).unwrap();
    }
    let missing = augment(folder.path(), &SPOOL);
    assert_eq!(missing.status.code(), Some(3));
    assert_eq!(
        stderr(&missing),
        "nnu-augment: error: cases: 2 of 3 cases are missing, first case_1 (cases/case_1/case.toml)\n  \
         hint: run nnu-preprocess for this configuration; cases that are there are kept\n"
    );
    let (image, label) = phantom([18, 30, 22], 2, 1, false);
    for case in ["case_1", "case_2"] {
        write_case(&folder.path().join("cases"), case, &image, Some(&label));
    }
    let channels = augment(folder.path(), &SPOOL);
    assert_eq!(channels.status.code(), Some(3));
    assert_eq!(
        stderr(&channels),
        "nnu-augment: error: case case_1: channels = 2, expected 1 (network.input_channels)\n  \
         hint: this case was preprocessed for another plan; re-run nnu-preprocess for it\n"
    );
    let words = [
        "--cases",
        "cases",
        "--plan",
        "plan.toml",
        "--configuration",
        "2d",
        "--fold",
        "0",
        "--preview",
        "sheet.png",
    ];
    let unplanned = run(folder.path(), &words);
    assert_eq!(unplanned.status.code(), Some(3));
    assert_eq!(
        stderr(&unplanned),
        "nnu-augment: error: plan.toml: configuration \"2d\" is not planned, expected one of: 3d_cascade_fullres, 3d_fullres\n"
    );
    let splits = augment(folder.path(), &["--preview", "sheet.png", "--splits", "plan.toml"]);
    assert_eq!(splits.status.code(), Some(3));
    assert_eq!(
        stderr(&splits),
        "nnu-augment: error: plan.toml: artifact.kind = \"plan\", expected \"splits\"\n"
    );
}

#[test]
fn a_cascade_takes_its_first_stage_s_predictions() {
    let folder = project();
    let words = [
        &["--cases", "cases", "--plan", "plan.toml", "--configuration", "3d_cascade_fullres"][..],
        &["--fold", "0", "--preview", "sheet.png", "--previous", "fold_1", "--previous", "fold_2"],
        &SPOOL,
    ]
    .concat();
    for n in 0..2 {
        let classes = phantom([18 + n, 30, 22], 1, n as u64, false).1;
        let fold = folder.path().join(format!("fold_{}", n + 1));
        write_previous(&fold, info(&format!("case_{n}"), &classes), &classes);
    }
    let missing = run(folder.path(), &words);
    assert_eq!(missing.status.code(), Some(3));
    assert_eq!(
        stderr(&missing),
        "nnu-augment: error: fold_1, fold_2: the previous stage's prediction is missing for 1 of 3 cases, \
         first case_2\n  hint: give --previous for every fold of the first stage: the folders that nnu-infer \
         --validation --next-stage wrote\n"
    );
    let classes = phantom([20, 30, 22], 1, 2, false).1;
    let write =
        |classes| write_previous(&folder.path().join("fold_2"), info("case_2", classes), classes);
    write(&classes);
    let written = run(folder.path(), &words);
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    assert!(folder.path().join("sheet.png").is_file());
    let image = || artifact::batch::read(&batch_file(folder.path(), 0, "batch.toml")).unwrap().1;
    let before = image();
    assert_eq!(before.dim(), (3, 3, 16, 24, 20));
    let channels = before.slice(ndarray::s![.., 1.., .., .., ..]);
    assert!(channels.iter().all(|&v| v == 0.0 || v == 1.0) && channels.iter().any(|&v| v == 1.0));
    assert!(stderr(&run(folder.path(), &words)).contains("is up to date"));
    // Another prediction makes other batches.
    write(&ndarray::Array3::zeros((20, 30, 22)));
    let again = run(folder.path(), &words);
    assert!(!stderr(&again).contains("is up to date"), "{}", stderr(&again));
    let alone = augment(folder.path(), &[&SPOOL[..], &["--previous", "fold_1"]].concat());
    assert_eq!(alone.status.code(), Some(3));
    let of_another = "3d_lowres";
    let mut case: String =
        std::fs::read_to_string(folder.path().join("cases/case_0/case.toml")).unwrap();
    case = case
        .replace("configuration = \"3d_fullres\"", &format!("configuration = \"{of_another}\""));
    #[expect(clippy::disallowed_methods, reason = "the test changes a case on purpose")]
    std::fs::write(folder.path().join("cases/case_0/case.toml"), case).unwrap();
    assert_eq!(
        stderr(&run(folder.path(), &words)),
        "nnu-augment: error: cases/case_0/case.toml: case.configuration = \"3d_lowres\", expected \
         \"3d_fullres\"\n  hint: --cases takes the folder that nnu-preprocess wrote for 3d_fullres\n"
    );
}

#[test]
fn an_unwritable_output_ends_with_code_1() {
    let folder = project();
    // A file where the folder should be: refused for every user, root too.
    #[expect(clippy::disallowed_methods, reason = "the test puts an obstacle")]
    std::fs::write(folder.path().join("batches"), "").unwrap();
    let output = augment(folder.path(), &SPOOL);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output)
            .starts_with("nnu-augment: error: batches/000000: cannot make this folder: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn io_lists_what_is_read_and_written() {
    let output = run(Path::new("."), &["--io"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "reads --plan plan 3\nreads --splits splits 1\nreads --cases case 1\n\
         reads --previous previous 1\nwrites --out batch 1\n\
         writes --preview png\n"
    );
}

#[test]
fn cases_and_predictions_that_were_changed_are_refused() {
    for name in ["image.npy", "label.npy", "foreground.npy"] {
        let folder = project();
        let file = folder.path().join("cases/case_1").join(name);
        let mut bytes = std::fs::read(&file).unwrap();
        // The least bit of the last number: it stays one that could be there.
        let last = bytes.len() - if name == "label.npy" { 2 } else { 4 };
        bytes[last] ^= 1;
        Commit::file(&file, &bytes).unwrap();
        for what in [&SPOOL[..], &["--preview", "sheet.png"]] {
            let output = augment(folder.path(), what);
            let line = format!("nnu-augment: error: cases/case_1/{name}: hash is b3:");
            assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
            assert!(stderr(&output).contains(&line), "{}", stderr(&output));
        }
        assert!(!folder.path().join("batches").exists());
    }
}

/// Nothing is written that nobody could read.
#[test]
fn a_case_without_sense_makes_no_batch() {
    for (number, line) in [
        (f32::NAN, "value 0 is NaN or infinite, expected numbers"),
        (f32::MAX, "value 0 is 3.4028235e38, expected -1e12 to 1e12"),
    ] {
        let folder = project();
        let (mut image, label) = phantom([18, 30, 22], 1, 0, false);
        image.fill(number);
        write_case(&folder.path().join("cases"), "case_1", &image, Some(&label));
        let output = augment(folder.path(), &["--batches", "12", "--out", "batches"]);
        let line = format!("nnu-augment: error: cases/case_1/image.npy: {line}");
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(stderr(&output).contains(&line), "{}", stderr(&output));
        for index in 0..12 {
            let image = batch_file(folder.path(), index, "image.npy");
            let written = artifact::npy::read::<f32, ndarray::Ix5>(&image);
            assert!(written.is_err() || written.unwrap().iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn batches_of_a_longer_spool_before_are_said() {
    let folder = project();
    assert!(augment(folder.path(), &SPOOL).status.success());
    let shorter = augment(folder.path(), &["--batches", "1", "--out", "batches", "-q"]);
    assert_eq!(shorter.status.code(), Some(0));
    assert_eq!(
        stderr(&shorter),
        "nnu-augment: warning: batches: holds batch 000001 of an earlier call, beyond the 1 asked for; nnu-train \
         would use it too\n"
    );
}
