//! The recipes as nnu-plan ships them.

use artifact::recipe::Recipe;

pub(crate) fn recipe(name: &str) -> Recipe {
    let text = match name {
        "paper" => include_str!("../../../plan/recipes/paper.toml"),
        "v2" => include_str!("../../../plan/recipes/v2.toml"),
        _ => panic!("no recipe {name}"),
    };
    toml::from_str(text).unwrap()
}
