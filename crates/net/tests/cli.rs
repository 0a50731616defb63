//! The real binary: tables, files, exit codes, exact error text.

use ndarray::{Array3, Array4};
use std::path::Path;
use std::process::{Command, Output};

const NET: [&str; 4] = ["--features", "4,6", "--patch", "4,6,8"];

fn nnu_net(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nnu-net"))
        .args(arguments)
        .args(["--quiet"])
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("messages are UTF-8")
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("a UTF-8 path").into()
}

#[test]
fn describe_counts_parameters_and_work() {
    let out = nnu_net(&[&["describe"], &NET[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let table = text(&out.stdout);
    // 27·1·4 weights, 4 biases, 4 + 4 of the norm; 2 · 27 · 4 · 192 voxels · batch 2.
    let first = table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(first[0..3], ["encoder.0.conv.0", "1", "4"]);
    assert_eq!(first[5..7], ["4×6×8", "120"]);
    assert!(table.contains("decoder.0.head"), "{table}");
}

#[test]
fn init_and_forward_hand_files_to_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, image, logits) =
        (path(&folder, "w.npz"), path(&folder, "x.npy"), path(&folder, "y.npy"));
    let x = Array4::from_shape_fn((1, 4, 6, 8), |(_, z, y, x)| (z + 2 * y + x) as f32 / 9.0);
    artifact::Commit::file(Path::new(&image), &artifact::npy::encode(&x.view())).unwrap();
    let init = nnu_net(&[&["init", "--seed", "3", "--out", &weights], &NET[..]].concat());
    assert!(init.status.success(), "{}", text(&init.stderr));
    let files = ["--weights", &weights, "--image", &image, "--out", &logits];
    let forward = nnu_net(&[&["forward"], &files[..], &NET[..]].concat());
    assert!(forward.status.success(), "{}", text(&forward.stderr));
    let y: Array4<f32> = artifact::npy::read(Path::new(&logits)).unwrap();
    assert_eq!(y.dim(), (3, 4, 6, 8));
    assert!(y.iter().all(|v| v.is_finite()) && y.iter().any(|v| *v != y[[0, 0, 0, 0]]));

    let other = ["--features", "4,7", "--patch", "4,6,8"];
    let refused = nnu_net(&[&["forward"], &files[..], &other].concat());
    assert_eq!(refused.status.code(), Some(3));
    let expected = format!(
        "nnu-net: error: {weights}: tensor encoder.1.conv.0.weight: \
         found shape [6, 4, 3, 3, 3], expected [7, 4, 3, 3, 3]\n"
    );
    assert_eq!(text(&refused.stderr), expected);

    let flat: Array3<f32> = Array3::zeros((4, 6, 8));
    artifact::Commit::file(Path::new(&image), &artifact::npy::encode(&flat.view())).unwrap();
    let refused = nnu_net(&[&["forward"], &files[..], &NET[..]].concat());
    assert_eq!(refused.status.code(), Some(3));
}

#[test]
fn usage_errors_exit_with_2() {
    let no_gpu = nnu_net(&[&["bench", "--device", "cuda:0"], &NET[..]].concat());
    assert_eq!(no_gpu.status.code(), Some(2));
    assert_eq!(
        text(&no_gpu.stderr),
        "nnu-net: error: --device cuda:0: this build has no CUDA engine; use --device cpu\n"
    );
    let odd = nnu_net(&["describe", "--features", "4,6", "--patch", "5,6,8"]);
    assert_eq!(odd.status.code(), Some(2));
    assert_eq!(nnu_net(&["describe"]).status.code(), Some(2));
    let missing = nnu_net(&["describe", "--plan", "no.toml", "--configuration", "2d"]);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing.stderr));
}

#[test]
fn bench_prints_seconds_and_rates() {
    let out = nnu_net(&[&["bench", "--repetitions", "1"], &NET[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let lines = text(&out.stdout);
    assert!(lines.contains("training iteration: ") && lines.contains("forward: "), "{lines}");
}
