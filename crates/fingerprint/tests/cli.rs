//! The real binary: what it writes, what it says, how it exits.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::Record;
use artifact::fingerprint::Fingerprint;
use artifact::nifti::{Geometry, encode_image, encode_labels};
use ndarray::{Array3, Array4, s};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const SHAPE: [usize; 3] = [6, 7, 8];

/// A data set of two channels, two cases and the classes 1 and 5, in nnU-Net's layout.
struct Set {
    folder: TempDir,
}

impl Set {
    fn new() -> Self {
        let set = Self { folder: tempfile::tempdir().unwrap() };
        set.describe(
            r#"{"name": "Toy", "channel_names": {"0": "CT", "1": "PET"}, "numTraining": 2,
            "labels": {"background": 0, "core": 1, "rim": 5}, "file_ending": ".nii.gz"}"#,
        );
        for (case, value) in [("a", 10.0), ("b", 20.0)] {
            for channel in 0..2 {
                set.image(&format!("{case}_000{channel}"), image(value + 100.0 * channel as f32));
            }
            set.label(case, label());
        }
        set
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn describe(&self, text: &str) {
        self.write("dataset.json", text.as_bytes());
    }

    fn image(&self, name: &str, image: Array4<f32>) {
        self.write(
            &format!("imagesTr/{name}.nii.gz"),
            &encode_image(image.view(), &geometry(), true).unwrap(),
        );
    }

    fn label(&self, name: &str, label: Array3<i32>) {
        self.write(
            &format!("labelsTr/{name}.nii.gz"),
            &encode_labels(label.view(), &geometry(), true).unwrap(),
        );
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own files")]
    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn run(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nnu-fingerprint"));
        command
            .current_dir(self.folder.path())
            .args(["--dataset", "."])
            .args(more)
            .output()
            .unwrap()
    }

    /// The table on stdout.
    fn check(&self) -> (String, Option<i32>) {
        let output = self.run(&["--check-only", "-q"]);
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    }
}

fn geometry() -> Geometry {
    Geometry::plain(SHAPE, [3.0, 1.0, 0.5])
}

/// Zero but for a box of 4×5×6 voxels.
fn image(value: f32) -> Array4<f32> {
    let mut image = Array4::zeros((1, SHAPE[0], SHAPE[1], SHAPE[2]));
    image.slice_mut(s![.., 1..5, 1..6, 1..7]).fill(value);
    image[[0, 2, 2, 2]] = value + 1.0;
    image
}

/// One voxel of class 1, two of class 5.
fn label() -> Array3<i32> {
    let mut label = Array3::zeros(SHAPE);
    (label[[2, 2, 2]], label[[2, 2, 3]], label[[2, 2, 4]]) = (1, 5, 5);
    label
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_sound_data_set_is_measured() {
    let set = Set::new();
    let output = set.run(&["--out", "work/f.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).starts_with(
        "nnu-fingerprint: Toy: 2 training cases\nnnu-fingerprint: wrote work/f.toml\n"
    ));
    let f = Record::<Fingerprint>::load(&set.path("work/f.toml")).unwrap().body;
    assert_eq!((f.dataset.name.as_str(), f.dataset.file_ending.as_str()), ("Toy", ".nii.gz"));
    assert_eq!(f.cases[1].id, "b");
    assert_eq!((f.cases[1].shape, f.cases[1].cropped_shape), (SHAPE, [4, 5, 6]));
    assert_eq!((f.cases[1].spacing_mm, f.cases[1].relative_size), ([3.0, 1.0, 0.5], 120.0 / 336.0));
    assert_eq!(f.cases[1].class_voxels, [333, 1, 2]);
    // Foreground of channel 1: 111, 110, 110 and 121, 120, 120.
    let pet = &f.channels[1];
    assert_eq!((pet.name.as_str(), pet.voxels), ("PET", 6));
    assert_eq!(pet.cases, 2);
    let i = pet.per_voxel;
    assert_eq!((i.min, i.median, i.max), (110.0, 115.5, 121.0));
    assert!(
        (i.mean - 692.0 / 6.0).abs() < 1e-12 && (i.sd - (227.0f64 / 9.0).sqrt()).abs() < 1e-12,
        "{i:?}"
    );
    assert!(
        (i.percentile_00_5 - 110.0).abs() < 1e-12 && (i.percentile_99_5 - 120.975).abs() < 1e-12,
        "{i:?}"
    );
    // Both cases have three voxels; drawn without end, the largest value fills the last percent.
    let i = pet.per_case;
    assert_eq!((i.min, i.median, i.max), (110.0, 115.5, 121.0));
    assert_eq!((i.percentile_00_5, i.percentile_99_5), (110.0, 121.0));
}

#[test]
fn the_same_call_again_touches_nothing_and_threads_change_nothing() {
    let set = Set::new();
    assert_eq!(set.run(&["--out", "f.toml"]).status.code(), Some(0));
    let (bytes, time) = read(&set.path("f.toml"));
    let again = set.run(&["--out", "f.toml", "--threads", "1"]);
    assert!(
        stderr(&again).contains("nnu-fingerprint: f.toml is up to date\n"),
        "{}",
        stderr(&again)
    );
    assert_eq!(read(&set.path("f.toml")), (bytes.clone(), time));
    for threads in ["1", "3"] {
        assert_eq!(
            set.run(&["--out", "g.toml", "--force", "--threads", threads]).status.code(),
            Some(0)
        );
        assert_eq!(read(&set.path("g.toml")).0, bytes);
    }
    set.image("a_0000", image(11.0));
    assert_eq!(set.run(&["--out", "f.toml"]).status.code(), Some(0));
    assert_ne!(read(&set.path("f.toml")).0, bytes);
}

fn read(path: &Path) -> (Vec<u8>, std::time::SystemTime) {
    (std::fs::read(path).unwrap(), path.metadata().unwrap().modified().unwrap())
}

#[test]
fn a_bad_data_set_is_refused_with_one_table_and_nothing_written() {
    let set = Set::new();
    set.remove("imagesTr/a_0001.nii.gz");
    set.remove("labelsTr/b.nii.gz");
    let mut broken = image(1.0);
    broken[[0, 0, 0, 0]] = f32::NAN;
    set.image("b_0000", broken);
    let output = set.run(&["--out", "work/f.toml"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        stderr(&output),
        "nnu-fingerprint: Toy: 2 training cases\n\
         error    missing file                         2\n         \
         imagesTr/a_0001.nii.gz: not there\n         \
         labelsTr/b.nii.gz: not there\n\
         error    NaN or infinite voxels               1\n         \
         imagesTr/b_0000.nii.gz: 1 of 336 voxels\n\
         nnu-fingerprint: error: .: 3 problems, expected none\n  \
         hint: mend these files or take the cases out; --verbose lists every one of them\n"
    );
    assert_eq!(std::fs::read_dir(set.path("work")).unwrap().count(), 0);
}

/// The table of one broken data set.
fn table_of(damage: impl FnOnce(&Set)) -> String {
    let set = Set::new();
    damage(&set);
    let (table, code) = set.check();
    let errors = table.lines().any(|l| l.starts_with("error"));
    assert_eq!(code, Some(if errors { 3 } else { 0 }), "{table}");
    table
}

fn encoded(shape: [usize; 3], spacing: [f64; 3]) -> Vec<u8> {
    encode_labels(Array3::from_elem(shape, 1).view(), &Geometry::plain(shape, spacing), true)
        .unwrap()
}

/// A label map with `value` at one voxel.
fn label_with(value: f32) -> Vec<u8> {
    let mut voxels = label().mapv(|v| v as f32).insert_axis(ndarray::Axis(0));
    voxels[[0, 0, 0, 0]] = value;
    encode_image(voxels.view(), &geometry(), true).unwrap()
}

#[test]
fn each_kind_of_error_has_its_rows() {
    let cut = |set: &Set| {
        let whole = std::fs::read(set.path("imagesTr/a_0000.nii.gz")).unwrap();
        set.write("imagesTr/a_0000.nii.gz", &whole[..whole.len() / 2]);
    };
    let describe = |set: &Set, from: &str, to: &str| {
        let text = std::fs::read_to_string(set.path("dataset.json")).unwrap();
        assert!(text.contains(from));
        set.describe(&text.replace(from, to));
    };
    let rows = [
        (
            table_of(cut),
            "error    unreadable file                      1\n         imagesTr/a_0000.nii.gz: gzip data is broken or cut off: ",
        ),
        (
            table_of(|s| s.image("b_0002", image(1.0))),
            "error    wrong number of channels             1\n         imagesTr/b_0000.nii.gz: 3 channels, expected 2: CT, PET\n",
        ),
        (
            table_of(|s| s.write("labelsTr/a.nii.gz", &encoded([6, 7, 9], [3.0, 1.0, 0.5]))),
            "error    shapes differ                        1\n         labelsTr/a.nii.gz: shape [6, 7, 9], expected [6, 7, 8] (z, y, x) as in imagesTr/a_0000.nii.gz\n",
        ),
        (
            table_of(|s| s.write("labelsTr/a.nii.gz", &encoded(SHAPE, [3.0, 1.0, 0.6]))),
            "error    spacings differ                      1\n         labelsTr/a.nii.gz: spacing [3.0, 1.0, 0.6000000238418579] mm, expected [3.0, 1.0, 0.5] (z, y, x) as in imagesTr/a_0000.nii.gz\n",
        ),
        (
            table_of(|s| s.write("labelsTr/a.nii.gz", &label_with(3.0))),
            "error    undeclared label value               1\n         labelsTr/a.nii.gz: 3, expected 0, 1, 5\n",
        ),
        (
            table_of(|s| s.write("labelsTr/a.nii.gz", &label_with(0.5))),
            "error    label value not a whole number       1\n         labelsTr/a.nii.gz: 1 voxels, such as 0.5\n",
        ),
        (
            table_of(|s| {
                (0..2).for_each(|c| s.image(&format!("a_000{c}"), Array4::zeros((1, 6, 7, 8))));
            }),
            "warning  blank image                          1\n         imagesTr/a_0000.nii.gz: all voxels are 0\n",
        ),
        (
            table_of(|s| {
                for case in ["a", "b"] {
                    let image = Array4::from_elem((1, 6, 7, 8), 3.0);
                    (0..2).for_each(|c| s.image(&format!("{case}_000{c}"), image.clone()));
                }
            }),
            "error    no labelled voxels                   1\n         images: every image is blank\n",
        ),
        (
            table_of(|s| describe(s, "\"numTraining\": 2", "\"numTraining\": 3")),
            "error    wrong number of cases                1\n         dataset.json: numTraining = 3, found 2\n",
        ),
        (
            table_of(|s| ["a", "b"].iter().for_each(|c| s.label(c, Array3::zeros(SHAPE)))),
            "error    no labelled voxels                   1\n         labels: every label map is background only\n",
        ),
        (
            table_of(|s| {
                // The image is 0 at its borders.
                let mut label = Array3::zeros(SHAPE);
                (label[[0, 0, 0]], label[[0, 0, 1]]) = (1, 5);
                ["a", "b"].iter().for_each(|c| s.label(c, label.clone()));
            }),
            "error    no labelled voxels                   1\n         images: every labelled voxel lies outside the box of voxels that are not 0\n",
        ),
        (
            table_of(|s| {
                let case = r#"{"image": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"}"#;
                describe(s, "\"numTraining\": 2", &format!("\"training\": [{case}, {case}]"));
            }),
            "error    duplicate case id                    1\n         a_0000: listed more than once\n",
        ),
    ];
    for (table, expected) in rows {
        assert!(table.contains(expected), "{table}\n{expected}");
    }
}

#[test]
fn warnings_are_shown_and_the_data_set_is_used() {
    let moved = |set: &Set| {
        let mut bytes = encode_labels(label().view(), &geometry(), false).unwrap();
        // srow_x[3], where x starts.
        bytes[292..296].copy_from_slice(&2f32.to_le_bytes());
        set.remove("labelsTr/a.nii.gz");
        // Uncompressed content under a packed name is read by its first bytes.
        set.write("labelsTr/a.nii.gz", &bytes);
    };
    let table = table_of(moved);
    assert!(table.starts_with("warning  places in space differ               1\n         labelsTr/a.nii.gz: corners lie up to 2.000 mm apart"), "{table}");
    let table = table_of(|s| s.image("a_0001", Array4::zeros((1, 6, 7, 8))));
    assert_eq!(
        table,
        "warning  constant channel                     1\n         imagesTr/a_0001.nii.gz: all voxels are 0\n"
    );
    let table = table_of(|s| s.label("a", Array3::zeros(SHAPE)));
    assert_eq!(
        table,
        "warning  label without foreground             1\n         labelsTr/a.nii.gz: all voxels are background\n"
    );
    let table =
        table_of(|s| ["a", "b"].iter().for_each(|c| s.label(c, label().mapv(|v| v.min(1)))));
    assert_eq!(
        table,
        "warning  class that never occurs              1\n         rim: value 5 is in no label map\n"
    );
    assert_eq!(table_of(|_| ()), "no problems\n");
}

/// `direction[axis][axis]` turned around in a file of the first case.
fn flip(set: &Set, name: &str, bytes: &[u8], axis: usize) {
    let mut bytes = bytes.to_vec();
    // srow_x, srow_y, srow_z: four numbers each.
    let at = 280 + 20 * axis;
    let step = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&(-step).to_le_bytes());
    set.remove(name);
    set.write(name, &bytes);
}

#[test]
fn a_label_that_is_turned_against_its_image_is_an_error() {
    for axis in 0..3 {
        let plain = |set: &Set| {
            let bytes = encode_labels(label().view(), &geometry(), false).unwrap();
            flip(set, "labelsTr/a.nii.gz", &bytes, axis);
        };
        let table = table_of(plain);
        let row = "error    label turned against its image       1\n         labelsTr/a.nii.gz: corners lie up to ";
        assert!(table.starts_with(row), "{table}");
        assert!(table.contains("as in imagesTr/a_0000.nii.gz"), "{table}");
        // A channel is warned of.
        let table = table_of(|set| {
            let bytes = encode_image(image(5.0).view(), &geometry(), false).unwrap();
            flip(set, "imagesTr/a_0001.nii.gz", &bytes, axis);
        });
        assert!(
            table.starts_with("warning  places in space differ")
                && table.contains("\n         imagesTr/a_0001.nii.gz: corners"),
            "{table}"
        );
    }
}

#[test]
fn a_reader_that_turns_measures_the_turned_image() {
    let set = Set::new();
    // x runs to superior, y to posterior, z to left: RAS has the axes x, y, z of the file as z, y, x.
    let (spacing, direction) =
        ([3.0, 2.0, 1.0], [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]);
    let turned = Geometry::placed(SHAPE, spacing, [5.0, 6.0, 7.0], direction);
    let [z, y, x] = SHAPE;
    let mut image = Array4::from_shape_fn((1, z, y, x), |(_, z, y, x)| (1 + z + y + x) as f32);
    image.slice_mut(s![.., .., ..2, ..]).fill(0.0);
    for name in ["a_0000", "a_0001"] {
        let bytes = encode_image(image.view(), &turned, true).unwrap();
        set.write(&format!("imagesTr/{name}.nii.gz"), &bytes);
    }
    // The label lies at the same place, in another voxel order.
    let labels = label();
    let volume = artifact::image::Volume {
        geometry: turned.clone(),
        channels: labels.mapv(|v| v as f32).insert_axis(ndarray::Axis(0)),
    };
    let turn = artifact::image::Turn { axes: [1, 0, 2], flip: [true, false, true] };
    let stored = volume.turned(turn);
    let g = &stored.geometry;
    let own = Geometry::placed(g.shape, g.spacing_mm, g.origin_mm, g.direction);
    set.write("labelsTr/a.nii.gz", &encode_image(stored.channels.view(), &own, true).unwrap());
    for class in ["NibabelIOWithReorient", "SimpleITKIOWithReorient"] {
        set.describe(&format!(
            r#"{{"name": "Toy", "channel_names": {{"0": "CT", "1": "PET"}}, "numTraining": 2,
            "labels": {{"background": 0, "core": 1, "rim": 5}}, "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "{class}"}}"#
        ));
        let output = set.run(&["--out", "f.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("places in space"), "{said}");
        let found = Record::<Fingerprint>::load(&set.path("f.toml")).unwrap().body;
        assert!(found.dataset.reader.turns());
        let case = &found.cases[0];
        assert_eq!((case.shape, case.spacing_mm), ([x, y, z], [1.0, 2.0, 3.0]));
        assert_eq!(case.cropped_shape, [x, y - 2, z]);
        std::fs::remove_file(set.path("f.toml")).unwrap();
    }
    // Others are refused before anything is read.
    for class in ["Tiff3DIO", "SomeReader"] {
        let text = std::fs::read_to_string(set.path("dataset.json")).unwrap();
        set.describe(&text.replace("SimpleITKIOWithReorient", class));
        let output = set.run(&["--out", "f.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3));
        assert!(said.contains(&format!("overwrite_image_reader_writer = \"{class}\"")), "{said}");
        set.describe(&text);
    }
}

#[test]
fn files_that_lead_to_one_channel_are_refused_by_both_names() {
    for (stray, beside) in [
        ("imagesTr/a_0001.nii", "imagesTr/a_0001.nii.gz"),
        ("imagesTr/b.nii.gz", "imagesTr/b_0000.nii.gz"),
        ("labelsTr/b.nii", "labelsTr/b.nii.gz"),
    ] {
        let set = Set::new();
        set.write(stray, b"whatever it holds");
        let output = set.run(&["--check-only"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(stray) && said.contains(beside), "{said}");
    }
    // A number beyond a gap is a channel too many.
    let table = table_of(|s| s.image("a_0007", image(3.0)));
    assert!(table.contains("imagesTr/a_0000.nii.gz: 3 channels, expected 2"), "{table}");
}

#[cfg(unix)]
#[test]
fn one_file_for_two_channels_is_refused_or_told() {
    let link = |set: &Set| {
        set.remove("imagesTr/a_0001.nii.gz");
        let link = set.path("imagesTr/a_0001.nii.gz");
        std::os::unix::fs::symlink("a_0000.nii.gz", link).unwrap();
    };
    let list = |set: &Set| {
        let case = |id: &str| {
            let images = format!(
                r#"["imagesTr/{id}_0000.nii.gz", "imagesTr/../imagesTr/{id}_0000.nii.gz"]"#
            );
            format!(r#""{id}": {{"images": {images}, "label": "labelsTr/{id}.nii.gz"}}"#)
        };
        set.describe(&format!(
            r#"{{"channel_names": {{"0": "CT", "1": "PET"}}, "file_ending": ".nii.gz",
            "labels": {{"background": 0, "core": 1, "rim": 5}}, "dataset": {{{}, {}}}}}"#,
            case("a"),
            case("b")
        ));
    };
    let refused = [
        (
            &link as &dyn Fn(&Set),
            "./imagesTr/a_0001.nii.gz: is a link to ./imagesTr/a_0000.nii.gz, another channel of the same case",
        ),
        (
            &list,
            "./imagesTr/a_0000.nii.gz: and ./imagesTr/../imagesTr/a_0000.nii.gz are one file, given for two channels",
        ),
    ];
    for (damage, expected) in refused {
        let set = Set::new();
        damage(&set);
        let output = set.run(&["--check-only"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    // Stores that keep equal contents once make hard links of channels that are rightly equal.
    let table = table_of(|s| {
        s.remove("imagesTr/a_0001.nii.gz");
        let [file, other] = [0, 1].map(|c| s.path(&format!("imagesTr/a_000{c}.nii.gz")));
        std::fs::hard_link(file, other).unwrap();
    });
    assert_eq!(
        table,
        "warning  channels linked to one file          1\n         \
         imagesTr/a_0001.nii.gz: is the same file as imagesTr/a_0000.nii.gz\n"
    );
}

#[test]
fn long_lists_are_cut_unless_verbose() {
    let set = Set::new();
    for case in 0..5 {
        set.label(&format!("lost{case}"), label());
    }
    let (table, _) = set.check();
    assert!(table.contains("missing file                        10\n"), "{table}");
    assert!(table.contains("         … and 7 more\n") && !table.contains("lost4"), "{table}");
    let all = String::from_utf8(set.run(&["--check-only", "-v"]).stdout).unwrap();
    assert!(
        all.contains("imagesTr/lost4_0001.nii.gz: not there\n") && !all.contains("more"),
        "{all}"
    );
}

#[test]
fn misuse_and_missing_data_sets_have_their_exit_codes() {
    let set = Set::new();
    assert_eq!(set.run(&[]).status.code(), Some(2));
    assert_eq!(set.run(&["--out", "f.toml", "--check-only"]).status.code(), Some(2));
    assert_eq!(set.run(&["--out", "f.toml", "--speed", "3"]).status.code(), Some(2));
    set.remove("dataset.json");
    let output = set.run(&["--out", "f.toml"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        stderr(&output),
        "nnu-fingerprint: error: ./dataset.json: cannot read this description of the data set: No such file or directory (os error 2)\n  \
         hint: give the folder that holds dataset.json, imagesTr and labelsTr\n"
    );
    set.describe(r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": [1, 2]}}"#);
    assert!(
        stderr(&set.run(&["--check-only"]))
            .starts_with("nnu-fingerprint: error: ./dataset.json: regions_class_order is missing")
    );
    let unwritable = Set::new();
    let output = unwritable.run(&["--out", "dataset.json/f.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn what_later_stages_refuse_is_asked_here() {
    let description = |names: &str, more: &str| {
        format!(
            r#"{{"name": "Toy", "channel_names": {names}, "numTraining": 2,
            "labels": {{"background": 0, "core": 1, "rim": 5}}, "file_ending": ".nii.gz"{more}}}"#
        )
    };
    // Normalisation of pictures takes 0 to 255 only.
    let table = table_of(|s| {
        s.describe(&description(r#"{"0": "rgb_to_0_1", "1": "PET"}"#, ""));
        s.image("b_0000", image(256.0));
    });
    let expected = "error    values out of range                  1\n         imagesTr/b_0000.nii.gz: channel rgb_to_0_1: values from ";
    assert!(table.contains(expected), "{table}");
    // Ids that can't name a folder.
    for id in ["../a", "x/y", ".hidden", ""] {
        let table = table_of(|s| {
            let case = |id: &str, c: &str| {
                let images = format!(r#"["imagesTr/{c}_0000.nii.gz", "imagesTr/{c}_0001.nii.gz"]"#);
                format!(r#""{id}": {{"images": {images}, "label": "labelsTr/{c}.nii.gz"}}"#)
            };
            let cases = format!(r#", "dataset": {{{}, {}}}"#, case(id, "a"), case("b", "b"));
            s.describe(&description(r#"{"0": "CT", "1": "PET"}"#, &cases));
        });
        assert!(table.contains("error    unusable case id                     1\n"), "{table}");
        assert!(table.contains("can't be a folder's name"), "{table}");
    }
}

#[test]
fn a_file_of_another_ending_is_named_where_one_is_missing() {
    let table = table_of(|s| {
        let bytes = std::fs::read(s.path("labelsTr/a.nii.gz")).unwrap();
        s.remove("labelsTr/a.nii.gz");
        s.write("labelsTr/a.nrrd", &bytes);
    });
    assert!(table.contains("labelsTr/a.nii.gz: not there, but a.nrrd is\n"), "{table}");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_called_so() {
    let ends =
        [("nowhere.nii.gz", "which isn't there"), ("b_0000.nii.gz", "which leads back to itself")];
    for (target, end) in ends {
        let table = table_of(|s| {
            s.remove("imagesTr/b_0000.nii.gz");
            std::os::unix::fs::symlink(target, s.path("imagesTr/b_0000.nii.gz")).unwrap();
        });
        let expected = format!("imagesTr/b_0000.nii.gz: is a link to {target}, {end}\n");
        assert!(table.contains(&expected), "{table}");
    }
}

#[test]
fn a_lone_file_of_other_channels_is_counted() {
    let table = table_of(|s| {
        s.remove("imagesTr/a_0001.nii.gz");
        s.image("a_0000", Array4::ones((3, SHAPE[0], SHAPE[1], SHAPE[2])));
    });
    assert!(table.contains("imagesTr/a_0000.nii.gz: 3 channels, expected 2: CT, PET\n"), "{table}");
    assert!(!table.contains("missing"), "{table}");
}

#[test]
fn a_spacing_in_another_unit_is_named() {
    let table = table_of(|s| {
        let mut geometry = geometry();
        geometry.header[123] = 3;
        for (name, channels) in [("imagesTr/a_0000", 10.0), ("imagesTr/a_0001", 110.0)] {
            let bytes = encode_image(image(channels).view(), &geometry, true).unwrap();
            s.write(&format!("{name}.nii.gz"), &bytes);
        }
        let bytes = encode_labels(label().view(), &geometry, true).unwrap();
        s.write("labelsTr/a.nii.gz", &bytes);
    });
    assert!(table.contains("warning  spacing far from the others'         2\n"), "{table}");
    assert!(table.contains("a: 0.003 × 0.001 × 0.0005 mm (z, y, x)"), "{table}");
}

#[test]
#[cfg(unix)]
fn a_pipe_or_an_endless_device_is_no_image() {
    let table = table_of(|s| {
        for (name, other) in
            [("imagesTr/a_0000.nii.gz", None), ("labelsTr/b.nii.gz", Some("/dev/zero"))]
        {
            s.remove(name);
            match other {
                None => {
                    assert!(Command::new("mkfifo").arg(s.path(name)).status().unwrap().success());
                }
                Some(device) => std::os::unix::fs::symlink(device, s.path(name)).unwrap(),
            }
        }
    });
    let expected = "error    unreadable file                      2\n         \
                    imagesTr/a_0000.nii.gz: is a pipe, expected a regular file\n         \
                    labelsTr/b.nii.gz: is a device, expected a regular file\n";
    assert!(table.contains(expected), "{table}");
}

impl Set {
    /// A sound test case `t` and its label map.
    fn with_test() -> Self {
        let set = Self::new();
        for channel in 0..2 {
            let bytes = encode_image(image(5.0).view(), &geometry(), true).unwrap();
            set.write(&format!("imagesTs/t_000{channel}.nii.gz"), &bytes);
        }
        let bytes = encode_labels(label().view(), &geometry(), true).unwrap();
        set.write("labelsTs/t.nii.gz", &bytes);
        set
    }
}

/// Rows of the table of a data set with a damaged test case; it can be used as before.
fn rows_of_test(damage: impl FnOnce(&Set)) -> String {
    let set = Set::with_test();
    let sound = set.run(&["--out", "sound.toml"]);
    let said = stderr(&sound);
    assert!(
        said.starts_with(
            "nnu-fingerprint: Toy: 2 training, 1 test cases\nnnu-fingerprint: wrote sound.toml\n"
        ),
        "{said}"
    );
    damage(&set);
    let (table, code) = set.check();
    assert_eq!(code, Some(0), "{table}");
    let found = set.run(&["--out", "found.toml"]);
    assert!(found.status.success(), "{}", stderr(&found));
    if table != "no problems\n" {
        assert!(
            table.lines().all(|line| !line.starts_with("error")) && stderr(&found).contains(&table),
            "{}",
            stderr(&found)
        );
    }
    assert_eq!(read(&set.path("found.toml")).0, read(&set.path("sound.toml")).0);
    table
}

const TEST_IMAGE: &str = "warning  test image nnu-infer refuses         1\n         ";
const TEST_LABEL: &str = "warning  test label that can't be scored      1\n         ";

#[test]
fn what_other_stages_refuse_of_test_images_is_a_warning() {
    let stored = |s: &Set, name: &str| std::fs::read(s.path(name)).unwrap();
    let packed = |shape, spacing| encoded(shape, spacing);
    let whole =
        |shape| encode_image(Array4::<f32>::zeros(shape).view(), &geometry(), true).unwrap();
    let image = |damage: &dyn Fn(&Set), row: &str| {
        let table = rows_of_test(damage);
        assert!(table.starts_with(&format!("{TEST_IMAGE}{row}")), "{table}\n{row}");
    };
    image(&|s| s.remove("imagesTs/t_0001.nii.gz"), "imagesTs/t_0001.nii.gz: not there\n");
    image(
        &|s| s.write("imagesTs/t_0002.nii.gz", &whole((1, 6, 7, 8))),
        "imagesTs/t_0000.nii.gz: 3 channels, expected 2: CT, PET\n",
    );
    image(
        &|s| {
            s.remove("imagesTs/t_0001.nii.gz");
            s.write("imagesTs/t_0000.nii.gz", &whole((3, 6, 7, 8)));
        },
        "imagesTs/t_0000.nii.gz: 3 channels, expected 2: CT, PET\n",
    );
    for (twin, of) in [
        ("imagesTs/t_0001.nii", "imagesTs/t_0001.nii"),
        ("imagesTs/t.nii", "imagesTs/t_0000.nii.gz"),
    ] {
        image(&|s| s.write(twin, b"whatever it holds"), &format!("{of}: and ./imagesTs/t"));
    }
    image(&|s| s.write("imagesTs/t_0001.nii.gz", b""), "imagesTs/t_0001.nii.gz: is empty, ");
    image(
        &|s| s.write("imagesTs/t_0001.nii.gz", b"version https://git-lfs.github.com/spec/v1\n"),
        "imagesTs/t_0001.nii.gz: is a git-lfs pointer",
    );
    // Cut off behind the header, packed and not.
    let noise = |s: &Set, packed: bool| {
        let values =
            Array4::from_shape_fn((1, 6, 7, 8), |(_, z, y, x)| ((z * 7 + y * 5 + x) % 13) as f32);
        let bytes = encode_image(values.view(), &geometry(), packed).unwrap();
        s.write("imagesTs/t_0001.nii.gz", &bytes[..bytes.len() - 9]);
    };
    image(&|s| noise(s, true), "imagesTs/t_0001.nii.gz: gzip data is broken or cut off");
    image(&|s| noise(s, false), "imagesTs/t_0001.nii.gz: content has ");
    image(
        &|s| s.write("imagesTs/t_0001.nii.gz", &packed([6, 7, 9], [3.0, 1.0, 0.5])),
        "imagesTs/t_0001.nii.gz: shape [6, 7, 9], expected [6, 7, 8] (z, y, x) as in imagesTs/t_0000.nii.gz\n",
    );
    image(
        &|s| s.write("imagesTs/t_0001.nii.gz", &packed(SHAPE, [3.0, 1.0, 0.75])),
        "imagesTs/t_0001.nii.gz: spacing [3.0, 1.0, 0.75] mm, expected [3.0, 1.0, 0.5] (z, y, x) as in imagesTs/t_0000.nii.gz\n",
    );
    // The channel alone: its label map isn't held against what can't be read.
    let table = rows_of_test(|s| s.write("imagesTs/t_0000.nii.gz", b"{}"));
    assert!(!table.contains("labelsTs"), "{table}");
    // Members of gzip one after another are whole, too.
    let table = rows_of_test(|s| {
        let mut bytes = stored(s, "imagesTs/t_0000.nii.gz");
        bytes.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        s.write("imagesTs/t_0000.nii.gz", &bytes);
    });
    assert_eq!(table, "no problems\n");
}

#[test]
fn what_scoring_refuses_of_test_labels_is_a_warning() {
    let label = |damage: &dyn Fn(&Set), row: &str| {
        let table = rows_of_test(damage);
        assert_eq!(table.matches("warning").count(), 1, "{table}");
        assert!(table.starts_with(&format!("{TEST_LABEL}{row}")), "{table}\n{row}");
    };
    label(
        &|s| s.write("labelsTs/t.nii.gz", &encoded([7, 7, 8], [3.0, 1.0, 0.5])),
        "labelsTs/t.nii.gz: shape [7, 7, 8], expected [6, 7, 8] (z, y, x) as in imagesTs/t_0000.nii.gz\n",
    );
    label(
        &|s| s.write("labelsTs/t.nii.gz", &encoded(SHAPE, [3.0, 1.0, 0.75])),
        "labelsTs/t.nii.gz: spacing [3.0, 1.0, 0.75] mm, expected ",
    );
    label(
        &|s| {
            let bytes = encode_image(Array4::<f32>::zeros((2, 6, 7, 8)).view(), &geometry(), true);
            s.write("labelsTs/t.nii.gz", &bytes.unwrap());
        },
        "labelsTs/t.nii.gz: label has 2 channels, expected 1\n",
    );
    label(
        &|s| s.write("labelsTs/t.nii.gz", b"{\"labels\": \"elsewhere\"}"),
        "labelsTs/t.nii.gz: is text, expected a NIfTI",
    );
    for name in ["t", "other"] {
        let twins = |s: &Set| {
            s.write(&format!("labelsTs/{name}.nii"), &encoded(SHAPE, [3.0, 1.0, 0.5]));
            s.write(&format!("labelsTs/{name}.nii.gz"), &encoded(SHAPE, [3.0, 1.0, 0.5]));
        };
        label(&twins, &format!("labelsTs/{name}.nii: and ./labelsTs/{name}.nii.gz are both"));
    }
    // Nobody needs a label map of every test image.
    assert_eq!(rows_of_test(|s| s.remove("labelsTs/t.nii.gz")), "no problems\n");
}

#[cfg(unix)]
#[test]
fn test_images_that_are_no_files_are_told_at_once() {
    use std::os::unix::fs::symlink;
    let table = rows_of_test(|s| {
        for channel in 0..2 {
            s.remove(&format!("imagesTs/t_000{channel}.nii.gz"));
        }
        let pipe = s.path("imagesTs/t_0000.nii.gz");
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        symlink("/dev/zero", s.path("imagesTs/t_0001.nii.gz")).unwrap();
        s.remove("labelsTs/t.nii.gz");
        symlink("gone.nii.gz", s.path("labelsTs/t.nii.gz")).unwrap();
    });
    for row in [
        "imagesTs/t_0000.nii.gz: is a pipe, expected a regular file\n",
        "imagesTs/t_0001.nii.gz: is a device, expected a regular file\n",
        "labelsTs/t.nii.gz: is a link to gone.nii.gz, which isn't there\n",
    ] {
        assert!(table.contains(row), "{table}\n{row}");
    }
    // The folders themselves.
    let table = rows_of_test(|s| {
        for folder in ["imagesTs", "labelsTs"] {
            std::fs::remove_dir_all(s.path(folder)).unwrap();
        }
        symlink("gone", s.path("imagesTs")).unwrap();
        s.write("labelsTs", b"");
    });
    assert!(table.contains("imagesTs: is a link to gone, which isn't there\n"), "{table}");
    assert!(table.contains("labelsTs: cannot read this folder: Not a directory"), "{table}");
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_rows_of_the_table() {
    use std::os::unix::ffi::OsStrExt;
    let named = |s: &Set, folder: &str, name: &[u8]| {
        let path = s.path(folder).join(std::ffi::OsStr::from_bytes(name));
        std::fs::copy(s.path("labelsTr/a.nii.gz"), path).unwrap();
    };
    let table = table_of(|s| {
        named(s, "imagesTr", b"c\xff_0000.nii.gz");
        named(s, "labelsTr", b"c\xff.nii.gz");
        s.remove("imagesTr/b_0001.nii.gz");
    });
    let row = "error    unusable case id                     1\n         imagesTr/c";
    assert!(table.contains(row) && table.contains(": has a name that is not UTF-8"), "{table}");
    assert!(table.contains("imagesTr/b_0001.nii.gz: not there\n"), "{table}");
    // Of test cases it's a warning.
    let table = rows_of_test(|s| {
        named(s, "imagesTs", b"c\xff_0000.nii.gz");
        named(s, "labelsTs", b"c\xff.nii.gz");
    });
    assert!(table.starts_with(&format!("{TEST_IMAGE}imagesTs/c")), "{table}");
    assert!(table.contains(&format!("{TEST_LABEL}labelsTs/c")), "{table}");
}

#[test]
fn listed_test_images_are_looked_at_too() {
    let set = Set::new();
    let cases = ["a", "b"].map(|id| {
        let files = [0, 1].map(|c| format!(r#""imagesTr/{id}_000{c}.nii.gz""#)).join(", ");
        format!(r#"{{"image": [{files}], "label": "labelsTr/{id}.nii.gz"}}"#)
    });
    set.describe(&format!(
        r#"{{"name": "Toy", "modality": {{"0": "CT", "1": "PET"}}, "numTraining": 2,
        "labels": {{"0": "background", "1": "core", "5": "rim"}}, "training": [{}],
        "test": ["imagesTs/t.nii.gz", "imagesTs/u.nii.gz"]}}"#,
        cases.join(", ")
    ));
    let one = encode_image(image(1.0).view(), &geometry(), true).unwrap();
    set.write("imagesTs/t.nii.gz", &one);
    let (table, code) = set.check();
    assert_eq!(code, Some(0), "{table}");
    assert_eq!(
        table,
        "warning  test image nnu-infer refuses         2\n         imagesTs/t.nii.gz: 1 channel, expected 2: CT, PET\n         imagesTs/u.nii.gz: not there\n"
    );
}
