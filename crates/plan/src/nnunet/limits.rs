//! What nnU-Net v2 does in its own way, whatever a plan says. Where its images, networks or labels would be others the plan
//! isn't exported at all: [`Plan::check_for_nnunet`].

use crate::recipe::Resolved;
use artifact::plan::Plan;
use artifact::recipe::Recipe;
use toml::{Table, Value};

/// Keys of the recipe that reach nnU-Net by `plans.json` or by the checkpoint.
const EXPORTED: [&str; 8] = [
    "preprocessing.image_order",
    "preprocessing.image_order_coarse_axis",
    "preprocessing.label_order",
    "preprocessing.label_order_coarse_axis",
    "inference.mirroring",
    "inference.mirror_axes",
    "inference.resample_order",
    "inference.resample_order_coarse_axis",
];

/// What nnU-Net's trainer and predictor do in their own way, whatever the plan says; one line each.
pub(super) fn departures(plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    let background = &plan.labels[0].name;
    if background != "background" {
        found.push(format!(
            "labels: the background is called {background}; nnU-Net v2 wants it called background in dataset.json"
        ));
    }
    let keys = own_keys(&plan.recipe);
    if !keys.is_empty() {
        found.push(format!(
            "plans.json has no place for what nnU-Net v2 has in its code; it trains and predicts otherwise than {}",
            keys.join(", ")
        ));
    }
    let shallow = plan.configurations.iter().filter(|(_, c)| !c.network.deep_supervision);
    let shallow: Vec<&str> = shallow.map(|(name, _)| name.as_str()).collect();
    if !shallow.is_empty() {
        found.push(format!(
            "{}: trained without deep supervision by nnUNetTrainerNoDeepSupervision only",
            shallow.join(", ")
        ));
    }
    found
}

/// Keys in which a recipe differs from nnU-Net's code, such as `schedule.epochs = 20 (1000)`.
fn own_keys(recipe: &Recipe) -> Vec<String> {
    let theirs = Resolved::built_in("v2").and_then(|recipe| recipe.recipe());
    let tables = theirs
        .ok()
        .and_then(|theirs| Some((Table::try_from(recipe).ok()?, Table::try_from(&theirs).ok()?)));
    let Some((ours, theirs)) = tables else { return vec![] };
    let mut keys = Vec::new();
    for (part, value) in &ours {
        let (Value::Table(values), Some(Value::Table(known))) = (value, theirs.get(part)) else {
            continue;
        };
        // What the planner decided stands in plans.json.
        for (key, value) in values.iter().filter(|_| part != "planning") {
            let path = format!("{part}.{key}");
            let own = known.get(key);
            if own != Some(value) && !EXPORTED.contains(&path.as_str()) {
                let own = own.map_or_else(|| "none".into(), ToString::to_string);
                keys.push(format!("{path} = {value} ({own})"));
            }
        }
    }
    keys
}
