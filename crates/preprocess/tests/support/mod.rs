//! A plan for tests: plan.toml of this folder with the built-in recipe `paper`.

use artifact::plan::Plan;
use std::path::Path;

fn table(file: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

pub fn plan() -> Plan {
    let mut plan = table("tests/support/plan.toml");
    plan.insert("recipe".into(), table("../plan/recipes/paper.toml").into());
    plan.try_into().unwrap()
}
