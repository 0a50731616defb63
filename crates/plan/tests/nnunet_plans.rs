//! Equal plans: from the same fingerprints the plans of nnU-Net 2.8.1, to the last digit, and back from its plans.
//!
//! There is no tolerance: a planner is a few divisions, roots and medians in f64, and both sides do them in the same order.
#![expect(clippy::disallowed_methods, reason = "tests write nnU-Net's files")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use artifact::dataset::Dataset;
use artifact::plan::{NnunetNames, Plan};
use artifact::{crop, recipe::Recipe};
use plan::measured::Measured;
use plan::nnunet::{self, Described};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use support::shared;

/// The first place where two values differ, types of numbers included.
fn difference(found: &Value, expected: &Value, path: &str) -> Option<String> {
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = b.keys().chain(a.keys());
            keys.into_iter().find_map(|key| {
                let null = Value::String("nothing".into());
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                difference(a, b, &format!("{path}.{key}"))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.into_iter().find_map(|(i, (a, b))| difference(a, b, &format!("{path}[{i}]")))
        }
        _ if found == expected => None,
        _ => Some(format!("{path} = {found}, expected {expected}")),
    }
}

fn assert_same(found: &Value, expected: &Value, what: &str) {
    if let Some(difference) = difference(found, expected, "") {
        panic!("{what}: {difference}");
    }
}

fn with_memory(name: &str, gib: Option<f64>) -> Recipe {
    let mut recipe = support::recipe(name);
    if let (artifact::recipe::Planning::V2(planning), Some(gib)) = (&mut recipe.planning, gib) {
        planning.gpu_memory_gib = gib;
    }
    recipe
}

fn exported(plan: &Plan, dataset: Option<&str>) -> Value {
    let names = NnunetNames { dataset: dataset.map(String::from), ..NnunetNames::default() };
    let value = nnunet::export(plan, &names).unwrap();
    // As written and read again: numbers survive.
    serde_json::from_str(&nnunet::pretty(&value)).unwrap()
}

/// Plans with their file's path, fingerprint and description.
fn imported(plans: &Value, described: &Described) -> Plan {
    let read = nnunet::import(&plans.to_string(), &described.json, true).unwrap();
    let recipe = support::recipe(read.recipe);
    let plan = described.plan(read, &recipe);
    artifact::Kind::check(&plan).unwrap();
    plan
}

#[test]
fn nnu_net_s_plans_of_six_data_sets_come_out_key_for_key_and_go_back_in() {
    let Some(folder) = shared("golden/planner") else { return };
    let mut compared = 0;
    for dataset in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        let described = Described::load(&dataset.join("dataset.json")).unwrap();
        let measured =
            nnunet::measured(&dataset.join("dataset_fingerprint.json"), &described).unwrap();
        for file in fs::read_dir(dataset.join("official_2.8.1")).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_stem().unwrap().to_str().unwrap();
            let (planner, memory) = name.split_once('_').unwrap();
            let memory: f64 = memory.trim_end_matches("GB").parse().unwrap();
            let recipe = match planner {
                "ExperimentPlanner" => with_memory("v2", Some(memory)),
                other => {
                    let preset = other.trim_start_matches("ResEnc").to_lowercase();
                    let recipe = support::recipe(&format!("v2-resenc-{preset}"));
                    assert_eq!(recipe.planning.gpu_memory_gib(), memory);
                    recipe
                }
            };
            let expected: Value =
                serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            let what = format!("{} {name}", dataset.file_name().unwrap().display());
            let plan = plan::plan(&measured, &recipe);
            let name = expected["dataset_name"].as_str();
            assert_same(&exported(&plan, name), &expected, &what);
            let back = imported(&expected, &described);
            assert_same(&exported(&back, None), &expected, &format!("{what}, imported"));
            // Import gives what planning gives, but for names, memory and what nnU-Net's files don't say.
            for (name, c) in &plan.configurations {
                let mut read = back.configurations[name].clone();
                read.median_shape[0] = c.median_shape[0];
                assert_eq!(&read, c, "{what}, imported {name}");
            }
            assert_eq!((&back.channels, &back.labels), (&plan.channels, &plan.labels), "{what}");
            compared += 1;
        }
    }
    assert_eq!(compared, 6 * 7);
}

/// The part of `plans.json` that `make_planner.py` keeps.
fn decided(plans: &Value) -> Value {
    let keys = [
        "plans_name",
        "original_median_spacing_after_transp",
        "original_median_shape_after_transp",
        "image_reader_writer",
        "transpose_forward",
        "transpose_backward",
        "experiment_planner_used",
    ];
    let mut kept: Map<String, Value> =
        keys.iter().map(|key| ((*key).into(), plans[*key].clone())).collect();
    let mut all = Map::new();
    for (name, c) in plans["configurations"].as_object().unwrap() {
        let mut c = c.as_object().unwrap().clone();
        c.retain(|key, _| !key.starts_with("resampling_fn") && key != "preprocessor_name");
        if let Some(architecture) = c.remove("architecture") {
            let class = architecture["network_class_name"].as_str().unwrap();
            c.insert("network_class_name".into(), json!(class.rsplit('.').next()));
            for (key, value) in architecture["arch_kwargs"].as_object().unwrap() {
                let shape = key.starts_with("n_") && key != "n_stages";
                let shape = shape || key.ends_with("_per_stage") || key == "kernel_sizes";
                if shape && !key.ends_with("_op") || key == "strides" {
                    c.insert(key.clone(), value.clone());
                }
            }
        }
        all.insert(name.clone(), Value::Object(c));
    }
    kept.insert("configurations".into(), Value::Object(all));
    Value::Object(kept)
}

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn nnu_net_s_plans_of_made_up_data_sets_come_out_key_for_key_and_go_back_in() {
    let folder = tempfile::tempdir().unwrap();
    let (fingerprint, json) =
        (folder.path().join("dataset_fingerprint.json"), folder.path().join("dataset.json"));
    let rows = golden("planner.json");
    for (i, row) in rows.as_array().unwrap().iter().enumerate() {
        fs::write(&fingerprint, row["fingerprint"].to_string()).unwrap();
        fs::write(&json, row["dataset"].to_string()).unwrap();
        let described = Described::load(&json).unwrap();
        let measured = nnunet::measured(&fingerprint, &described).unwrap();
        let recipe = with_memory(row["recipe"].as_str().unwrap(), row["gpu_memory"].as_f64());
        let plan = plan::plan(&measured, &recipe);
        artifact::Kind::check(&plan).unwrap_or_else(|e| panic!("row {i}: {e}"));
        let plans = exported(&plan, Some("Dataset000_Numbers"));
        assert_same(&decided(&plans), &row["plans"], &format!("row {i}"));
        let back = imported(&plans, &described);
        assert_same(&exported(&back, None), &plans, &format!("row {i}, imported"));
    }
    assert_eq!(rows.as_array().unwrap().len(), 36);
}

/// What `nnu-fingerprint` measures of the cases, as far as it enters the configurations.
fn task04() -> Option<Measured> {
    let dataset = Dataset::load(&shared("Task04_Hippocampus")?).unwrap();
    let mut fingerprint = support::fingerprint([1; 3], [1.0; 3], dataset.training.len(), 3);
    for (measured, case) in fingerprint.cases.iter_mut().zip(&dataset.training) {
        let image = dataset.read_image(case).unwrap();
        measured.spacing_mm = image.geometry.spacing_mm;
        let bounds = crop::bounding_box(&crop::nonzero_mask(image.channels.view()));
        measured.cropped_shape = bounds.map(|range| range.len());
    }
    Some(Measured::from(&fingerprint))
}

#[test]
fn our_own_measures_of_task04_lead_to_nnu_net_s_plans_of_the_same_cases() {
    let Some(measured) = task04() else { return };
    let expected = golden("task04.json");
    assert_eq!(expected["cases"], measured.training_cases);
    for (recipe, plans) in expected["plans"].as_object().unwrap() {
        let plan = plan::plan(&measured, &support::recipe(recipe));
        assert_same(&decided(&exported(&plan, None)), plans, recipe);
    }
}
