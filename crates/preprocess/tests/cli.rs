//! The real binary on small data sets: what it writes, what it says, how it ends.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use artifact::case::OpenCase;
use artifact::image::{Reader, Turn, Volume};
use artifact::nifti::{Geometry, encode_image, encode_labels};
use artifact::plan::Plan;
use artifact::{Commit, Kind, Provenance};
use ndarray::{Array3, Array4, s};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Three phantoms and their plan in a folder of their own.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
            bench.write_case(id, i as f32);
        }
        let json = r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 4},
            "numTraining": 3, "file_ending": ".nii.gz"}"#;
        Commit::file(&bench.path("data/dataset.json"), json.as_bytes()).unwrap();
        bench.write_plan(&support::plan());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn image(&self, id: &str) -> PathBuf {
        self.path(&format!("data/imagesTr/{id}_0000.nii.gz"))
    }

    fn write_case(&self, id: &str, offset: f32) {
        let geometry = Geometry::plain([12, 16, 14], [1.0, 1.1, 0.9]);
        let mut image = Array4::from_shape_fn((1, 12, 16, 14), |(_, z, y, x)| {
            100.0 + offset + (z * 7 % 5) as f32 + ((y * x) % 11) as f32
        });
        image.slice_mut(s![.., .., 0..2, ..]).fill(0.0);
        let mut label = Array3::<i16>::zeros((12, 16, 14));
        label.slice_mut(s![3..8, 5..10, 4..9]).fill(1);
        label.slice_mut(s![6..10, 9..13, 7..12]).fill(4);
        let bytes = encode_image(image.view(), &geometry, true).unwrap();
        Commit::file(&self.image(id), &bytes).unwrap();
        let bytes = encode_labels(label.view(), &geometry, true).unwrap();
        Commit::file(&self.path(&format!("data/labelsTr/{id}.nii.gz")), &bytes).unwrap();
    }

    fn write_plan(&self, plan: &Plan) {
        let commit = Commit::begin(&self.path("plan.toml")).unwrap();
        commit.finish(&Provenance::default(), plan).unwrap();
    }

    fn run(&self, more: &[&str]) -> Ended {
        let fixed = ["--dataset", "data", "--plan", "plan.toml", "--out", "cases"];
        let configuration: &[&str] = if more.contains(&"--configuration") {
            &[]
        } else {
            &["--configuration", "3d_fullres"]
        };
        let output = Command::new(env!("CARGO_BIN_EXE_nnu-preprocess"))
            .current_dir(self.0.path())
            .args(fixed)
            .args(configuration)
            .args(more)
            .output()
            .unwrap();
        Ended::from(output)
    }

    /// Every file below the output folder.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path("cases")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

/// Exit code and what was said, without the line that tells time and memory.
struct Ended {
    code: i32,
    said: Vec<String>,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = String::from_utf8(output.stderr).unwrap();
        let said = text.lines().filter(|l| !l.contains(": done in ")).map(String::from).collect();
        assert!(output.stdout.is_empty());
        Self { code: output.status.code().unwrap(), said }
    }
}

#[track_caller]
fn assert_ended(ended: &Ended, code: i32, said: &[&str]) {
    assert_eq!(ended.said, said);
    assert_eq!(ended.code, code);
}

fn open(bench: &Bench, id: &str) -> OpenCase {
    OpenCase::open(&bench.path(&format!("cases/{id}/case.toml"))).unwrap()
}

/// The image, its voxels in another order, with a header that says where they lie.
fn stored(volume: &Volume, turn: Turn) -> Vec<u8> {
    let Volume { geometry: g, channels } = volume.clone().turned(turn);
    let geometry = Geometry::placed(g.shape, g.spacing_mm, g.origin_mm, g.direction);
    encode_image(channels.view(), &geometry, true).unwrap()
}

#[test]
fn readers_that_turn_make_one_case_of_any_voxel_order() {
    let (sin, cos) = 0.2f64.sin_cos();
    let bench = Bench::new();
    let mut plan = support::plan();
    plan.dataset.reader = Reader::SimpleItkRas;
    plan.geometry.transpose = [2, 0, 1];
    bench.write_plan(&plan);
    // The phantom's label, in an image that is tilted a little; x runs to right, y to anterior: nothing to turn.
    let turns = [
        (Turn::NONE, Turn::NONE),
        (Turn { axes: [2, 0, 1], flip: [true, false, true] }, Turn::NONE),
        (
            Turn { axes: [1, 2, 0], flip: [false, true, false] },
            Turn { axes: [0, 2, 1], flip: [true; 3] },
        ),
    ];
    for (id, (image_turn, label_turn)) in ["a", "b", "c"].into_iter().zip(turns) {
        bench.write_case(id, 0.0);
        let label = bench.path(&format!("data/labelsTr/{id}.nii.gz"));
        for (path, turn) in [(bench.image(id), image_turn), (label, label_turn)] {
            let mut volume = artifact::image::read(&path).unwrap();
            volume.geometry.origin_mm = [20.0, -30.0, 12.0];
            volume.geometry.direction = [[-cos, sin, 0.0], [-sin, -cos, 0.0], [0.0, 0.0, 1.0]];
            Commit::file(&path, &stored(&volume, turn)).unwrap();
        }
    }
    let json = std::fs::read_to_string(bench.path("data/dataset.json")).unwrap();
    let told = format!(
        "{}, \"overwrite_image_reader_writer\": \"SimpleITKIOWithReorient\"}}",
        json.trim_end().trim_end_matches('}')
    );
    Commit::file(&bench.path("data/dataset.json"), told.as_bytes()).unwrap();
    let ended = bench.run(&[]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 3 written to cases, 0 up to date"]);
    let [a, b, c] = ["a", "b", "c"].map(|id| open(&bench, id));
    assert!(a.label().unwrap().iter().any(|l| *l == 2));
    for (turn, case) in [(turns[1].0, b), (turns[2].0, c)] {
        assert!(case.image() == a.image() && case.label() == a.label());
        assert_eq!(case.foreground(), a.foreground());
        let (found, expected) = (&case.record.body.original, &a.record.body.original);
        assert_eq!(
            (found.crop_lower, found.crop_upper),
            (expected.crop_lower, expected.crop_upper)
        );
        assert_eq!(found.transposed_shape(), expected.transposed_shape());
        // From the file's axes to the untilted ones, then the plan's.
        assert_eq!(found.turn(), turn.inverse().then(expected.turn()));
        assert!(found.flip.iter().any(|flip| *flip));
        for body in [
            artifact::recipe::AnatomicalAxis::LeftRight,
            artifact::recipe::AnatomicalAxis::AnteriorPosterior,
            artifact::recipe::AnatomicalAxis::InferiorSuperior,
        ] {
            assert_eq!(found.anatomical_axis(body), expected.anatomical_axis(body));
        }
    }
    // dataset.json says otherwise: the plan goes before it, with a word.
    Commit::file(&bench.path("data/dataset.json"), json.as_bytes()).unwrap();
    let ended = bench.run(&[]);
    let warning = "nnu-preprocess: warning: data: images are read by SimpleITKIOWithReorient, as plan.toml says, although dataset.json says SimpleITKIO";
    assert_ended(&ended, 0, &[warning, "nnu-preprocess: cases: 0 written to cases, 3 up to date"]);
}

#[test]
fn files_that_lie_elsewhere_are_named() {
    let bench = Bench::new();
    let label = bench.path("data/labelsTr/a.nii.gz");
    let mut volume = artifact::image::read(&label).unwrap();
    volume.geometry.origin_mm[0] = 7.0;
    Commit::file(&label, &stored(&volume, Turn::NONE)).unwrap();
    let label = bench.path("data/labelsTr/b.nii.gz");
    volume.geometry.direction[1][1] = -1.0;
    Commit::file(&label, &stored(&volume, Turn::NONE)).unwrap();
    let ended = bench.run(&["--threads", "1"]);
    assert_eq!(ended.code, 0);
    let (warnings, rest): (Vec<_>, Vec<_>) =
        ended.said.iter().partition(|line| line.contains("warning: "));
    assert_eq!(rest, ["nnu-preprocess: cases: 3 written to cases, 0 up to date"]);
    let [a, b] = ["a lies elsewhere than", "b is turned against"].map(|how| {
        let (id, how) = how.split_once(' ').unwrap();
        format!(
            "data/labelsTr/{id}.nii.gz {how} data/imagesTr/{id}_0000.nii.gz: corners lie up to "
        )
    });
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().any(|line| line.contains(&a)), "{warnings:?}");
    assert!(warnings.iter().any(|line| line.contains(&b)), "{warnings:?}");
}

#[cfg(unix)]
#[test]
fn one_file_for_two_channels_is_refused_or_told() {
    let bench = Bench::new();
    let mut plan = support::plan();
    let second = artifact::plan::Channel { name: "T2".into(), ..plan.channels[0].clone() };
    plan.channels.push(second);
    for configuration in plan.configurations.values_mut() {
        configuration.network.input_channels +=
            usize::from(configuration.network.input_channels == 1);
    }
    bench.write_plan(&plan);
    let json = r#"{"channel_names": {"0": "MRI", "1": "T2"}, "labels": {"background": 0, "a": 1, "b": 4},
        "numTraining": 3, "file_ending": ".nii.gz"}"#;
    Commit::file(&bench.path("data/dataset.json"), json.as_bytes()).unwrap();
    let other = |id: &str| bench.path(&format!("data/imagesTr/{id}_0001.nii.gz"));
    for id in ["a", "b"] {
        std::fs::copy(bench.image(id), other(id)).unwrap();
    }
    std::fs::hard_link(bench.image("c"), other("c")).unwrap();
    let ended = bench.run(&["--threads", "1"]);
    let told = "nnu-preprocess: warning: data/imagesTr/c_0001.nii.gz is the same file as data/imagesTr/c_0000.nii.gz, by links: \
                two channels show one image";
    assert_eq!(ended.code, 0, "{:?}", ended.said);
    let warnings: Vec<_> = ended.said.iter().filter(|line| line.contains("warning")).collect();
    assert_eq!(warnings, [told]);
    std::fs::remove_file(other("a")).unwrap();
    std::os::unix::fs::symlink("a_0000.nii.gz", other("a")).unwrap();
    let ended = bench.run(&[]);
    assert_eq!(ended.code, 3);
    let refused = "data/imagesTr/a_0001.nii.gz: is a link to data/imagesTr/a_0000.nii.gz, another channel of the same case";
    assert!(ended.said[0].contains(refused), "{:?}", ended.said);
}

#[test]
fn a_data_set_becomes_cases_that_open() {
    let bench = Bench::new();
    let ended = bench.run(&[]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 3 written to cases, 0 up to date"]);
    let case = open(&bench, "b");
    let record = &case.record.body;
    assert_eq!(record.original.crop_lower, [0, 2, 0]);
    assert_eq!(record.original.crop_upper, [12, 16, 14]);
    // 12 / 2, 14 · 1.1 / 0.8 and 14 · 0.9 / 1.3 voxels.
    assert_eq!(record.case.shape, [6, 19, 10]);
    assert_eq!(record.case.spacing_mm, [2.0, 0.8, 1.3]);
    let label = case.label().unwrap();
    // Value 4 of the data set is class 2.
    assert!(label.iter().all(|l| (-1..=2).contains(l)));
    let foreground = case.foreground().unwrap();
    assert_eq!(foreground.nrows(), label.iter().filter(|&&l| l > 0).count());
    for row in foreground.rows() {
        let at = [row[1], row[2], row[3]].map(|v| usize::try_from(v).unwrap());
        assert_eq!(i32::from(label[at]), row[0]);
    }
}

#[test]
fn slices_keep_their_distance_in_2d() {
    let bench = Bench::new();
    let ended = bench.run(&["--configuration", "2d", "--case", "a"]);
    assert_eq!(ended.code, 0);
    let info = open(&bench, "a").record.body.case.clone();
    assert_eq!((info.shape, info.spacing_mm), ([12, 19, 10], [1.0, 0.8, 1.3]));
}

/// Two writers of one output would get in each other's way.
#[test]
fn a_case_that_is_named_twice_is_done_once() {
    let bench = Bench::new();
    let ended = bench.run(&["--case", "b", "--case", "a", "--case", "b", "--threads", "2"]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 2 written to cases, 0 up to date"]);
    assert_eq!(bench.files().len(), 8);
}

#[test]
fn threads_and_memory_do_not_change_a_byte() {
    let bench = Bench::new();
    bench.run(&["--threads", "1", "--memory", "0.0001"]);
    let alone = bench.files();
    assert_eq!(alone.len(), 12);
    let again = bench.run(&["--threads", "2", "--force"]);
    assert_ended(&again, 0, &["nnu-preprocess: cases: 3 written to cases, 0 up to date"]);
    assert!(alone == bench.files());
}

#[test]
fn a_case_that_takes_more_than_the_memory_is_named() {
    let bench = Bench::new();
    let mut ended = bench.run(&["--memory", "0.000001"]);
    ended.said.sort();
    let alone = |id| {
        format!(
            "nnu-preprocess: case {id} takes 0.000056 GiB, more than --memory 0.000001: done alone"
        )
    };
    let [a, b, c] = ["a", "b", "c"].map(alone);
    let written = "nnu-preprocess: cases: 3 written to cases, 0 up to date";
    assert_ended(&ended, 0, &[&a, &b, &c, written]);
    assert_ended(&bench.run(&[]), 0, &["nnu-preprocess: cases: 0 written to cases, 3 up to date"]);
}

#[test]
fn what_is_up_to_date_is_left_alone() {
    let bench = Bench::new();
    bench.run(&[]);
    let modified = |id: &str| {
        let path = bench.path(&format!("cases/{id}/case.toml"));
        std::fs::metadata(path).unwrap().modified().unwrap()
    };
    let before = ["a", "b", "c"].map(modified);
    bench.write_case("c", 9.0);
    let ended = bench.run(&[]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 1 written to cases, 2 up to date"]);
    let after = ["a", "b", "c"].map(modified);
    assert_eq!(before[..2], after[..2]);
    assert_ne!(before[2], after[2]);

    // The length of a training is no matter of the cases; the spline order is.
    let mut plan = support::plan();
    plan.recipe.schedule.epochs += 1;
    bench.write_plan(&plan);
    let ended = bench.run(&[]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 0 written to cases, 3 up to date"]);
    plan.recipe.preprocessing.image_order = 1;
    bench.write_plan(&plan);
    let ended = bench.run(&[]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 3 written to cases, 0 up to date"]);
}

#[test]
fn a_sibling_that_was_changed_is_made_again() {
    let bench = Bench::new();
    bench.run(&[]);
    let whole = bench.files();
    let mut bytes = whole[&bench.path("cases/a/image.npy")].clone();
    *bytes.last_mut().unwrap() ^= 1;
    Commit::file(&bench.path("cases/a/image.npy"), &bytes).unwrap();
    let ended = bench.run(&[]);
    assert_ended(&ended, 0, &["nnu-preprocess: cases: 1 written to cases, 2 up to date"]);
    assert!(whole == bench.files());
}

#[test]
fn a_failed_case_is_named_and_stops_no_other() {
    let bench = Bench::new();
    let bytes = std::fs::read(bench.image("b")).unwrap();
    Commit::file(&bench.image("b"), &bytes[..bytes.len() / 2]).unwrap();
    let ended = bench.run(&[]);
    assert_eq!(ended.code, 3);
    let b = "nnu-preprocess: error: case b: data/imagesTr/b_0000.nii.gz: ";
    assert!(ended.said[0].starts_with(b), "{:?}", ended.said);
    let rest: Vec<_> =
        ended.said.iter().filter(|l| !l.starts_with(b) && !l.contains("hint:")).collect();
    assert_eq!(
        rest,
        [
            "nnu-preprocess: cases: 2 written to cases, 0 up to date",
            "nnu-preprocess: error: 1 of 3 cases failed: b"
        ]
    );
    open(&bench, "a");
    open(&bench, "c");
    assert!(!bench.path("cases/b").join("case.toml").exists());
}

#[test]
fn an_undeclared_label_value_is_named() {
    let bench = Bench::new();
    let geometry = Geometry::plain([12, 16, 14], [1.0, 1.1, 0.9]);
    let mut label = Array3::<i16>::zeros((12, 16, 14));
    label[[1, 2, 3]] = 3;
    let bytes = encode_labels(label.view(), &geometry, true).unwrap();
    Commit::file(&bench.path("data/labelsTr/a.nii.gz"), &bytes).unwrap();
    let ended = bench.run(&["--case", "a"]);
    assert_ended(
        &ended,
        3,
        &[
            "nnu-preprocess: error: case a: data/labelsTr/a.nii.gz: contains the value 3, expected one of [0, 1, 4]",
            "nnu-preprocess: cases: 0 written to cases, 0 up to date",
            "nnu-preprocess: error: 1 of 1 cases failed: a",
        ],
    );
}

#[test]
fn a_label_on_another_grid_is_refused() {
    let bench = Bench::new();
    let geometry = Geometry::plain([12, 16, 13], [1.0, 1.1, 0.9]);
    let bytes = encode_labels(Array3::<i16>::zeros((12, 16, 13)).view(), &geometry, true).unwrap();
    Commit::file(&bench.path("data/labelsTr/a.nii.gz"), &bytes).unwrap();
    let ended = bench.run(&["--case", "a", "-q"]);
    assert_ended(
        &ended,
        3,
        &[
            "nnu-preprocess: error: case a: data/labelsTr/a.nii.gz: shape [12, 16, 13], expected [12, 16, 14] (z, y, x) as in data/imagesTr/a_0000.nii.gz",
            "nnu-preprocess: error: 1 of 1 cases failed: a",
        ],
    );
}

#[test]
fn a_voxel_that_is_no_number_is_refused() {
    let bench = Bench::new();
    let geometry = Geometry::plain([12, 16, 14], [1.0, 1.1, 0.9]);
    let mut image = Array4::<f32>::ones((1, 12, 16, 14));
    image[[0, 3, 2, 1]] = f32::NAN;
    let bytes = encode_image(image.view(), &geometry, true).unwrap();
    Commit::file(&bench.image("a"), &bytes).unwrap();
    let ended = bench.run(&["--case", "a", "-q"]);
    assert_ended(
        &ended,
        3,
        &[
            "nnu-preprocess: error: case a: channel MRI is NaN at voxel (3, 2, 1) (z, y, x), expected finite numbers",
            "nnu-preprocess: error: 1 of 1 cases failed: a",
        ],
    );
}

#[test]
fn a_missing_image_is_named() {
    let bench = Bench::new();
    std::fs::remove_file(bench.image("c")).unwrap();
    let ended = bench.run(&["-q"]);
    assert_eq!(ended.code, 3);
    assert!(
        ended.said[0]
            .starts_with("nnu-preprocess: error: case c: data/imagesTr/c_0000.nii.gz: cannot read"),
        "{:?}",
        ended.said
    );
    assert_eq!(ended.said.last().unwrap(), "nnu-preprocess: error: 1 of 3 cases failed: c");
}

#[test]
fn a_test_case_with_two_files_of_a_channel_stops_nobody_else() {
    let bench = Bench::new();
    let bytes = std::fs::read(bench.image("a")).unwrap();
    for ending in [".nii", ".nii.gz"] {
        Commit::file(&bench.path(&format!("data/imagesTs/t_0000{ending}")), &bytes).unwrap();
    }
    assert_eq!(bench.run(&[]).code, 0);
    let ended = bench.run(&["--case", "t", "--case", "a"]);
    assert_eq!(ended.code, 3);
    let refused = "nnu-preprocess: error: case t: data/imagesTs/t_0000.nii: and data/imagesTs/t_0000.nii.gz are both";
    assert!(ended.said[0].starts_with(refused), "{:?}", ended.said);
    assert_eq!(ended.said.last().unwrap(), "nnu-preprocess: error: 1 of 2 cases failed: t");
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_fails_alone() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let odd = std::ffi::OsStr::from_bytes(b"d\xff_0000.nii.gz");
    std::fs::copy(bench.image("a"), bench.path("data/imagesTr").join(odd)).unwrap();
    let ended = bench.run(&[]);
    assert_eq!(ended.code, 3);
    let [error, hint, summary, last] = &ended.said[..] else { panic!("{:?}", ended.said) };
    assert!(error.starts_with("nnu-preprocess: error: data/imagesTr/d"), "{error}");
    assert!(error.contains("_0000.nii.gz: has a name that is not UTF-8"), "{error}");
    assert_eq!(hint, "  hint: rename the file");
    assert_eq!(summary, "nnu-preprocess: cases: 3 written to cases, 0 up to date");
    assert!(last.starts_with("nnu-preprocess: error: 1 of 4 cases failed: d"), "{last}");
    // Nobody asked for it.
    assert_eq!(bench.run(&["--case", "a"]).code, 0);
}

#[test]
fn a_case_without_label_has_an_image_only() {
    let bench = Bench::new();
    let bytes = std::fs::read(bench.image("a")).unwrap();
    Commit::file(&bench.path("data/imagesTs/t_0000.nii.gz"), &bytes).unwrap();
    let mut plan = support::plan();
    plan.channels[0].normalisation = artifact::plan::Normalisation::ZScoreMasked;
    bench.write_plan(&plan);
    assert_eq!(bench.run(&["--case", "t"]).code, 0);
    assert_eq!(bench.run(&["--case", "a"]).code, 0);
    let (test, training) = (open(&bench, "t"), open(&bench, "a"));
    assert!(test.label().is_none() && test.foreground().is_none());
    assert_eq!(test.image(), training.image());
    let mut names: Vec<_> =
        std::fs::read_dir(bench.path("cases/t")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["case.toml", "image.npy"]);
}

#[test]
fn a_wrong_command_line_says_what_there_is() {
    let bench = Bench::new();
    let ended = bench.run(&["--configuration", "3d"]);
    assert_ended(
        &ended,
        3,
        &[
            "nnu-preprocess: error: plan.toml: configuration \"3d\" is not planned, expected one of: 2d, 3d_fullres",
        ],
    );
    let ended = bench.run(&["--case", "d"]);
    assert_ended(&ended, 3, &["nnu-preprocess: error: data: has no case d"]);
    let ended = bench.run(&["--memory", "0"]);
    assert_ended(&ended, 2, &["nnu-preprocess: error: --memory 0, expected a positive number"]);
    assert_eq!(bench.run(&["--order", "3"]).code, 2);
}

#[test]
fn a_missing_or_foreign_plan_is_refused() {
    let bench = Bench::new();
    let path = bench.path("plan.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let version = format!("version = {}", Plan::VERSION);
    Commit::file(&path, text.replacen(&version, "version = 7", 1).as_bytes()).unwrap();
    let ended = bench.run(&[]);
    let expected = format!(
        "nnu-preprocess: error: plan.toml: artifact.version = 7, expected {}",
        Plan::VERSION
    );
    assert_ended(
        &ended,
        3,
        &[expected.as_str(), "  hint: this plan was written by another version; make it again"],
    );
    std::fs::remove_file(&path).unwrap();
    let ended = bench.run(&[]);
    assert_eq!(ended.code, 3);
    assert!(
        ended.said[0].starts_with("nnu-preprocess: error: plan.toml: cannot read this plan record"),
        "{:?}",
        ended.said
    );
    let mut plan = support::plan();
    plan.channels.push(plan.channels[0].clone());
    bench.write_plan(&plan);
    let ended = bench.run(&[]);
    assert_ended(
        &ended,
        3,
        &[
            "nnu-preprocess: error: data: has 1 channels, but plan.toml expects 2",
            "  hint: give the plan that was made for this data set",
        ],
    );
}

#[test]
fn an_output_folder_that_cannot_be_made_fails_every_case() {
    let bench = Bench::new();
    Commit::file(&bench.path("cases"), b"a file").unwrap();
    let ended = bench.run(&["-q", "--case", "a"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended.said[0]
            .starts_with("nnu-preprocess: error: case a: cases/a: cannot make this folder")
    );
    assert_eq!(ended.said[1], "nnu-preprocess: error: 1 of 1 cases failed: a");
}

#[test]
fn io_lists_what_is_read_and_written() {
    let output = Command::new(env!("CARGO_BIN_EXE_nnu-preprocess")).arg("--io").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "reads --dataset dataset\nreads --plan plan 3\nwrites --out/CASE/case.toml case 1\n"
    );
}

/// A case of 12 × 16 × 14 voxels whose header says these spacings (mm: unit 2, metres: 1, micrometres: 3).
fn write_spaced(bench: &Bench, id: &str, mm: f32, unit: u8) {
    bench.write_case(id, 0.0);
    for path in [bench.image(id), bench.path(&format!("data/labelsTr/{id}.nii.gz"))] {
        let volume = artifact::nifti::read(&path).unwrap();
        let mut geometry = Geometry::plain([12, 16, 14], [f64::from(mm); 3]);
        geometry.header[123] = unit;
        let bytes = encode_image(volume.channels.view(), &geometry, true).unwrap();
        Commit::file(&path, &bytes).unwrap();
    }
}

fn describe(bench: &Bench, cases: usize) {
    let json = format!(
        r#"{{"channel_names": {{"0": "MRI"}}, "labels": {{"background": 0, "a": 1, "b": 4}},
            "numTraining": {cases}, "file_ending": ".nii.gz"}}"#
    );
    Commit::file(&bench.path("data/dataset.json"), json.as_bytes()).unwrap();
}

#[test]
fn cases_that_no_memory_holds_fail_alone() {
    let bench = Bench::new();
    // Beyond all memory, beyond 2^36 voxels, beyond every number; and files that are no images.
    let spaced = [("a_metre", 1.0, 1), ("a_large", 1e6, 2), ("a_huge", 1e30, 2)];
    for (id, mm, unit) in spaced {
        write_spaced(&bench, id, mm, unit);
    }
    bench.write_case("a_none", 0.0);
    Commit::file(&bench.image("a_none"), b"").unwrap();
    bench.write_case("a_cut", 0.0);
    let bytes = std::fs::read(bench.image("a_cut")).unwrap();
    Commit::file(&bench.image("a_cut"), &bytes[..bytes.len() / 2]).unwrap();
    describe(&bench, 8);
    let ended = bench.run(&[]);
    let said = ended.said.join("\n");
    assert_eq!(ended.code, 3, "{said}");
    for id in ["a_metre", "a_large", "a_huge"] {
        let line = ended.said.iter().find(|l| l.contains(&format!("error: case {id}: "))).unwrap();
        let parts = [" voxels of ", " mm become ", " GiB"];
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    let last = ended.said.iter().rev().find(|l| l.contains("cases failed")).unwrap();
    assert!(last.contains("a_cut, a_huge, a_large, a_metre, a_none"), "{last}");
    for id in ["a", "b", "c"] {
        open(&bench, id);
    }
    // Nothing half-written of the others.
    for path in bench.files().keys() {
        let case = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        assert!(["a", "b", "c"].contains(&&*case), "{}", path.display());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_case_beyond_the_process_s_own_limit_fails_alone() {
    let bench = Bench::new();
    write_spaced(&bench, "a_big", 60.0, 2);
    describe(&bench, 4);
    let line = format!(
        "ulimit -v 2000000; exec {} -q --threads 2 --dataset data --plan plan.toml --configuration 3d_fullres --out cases",
        env!("CARGO_BIN_EXE_nnu-preprocess")
    );
    let output = Command::new("sh").current_dir(bench.0.path()).args(["-c", &line]).output();
    let ended = Ended::from(output.unwrap());
    assert_eq!(ended.code, 3, "{:?}", ended.said);
    let error = ended.said.iter().find(|l| l.contains("case a_big")).unwrap();
    assert!(error.contains("needs about ") && error.contains(" GiB of memory"), "{error}");
    for id in ["a", "b", "c"] {
        open(&bench, id);
    }
}

#[test]
fn an_axis_that_vanishes_and_a_volume_that_grows_are_said() {
    let bench = Bench::new();
    write_spaced(&bench, "tiny", 1.0, 3);
    write_spaced(&bench, "grown", 6.0, 2);
    describe(&bench, 5);
    let ended = bench.run(&[]);
    assert_eq!(ended.code, 0, "{:?}", ended.said);
    let warnings: Vec<&String> = ended.said.iter().filter(|l| l.contains("warning")).collect();
    assert_eq!(warnings.len(), 2, "{:?}", ended.said);
    assert!(warnings.iter().any(|w| w.contains("case tiny: ")
        && w.contains("become 1 × 1 × 1 of")
        && w.contains("almost nothing is left of an axis")));
    assert!(warnings.iter().any(|w| w.contains("case grown: ") && w.contains("times as many")));
}

/// The second stage of a cascade, for one.
#[test]
fn a_configuration_that_uses_another_s_cases_has_none_of_its_own() {
    let bench = Bench::new();
    let mut plan = support::plan();
    let mut again = plan.configurations["3d_fullres"].clone();
    again.cases_from = Some("3d_fullres".into());
    plan.configurations.insert("3d_again".into(), again);
    bench.write_plan(&plan);
    assert_ended(
        &bench.run(&["--configuration", "3d_again"]),
        2,
        &[
            "nnu-preprocess: error: --configuration 3d_again uses the cases of 3d_fullres, and has none of its own",
            "  hint: --configuration 3d_fullres writes them, once for both",
        ],
    );
    assert!(!bench.path("cases").exists());
}
