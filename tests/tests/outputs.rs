//! An output's name given by mistake costs nothing: whatever of a run, a data set or a user's own files is named, it stays.

use e2e::programs::{SMALL_RUN, folder, run, run_all, tree};
use std::path::Path;

const PHANTOM: &str = env!("CARGO_BIN_EXE_nnu-phantom");

/// Calls that write the one file `@`, and what of the run is their own, which they may write again.
const CALLS: [(&str, &[&str]); 9] = [
    ("nnu-fingerprint --dataset {}/data --out @", &["fingerprint.toml"]),
    (
        "nnu-plan --fingerprint {}/fingerprint.toml --folds 3 --out @",
        &["plan.toml", "model/plan.toml"],
    ),
    ("nnu-plan export --plan {}/plan.toml --out @", &[]),
    ("nnu-net init --plan {}/plan.toml --configuration 3d_fullres --out @", &[]),
    (
        "nnu-net forward --plan {}/plan.toml --configuration 3d_fullres --weights {}/model/weights.npz --image {}/cases/phantom_000/image.npy --device cpu --out @",
        &[],
    ),
    ("nnu-net export --model {}/model --out @", &[]),
    (
        "nnu-postprocess evaluate --predictions {}/validation --labels {}/data/labelsTr --out @",
        &["summary.toml"],
    ),
    (
        "nnu-postprocess fit --labels {}/data/labelsTr --predictions {}/validation --plan {}/plan.toml --out @",
        &["postprocess.toml"],
    ),
    (
        "nnu-augment --cases {}/cases --plan {}/plan.toml --configuration 3d_fullres --fold 0 --preview @",
        &["preview.png"],
    ),
];

#[test]
fn no_program_writes_over_what_is_not_its_own() {
    let (programs, root) = (folder(PHANTOM), tempfile::tempdir().expect("a scratch folder"));
    let root = root.path();
    run_all(&programs, root, &SMALL_RUN);
    for (name, bytes) in [
        ("notes.txt", b"dose".as_slice()),
        ("table.csv", b"case,age\n"),
        ("record.toml", b"answer = 42\n"),
        ("archive.zip", b"PK\x03\x04of something else, whose first entry has no name of a kind"),
    ] {
        artifact::Commit::file(&root.join(name), bytes).expect("a written file");
    }
    let before = tree(root);
    let targets: Vec<&Path> = before
        .keys()
        .map(|path| path.as_path())
        // One case stands for all, and pictures may be drawn again.
        .filter(|path| {
            let text = path.to_string_lossy();
            !["_001", "_002", "_003", "_004", "_005", "_007", ".lock", ".png"]
                .iter()
                .any(|other| text.contains(other))
        })
        .collect();
    assert!(targets.len() > 20, "{targets:?}");
    for (call, own) in CALLS {
        for target in &targets {
            if own.iter().any(|own| target == &Path::new(own)) {
                continue;
            }
            let line = call.replace('@', &root.join(target).display().to_string());
            let ended = run(&programs, root, &line);
            assert!([2, 3].contains(&ended.code), "{line}: {} {}", ended.code, ended.stderr);
            assert!(ended.stderr.contains("error: "), "{line}: {}", ended.stderr);
            assert!(tree(root) == before, "{line}: changed what is there");
        }
    }
}
