//! The examples in README.md are what the types read: every block marked with a kind loads and passes its checks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::fingerprint::Fingerprint;
use artifact::model::{History, Model};
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::prediction::Prediction;
use artifact::previous::Previous;
use artifact::selection::Selection;
use artifact::splits::Splits;
use artifact::summary::Summary;
use artifact::{Kind, Record, batch::Batch, case::Case};
use std::collections::BTreeMap;
use std::path::Path;

/// Text of each ```` ```toml KIND ```` block.
fn examples() -> BTreeMap<String, String> {
    let readme = include_str!("../README.md");
    let mut blocks = BTreeMap::new();
    for block in readme.split("```toml ").skip(1) {
        let (kind, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        assert!(blocks.insert(kind.to_string(), text.to_string()).is_none(), "two {kind} blocks");
    }
    blocks
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn load<T: Kind>(folder: &Path, text: &str) -> Record<T> {
    let path = folder.join("record.toml");
    std::fs::write(&path, text).unwrap();
    Record::<T>::load(&path).unwrap_or_else(|e| panic!("README's {} example: {e}", T::KIND))
}

fn check<T: Kind>(examples: &mut BTreeMap<String, String>) {
    let folder = tempfile::tempdir().unwrap();
    let text = examples.remove(T::KIND).unwrap_or_else(|| panic!("no example of {}", T::KIND));
    let record: Record<T> = load(folder.path(), &text);
    // Every field of the type stands in the example: written out again it has the same keys.
    let written = toml::Table::try_from(&record.body).unwrap();
    let mut shown: toml::Table = text.parse().unwrap();
    shown.remove("artifact");
    assert_eq!(keys("", &written.into()), keys("", &shown.into()), "{}", T::KIND);
}

/// Paths of all keys.
fn keys(at: &str, value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::Table(t) => {
            let mut all: Vec<String> =
                t.iter().flat_map(|(k, v)| keys(&format!("{at}.{k}"), v)).collect();
            all.sort();
            all
        }
        toml::Value::Array(a) if a.iter().any(toml::Value::is_table) => {
            a.iter().flat_map(|v| keys(at, v)).collect()
        }
        _ => vec![at.to_string()],
    }
}

#[test]
fn every_example_of_the_specification_loads() {
    let mut examples = examples();
    check::<Fingerprint>(&mut examples);
    check::<Plan>(&mut examples);
    check::<Splits>(&mut examples);
    check::<Case>(&mut examples);
    check::<Batch>(&mut examples);
    check::<Model>(&mut examples);
    check::<History>(&mut examples);
    check::<Prediction>(&mut examples);
    check::<Summary>(&mut examples);
    check::<Postprocessing>(&mut examples);
    check::<Previous>(&mut examples);
    check::<Selection>(&mut examples);
    assert!(examples.is_empty(), "README shows kinds that no type reads: {:?}", examples.keys());
}

#[test]
fn every_number_of_the_recipe_stands_in_the_plan_example() {
    let mut plan = examples().remove(Plan::KIND).unwrap();
    plan = plan.replace("poly_power = 0.9\n", "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&path, plan).unwrap();
    let error = Record::<Plan>::load(&path).unwrap_err();
    assert!(error.message.contains("poly_power"), "{error}");
}

/// Adds the committed record of a kind's present version, made from its example; an existing one is never touched. Run it
/// after a new version came: `cargo test -p artifact --test readme -- --ignored`.
#[test]
#[ignore = "writes tests/golden/records"]
fn add_golden_records_of_new_versions() {
    use artifact::{Commit, Provenance, nifti, npy, npz};
    use ndarray::{Array, Array1, Array2, Array3, Array4, Array5};
    let mut examples = examples();
    let from = Provenance { stage: "example 1.0.0".into(), ..Provenance::default() };
    let from = from.option("order", 3).input("--dataset", "b3:00").seed(7);
    fn add<T: Kind>(
        examples: &mut BTreeMap<String, String>,
        from: &Provenance,
        name: &str,
        siblings: &[(&str, Vec<u8>)],
    ) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/records");
        let folder = root.join(format!("{}.{}", T::KIND, T::VERSION));
        let scratch = tempfile::tempdir().unwrap();
        let body = load::<T>(scratch.path(), &examples.remove(T::KIND).unwrap()).body;
        if folder.exists() {
            return;
        }
        let mut commit = Commit::begin(&folder.join(name)).unwrap();
        for (name, bytes) in siblings {
            commit.bytes(name, bytes).unwrap();
        }
        commit.finish(from, &body).unwrap();
    }
    let ramp = |n: usize| Array1::from_iter((0..n).map(|i| i as f32 / 8.0));
    let class = |i: usize| i16::from(i % 4 == 3);
    let image: Array4<f32> = ramp(24).into_shape_with_order((1, 2, 3, 4)).unwrap();
    let label = Array3::from_shape_fn((2, 3, 4), |(_, _, x)| class(x));
    let rows: Vec<[i32; 4]> = (0..6).map(|i| [1, i / 3, i % 3, 3]).collect();
    let rows: Array2<i32> = Array::from(rows);
    let case = [
        ("image.npy", npy::encode(&image.view())),
        ("label.npy", npy::encode(&label.view())),
        ("foreground.npy", npy::encode(&rows.view())),
    ];
    let patches: Array5<f32> = ramp(32).into_shape_with_order((2, 1, 1, 4, 4)).unwrap();
    let classes = Array4::from_shape_fn((2, 1, 4, 4), |(_, _, _, x)| class(x));
    let batch =
        [("image.npy", npy::encode(&patches.view())), ("label.npy", npy::encode(&classes.view()))];
    let weights = [("decoder.0.head.bias".to_string(), ramp(2).into_dyn())];
    let model = [
        ("weights.npz", npz::encode(&weights)),
        ("plan.toml", examples["plan"].clone().into_bytes()),
        ("history.toml", examples["history"].clone().into_bytes()),
    ];
    let geometry = nifti::Geometry::plain([2, 3, 4], [2.0, 1.0, 1.0]);
    let map = nifti::encode_labels(label.view(), &geometry, true).unwrap();
    add::<Fingerprint>(&mut examples, &from, "fingerprint.toml", &[]);
    add::<Plan>(&mut examples, &from, "plan.toml", &[]);
    add::<Splits>(&mut examples, &from, "splits.toml", &[]);
    add::<Case>(&mut examples, &from, "case.toml", &case);
    add::<Batch>(&mut examples, &from, "batch.toml", &batch);
    add::<Model>(&mut examples, &from, "model.toml", &model);
    add::<History>(&mut examples, &from, "history.toml", &[]);
    add::<Prediction>(&mut examples, &from, "prediction.toml", &[("segmentation.nii.gz", map)]);
    add::<Summary>(
        &mut examples,
        &from,
        "summary.toml",
        &[("summary.csv", b"case,label\n".to_vec())],
    );
    add::<Postprocessing>(&mut examples, &from, "postprocess.toml", &[]);
    let previous = [("previous.npy", npy::encode(&label.view()))];
    add::<Previous>(&mut examples, &from, "previous.toml", &previous);
    add::<Selection>(&mut examples, &from, "selection.toml", &[]);
}
