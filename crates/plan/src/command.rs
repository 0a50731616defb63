//! A plan together with what the user sets: recipe keys, then keys of the planned configurations.

use crate::measured::Measured;
use crate::recipe::Resolved;
use crate::settings::{self, Setting};
use crate::{Fixed, nnunet, plan_with, text};
use artifact::Kind;
use artifact::bounds::MAX_PATCH_EDGE;
use artifact::plan::Plan;
use artifact::recipe::{Planning, Recipe, Weighting};
use stage::{Error, Result};
use std::path::Path;
use toml_edit::{DocumentMut, Value};

const CONFIGURATIONS: &str = "configurations.";

/// nnU-Net's statistics give every case the same weight, whatever the recipe asks for.
fn weighted_per_case() -> Setting {
    Setting { key: "planning.intensity_weighting".into(), value: "\"per_case\"".into() }
}

/// The plan and its commented text.
///
/// `--set` keys under `configurations.NAME` change the planned configuration; everything else is a key of the recipe.
/// A `spacing_mm` or `patch_shape` that is set counts as given: median shape, poolings and batch follow from it, unless
/// they are set as well.
///
/// # Errors
/// If a key is unknown, a value has the wrong type, or the settings contradict each other.
pub fn assemble(
    measured: impl Into<Measured>,
    mut recipe: Resolved,
    set: &[Setting],
) -> Result<(Plan, String)> {
    let measured = &measured.into();
    let (planned, chosen): (Vec<&Setting>, Vec<&Setting>) =
        set.iter().partition(|s| s.key.starts_with(CONFIGURATIONS));
    let recipe_keys = recipe.keys();
    for setting in chosen {
        recipe.set(setting).map_err(|e| {
            // The nearest key may be one of a configuration.
            if recipe_keys.contains(&setting.key) { e } else { unknown(measured, &recipe, setting) }
        })?;
    }
    if measured.weighting(&recipe.recipe()?) == Weighting::PerCase {
        recipe.change(&weighted_per_case(), "nnU-Net's fingerprint")?;
    }
    let values = recipe.recipe()?;
    let failed = |e| Error::failed(format!("the plan cannot be written: {e}"));
    let mut document =
        text::decisions(&plan_with(measured, &values, &Fixed::default())).map_err(failed)?;
    let fixed = fixed(&planned, &mut document)?;
    if fixed != Fixed::default() {
        document = text::decisions(&plan_with(measured, &values, &fixed)).map_err(failed)?;
    }
    if settings::keys(&document).iter().all(|key| !key.starts_with(CONFIGURATIONS)) {
        return Err(too_small(measured, &values));
    }
    finish(document, recipe, &values, &planned)
}

/// Cases of one voxel, by which no network can be planned.
fn too_small(measured: &Measured, recipe: &Recipe) -> Error {
    let geometry = plan_with(measured, recipe, &Fixed::default()).geometry;
    let (shape, spacing) = (geometry.median_shape, geometry.median_spacing_mm);
    Error::input(format!(
        "the median case has {:?} voxels at {:?} mm and one voxel at the target spacing, expected two or more along an axis, for a U-Net to pool",
        shape.unwrap_or_default(),
        spacing.unwrap_or_default()
    ))
    .hint("look whether the sizes and spacings in the fingerprint are right")
}

/// nnU-Net's plans as a plan and its commented text. The recipe is that of its planner unless one is given; the orders of
/// resampling in the plans go before the recipe's, `set` before both.
///
/// # Errors
/// If the plans or `dataset.json` are broken or say what these programs can't do; see [`nnunet::import`].
pub fn import(
    plans: &Path,
    dataset_json: &Path,
    recipe: Option<Resolved>,
    set: &[Setting],
) -> Result<(Plan, String)> {
    let described = nnunet::Described::load(dataset_json)?;
    let text = artifact::file::json(plans, "read nnU-Net's plans")?;
    let fault = |e: String| Error::input(format!("{}: {e}", plans.display()));
    let read = |deep| nnunet::import(&text, &described.json, deep).map_err(fault);
    let imported = read(true)?;
    let mut recipe = match recipe {
        Some(recipe) => recipe,
        None => Resolved::built_in(imported.recipe)?,
    };
    for (key, order) in &imported.settings {
        let setting = Setting { key: (*key).into(), value: order.to_string() };
        recipe.change(&setting, "plans.json").map_err(|e| fault(e.message))?;
    }
    let (planned, chosen): (Vec<&Setting>, Vec<&Setting>) =
        set.iter().partition(|s| s.key.starts_with(CONFIGURATIONS));
    for setting in chosen {
        recipe.set(setting)?;
    }
    recipe.change(&weighted_per_case(), "plans.json")?;
    let values = recipe.recipe()?;
    let imported = match &values.planning {
        Planning::Paper(planning) => read(planning.deep_supervision)?,
        Planning::V2(planning) => read(planning.deep_supervision)?,
    };
    let plan = described.plan(imported, &values);
    plan.check().map_err(fault)?;
    let document = text::decisions(&plan).map_err(|e| Error::failed(format!("the plan: {e}")))?;
    finish(document, recipe, &values, &planned)
}

/// Sets keys of the planned configurations and puts the recipe behind the decisions.
fn finish(
    mut document: DocumentMut,
    recipe: Resolved,
    values: &Recipe,
    planned: &[&Setting],
) -> Result<(Plan, String)> {
    let failed = |e: String| Error::failed(format!("the plan cannot be written: {e}"));
    for setting in planned {
        let keys = settings::keys(&document);
        let Some(old) = settings::value_mut(&mut document, &setting.key) else {
            return Err(settings::unknown("--set", &setting.key, keys.iter()));
        };
        let value = setting.value_like(old)?;
        settings::replace(old, value, "--set");
    }
    let plan = text::read(&document, values).and_then(|p| p.check().map(|()| p));
    let plan = plan.map_err(|e| {
        let keys: Vec<&str> = planned.iter().map(|s| s.key.as_str()).collect();
        if keys.is_empty() {
            // What is measured or asked for in the recipe leads beyond what a plan can say.
            Error::input(format!("this plan makes no sense: {e}"))
                .hint("look at the fingerprint's shapes and spacings, and at the recipe's numbers")
        } else {
            Error::usage(format!("--set {}: {e}", keys.join(", ")))
        }
    })?;
    let text = text::body(&document, recipe.document());
    match toml::from_str::<Plan>(&text) {
        Ok(read) if read == plan => Ok((plan, text)),
        Ok(_) => Err(failed("its text reads back differently".into())),
        Err(e) => Err(failed(e.message().into())),
    }
}

fn unknown(measured: &Measured, recipe: &Resolved, setting: &Setting) -> Error {
    let mut keys = recipe.keys();
    let plan = recipe.recipe().map(|values| plan_with(measured, &values, &Fixed::default()));
    if let Ok(Ok(document)) = plan.map(|p| text::decisions(&p)) {
        keys.extend(
            settings::keys(&document).into_iter().filter(|k| k.starts_with(CONFIGURATIONS)),
        );
    }
    settings::unknown("--set", &setting.key, keys.iter())
}

/// The spacings and patches among the settings.
fn fixed(set: &[&Setting], document: &mut DocumentMut) -> Result<Fixed> {
    let mut fixed = Fixed::default();
    for setting in set {
        let keys = settings::keys(document);
        let Some(old) = settings::value_mut(document, &setting.key) else {
            let planned = keys.iter().filter(|k| k.starts_with(CONFIGURATIONS));
            return Err(settings::unknown("--set", &setting.key, planned));
        };
        let value = setting.value_like(old)?;
        let path = setting.key.trim_start_matches(CONFIGURATIONS);
        let Some((name, key)) = path.split_once('.') else { continue };
        let fail = |expected: &str| {
            Error::usage(format!("--set {}={}: expected {expected}", setting.key, setting.value))
        };
        match key {
            "spacing_mm" => {
                let three = three(&value, Value::as_float);
                let three = three.filter(|s| s.iter().all(|x| x.is_finite() && *x > 0.0));
                let three = three.ok_or_else(|| fail("three positive numbers, in mm"))?;
                fixed.spacing_mm.insert(name.into(), three);
            }
            "patch_shape" => {
                let edge = |v: &Value| v.as_integer().and_then(|n| usize::try_from(n).ok());
                let three = three(&value, edge);
                let three = three.filter(|p| p.iter().all(|n| (1..=MAX_PATCH_EDGE).contains(n)));
                let expected = format!("three edges of 1 to {MAX_PATCH_EDGE} voxels");
                let three = three.ok_or_else(|| fail(&expected))?;
                fixed.patch_shape.insert(name.into(), three);
            }
            _ => {}
        }
    }
    Ok(fixed)
}

fn three<T>(value: &Value, each: impl Fn(&Value) -> Option<T>) -> Option<[T; 3]> {
    let all: Option<Vec<T>> = value.as_array()?.iter().map(each).collect();
    all?.try_into().ok()
}
