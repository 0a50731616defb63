//! Every number of a plan: what no stage could work with is refused by its name. Keys are found in the record itself, so
//! that a new one can't be forgotten.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::Kind;
use artifact::plan::Plan;
use toml::{Table, Value};

/// The committed plan, with the recipe of either planner.
fn plans() -> [Table; 2] {
    let plan: Table = include_str!("golden/records/plan.3/plan.toml").parse().unwrap();
    let mut v2 = plan.clone();
    let recipe: Table = include_str!("../../plan/recipes/v2.toml").parse().unwrap();
    v2.insert("recipe".into(), recipe.into());
    // Keys that may be missing.
    let axes = Value::Array((0..3).map(Value::Integer).collect());
    v2["recipe"]["inference"].as_table_mut().unwrap().insert("mirror_axes".into(), axes);
    [plan, v2]
}

/// Where a number stands: keys and positions.
type Place = Vec<String>;

fn numbers(value: &Value, at: &Place, found: &mut Vec<Place>) {
    let inside = |step: String| [at.as_slice(), &[step]].concat();
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, value)| numbers(value, &inside(key.clone()), found));
        }
        Value::Array(all) => {
            let all = all.iter().enumerate();
            all.for_each(|(i, value)| numbers(value, &inside(i.to_string()), found));
        }
        Value::Float(_) | Value::Integer(_) => found.push(at.clone()),
        _ => {}
    }
}

fn value_at<'a>(plan: &'a mut Table, place: &Place) -> &'a mut Value {
    let mut steps = place.iter();
    let mut value = plan.get_mut(steps.next().unwrap()).unwrap();
    for step in steps {
        value = match value {
            Value::Array(all) => &mut all[step.parse::<usize>().unwrap()],
            other => other.get_mut(step).unwrap(),
        };
    }
    value
}

/// The last key on the way to a number.
fn key(place: &Place) -> &str {
    place.iter().rev().find(|step| step.parse::<usize>().is_err()).unwrap()
}

/// How the plan with this value in this place is refused; none if it isn't.
fn refused(plan: &Table, place: &Place, value: Value) -> Option<String> {
    let mut changed = plan.clone();
    *value_at(&mut changed, place) = value;
    // Through a record's text, as every plan comes.
    match toml::from_str::<Plan>(&toml::to_string(&changed).unwrap()) {
        Ok(plan) => plan.check().err(),
        Err(error) => Some(error.to_string()),
    }
}

/// Calls `each` for every number of both plans but those of the header.
fn every_number(mut each: impl FnMut(&Table, &Place, &Value)) {
    for plan in plans() {
        toml::from_str::<Plan>(&toml::to_string(&plan).unwrap()).unwrap().check().unwrap();
        let mut found = Vec::new();
        numbers(&Value::Table(plan.clone()), &Vec::new(), &mut found);
        found.retain(|place| !matches!(place[0].as_str(), "artifact" | "provenance"));
        assert!(found.len() > 140, "{}", found.len());
        for place in &found {
            let value = value_at(&mut plan.clone(), place).clone();
            each(&plan, place, &value);
        }
    }
}

#[test]
fn no_float_may_be_nan_infinite_or_senseless() {
    // Turns go both ways, and intensities are what they are.
    let may_be_negative = [
        "rotation_degrees_3d",
        "rotation_degrees_2d",
        "rotation_degrees_2d_elongated",
        "mean",
        "min",
        "median",
        "max",
        "percentile_00_5",
    ];
    let mut allowed = Vec::new();
    every_number(|plan, place, value| {
        if !value.is_float() {
            return;
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, -1.0] {
            match refused(plan, place, Value::Float(bad)) {
                Some(error) => {
                    assert!(error.contains(key(place)), "{place:?} = {bad}: {error}");
                    assert!(error.len() < 300 || error.contains('\n'), "{error}");
                }
                None => allowed.push((key(place).to_string(), bad)),
            }
        }
    });
    for (key, bad) in &allowed {
        assert!(*bad == -1.0 && may_be_negative.contains(&key.as_str()), "{key} = {bad} passes");
    }
    for key in may_be_negative {
        assert!(allowed.iter().any(|(found, _)| found == key), "{key}");
    }
}

#[test]
fn no_count_may_be_beyond_any_machine() {
    // Nothing to wait for, validate or keep; the axis and the order 0; the label 0 is the background.
    let may_be_0 = [
        "training_cases",
        "transpose",
        "value",
        "mirror_axes",
        "image_order",
        "image_order_coarse_axis",
        "label_order",
        "label_order_coarse_axis",
        "resample_order",
        "resample_order_coarse_axis",
        "foreground_locations_per_class",
        "validation_iterations",
        "reduce_after_epochs",
        "stop_after_epochs",
    ];
    // Elements of a network's outputs.
    let may_be_large = ["reference_estimate_3d", "reference_estimate_2d"];
    every_number(|plan, place, value| {
        if !value.is_integer() {
            return;
        }
        for bad in [0, 1 << 31, 1 << 40, i64::MAX] {
            let allowed = (bad == 0 && may_be_0.contains(&key(place)))
                || (bad < 1 << 50 && may_be_large.contains(&key(place)));
            match refused(plan, place, Value::Integer(bad)) {
                Some(error) => assert!(error.contains(key(place)), "{place:?} = {bad}: {error}"),
                None => assert!(allowed, "{place:?} = {bad} passes"),
            }
        }
    });
}

/// A list as long as a hostile file likes.
#[test]
fn no_network_may_have_more_stages_than_shifts_can_count() {
    for stages in [0, 1, 17, 65, 1000] {
        let mut plan = plans()[0].clone();
        let network = plan["configurations"]["3d_fullres"]["network"].as_table_mut().unwrap();
        let rows = |n: usize, row: Value| Value::Array(vec![row; n]);
        let triple = |n: i64| Value::Array(vec![Value::Integer(n); 3]);
        let mut strides = vec![triple(2); stages];
        strides.iter_mut().take(1).for_each(|first| *first = triple(1));
        network.insert("strides".into(), strides.into());
        network.insert("kernels".into(), rows(stages, triple(1)));
        for key in ["features", "encoder_convs"] {
            network.insert(key.into(), rows(stages, 1.into()));
        }
        network.insert("decoder_convs".into(), rows(stages.saturating_sub(1), 1.into()));
        let plan: Plan = toml::from_str(&toml::to_string(&plan).unwrap()).unwrap();
        let error = plan.check().unwrap_err();
        let entries = if stages == 1 { "entry" } else { "entries" };
        assert_eq!(
            error,
            format!(
                "configurations.3d_fullres.network.features has {stages} {entries}, expected 2 to 16, one per stage: a U-Net pools at least once"
            )
        );
        // Asked of an unchecked network, it neither wraps around nor panics.
        let network = &plan.configurations["3d_fullres"].network;
        assert!(stages < 65 || network.divisor().iter().all(|&n| n > 1 << 62));
    }
}

#[test]
fn a_batch_beyond_any_machine_is_refused_as_a_whole() {
    let plan: Plan = toml::from_str(&toml::to_string(&plans()[0]).unwrap()).unwrap();
    let with = |patch: [usize; 3], batch: usize| {
        let mut plan = plan.clone();
        let c = plan.configurations.get_mut("3d_fullres").unwrap();
        (c.patch_shape, c.batch_size) = (patch, batch);
        plan.check()
    };
    with([1024, 1024, 1024], 2).unwrap();
    assert_eq!(
        with([1024, 1024, 1024], 3).unwrap_err(),
        "configurations.3d_fullres.batch_size = 3 of patch_shape = [1024, 1024, 1024], expected at most 2147483648 voxels together"
    );
    assert_eq!(
        with([1 << 30; 3], 1).unwrap_err(),
        "configurations.3d_fullres.patch_shape = [1073741824, 1073741824, 1073741824], expected 1 to 65536 each"
    );
}

#[test]
fn configurations_do_not_lead_back_to_themselves() {
    let plan: Plan = toml::from_str(&toml::to_string(&plans()[0]).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        let full = plan.configurations["3d_fullres"].clone();
        for name in ["a", "b"] {
            plan.configurations.insert(name.into(), full.clone());
        }
        plan.check().unwrap();
        change(&mut plan);
        plan.check().unwrap_err()
    };
    fn of<'a>(plan: &'a mut Plan, name: &str) -> &'a mut artifact::plan::Configuration {
        plan.configurations.get_mut(name).unwrap()
    }
    let circle = "configurations.a.previous_stage = \"a\", expected no circle of stages";
    assert_eq!(refused(&|p| of(p, "a").previous_stage = Some("a".into())), circle);
    let refusal = refused(&|p| {
        of(p, "a").previous_stage = Some("b".into());
        of(p, "b").previous_stage = Some("a".into());
    });
    assert_eq!(refusal, circle);
    let cases = |name: &str, of: &str| {
        format!(
            "configurations.{name}.cases_from = \"{of}\", expected another configuration that has cases of its own"
        )
    };
    assert_eq!(refused(&|p| of(p, "b").cases_from = Some("b".into())), cases("b", "b"));
    let chain = refused(&|p| {
        of(p, "a").cases_from = Some("b".into());
        of(p, "b").cases_from = Some("3d_fullres".into());
    });
    assert_eq!(chain, cases("a", "b"));
}
