//! Whatever a recipe's check lets pass gives finite batches: every range of the augmentation at both ends of what it may
//! be. The keys are found in the recipe, and the ends by asking its check.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/opened.rs"]
mod opened;
#[allow(dead_code, reason = "shared with other tests")]
mod support;

use artifact::recipe::Recipe;
use augment::{Loader, Mode};
use opened::{cases, configuration};
use support::recipe;
use tempfile::tempdir;
use toml::{Table, Value};

/// What ends of ranges are made of.
const CANDIDATES: [f64; 24] = [
    -360.0, -1.0, 0.0, 1e-300, 1e-170, 1e-100, 1e-16, 1e-6, 1e-3, 0.01, 0.1, 0.5, 1.0, 2.0, 10.0,
    50.0, 64.0, 100.0, 360.0, 1000.0, 1e4, 1e5, 1e6, 1e30,
];

fn checked(table: &Table) -> Option<Recipe> {
    let recipe: Recipe = table.clone().try_into().ok()?;
    recipe.check().is_ok().then_some(recipe)
}

/// With every transform in every sample.
fn everything() -> Table {
    let mut table = Table::try_from(recipe()).unwrap();
    let augmentation = table["augmentation"].as_table_mut().unwrap();
    for (key, value) in augmentation.iter_mut() {
        if key.ends_with("_probability") && key != "elastic_probability" {
            *value = Value::Float(1.0);
        }
    }
    table
}

#[test]
fn ranges_at_both_ends_of_what_they_may_be_give_finite_batches() {
    let folder = tempdir().unwrap();
    let cases = cases(folder.path(), &[[14, 18, 12], [9, 22, 15]], 2, true);
    let all = everything();
    let is_range = |value: &Value| {
        value.as_array().is_some_and(|a| a.len() == 2 && a.iter().all(Value::is_float))
    };
    let augmentation = all["augmentation"].as_table().unwrap();
    let keys: Vec<&String> =
        augmentation.iter().filter(|(_, v)| is_range(v)).map(|(key, _)| key).collect();
    assert!(keys.len() >= 14, "{keys:?}");
    for key in keys {
        let with = |x: f64| {
            let mut table = all.clone();
            let augmentation = table["augmentation"].as_table_mut().unwrap();
            augmentation[key] = Value::Array(vec![Value::Float(x); 2]);
            if key.starts_with("elastic") {
                augmentation["elastic_probability"] = Value::Float(1.0);
            }
            checked(&table)
        };
        let legal: Vec<f64> = CANDIDATES.into_iter().filter(|&x| with(x).is_some()).collect();
        let (lowest, highest) = (legal[0], legal[legal.len() - 1]);
        assert!(lowest > -1000.0 && highest < 1e30, "{key} has no end");
        for x in [lowest, highest] {
            for patch in [[8, 12, 8], [1, 16, 16]] {
                let settings = configuration(patch, 2, 2);
                let loader =
                    Loader::new(cases.clone(), &settings, &with(x).unwrap(), Mode::Training, 3);
                let batch = loader.unwrap().batch(0);
                assert!(batch.image.iter().all(|v| v.is_finite()), "{key} = {x}, {patch:?}");
            }
        }
    }
}

#[test]
fn a_blur_of_no_width_changes_nothing() {
    let sharp = ndarray::Array3::from_shape_fn((4, 5, 6), |(z, y, x)| (z * 30 + y * 6 + x) as f32);
    for width in [0.0, 1e-300, 1e-3] {
        assert_eq!(augment::blur::kernel(width), [1.0]);
        let mut blurred = sharp.clone();
        augment::blur::blur(blurred.view_mut(), [width; 3]);
        assert_eq!(blurred, sharp);
    }
}
