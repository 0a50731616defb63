//! Settings that are numbers of the right type, but that no stage could work with, are refused by key.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::plan::Plan;
use artifact::recipe::Recipe;

/// Replaces a key's line in a table of the committed plan's recipe, and says how the recipe is refused.
fn refused(table: &str, key: &str, line: &str) -> String {
    let good = include_str!("golden/records/plan.3/plan.toml");
    let recipe = |text: &str| -> Recipe { toml::from_str::<Plan>(text).unwrap().recipe };
    recipe(good).check().unwrap();
    let from = good.find(&format!("[recipe.{table}]")).unwrap();
    let at = from + good[from..].find(&format!("\n{key} =")).unwrap() + 1;
    let end = at + good[at..].find('\n').unwrap();
    recipe(&format!("{}{line}{}", &good[..at], &good[end..])).check().unwrap_err()
}

#[test]
fn recipes_that_no_training_could_follow_are_refused_by_key() {
    let augmentation = [
        ("elastic_sigma", "[0.0, 13.0]", "[0, 13], expected 0.1 to 1000"),
        ("elastic_sigma", "[1e-170, 13.0]", "[1e-170, 13], expected 0.1 to 1000"),
        ("elastic_sigma", "[0.09, 13.0]", "[0.09, 13], expected 0.1 to 1000"),
        ("elastic_sigma", "[-1.0, 13.0]", "[-1, 13], expected 0.1 to 1000"),
        ("elastic_sigma", "[9.0, 1e300]", "[9, 1e300], expected 0.1 to 1000"),
        ("elastic_alpha_3d", "[-0.5, 900.0]", "[-0.5, 900], expected 0 to 100000"),
        ("elastic_alpha_2d", "[-1.0, 200.0]", "[-1, 200], expected 0 to 100000"),
        ("mirror_axes", "[0, 2, 0]", "[0, 2, 0], expected each of 0, 1, 2 at most once"),
        ("mirror_axes", "[3]", "[3], expected each of 0, 1, 2 at most once"),
    ];
    for (key, value, rest) in augmentation {
        let line = format!("{key} = {value}");
        let error = refused("augmentation", key, &line);
        assert_eq!(error, format!("recipe.augmentation.{key} = {rest}"));
    }
    let (share, between) = ("expected 0 or more and below 1", "expected above 0 and below 1");
    let positive = "expected 1e-16 to 1";
    for (table, key, value, rule) in [
        ("optimiser", "beta1", "1", share),
        ("optimiser", "beta1", "-0.1", share),
        ("optimiser", "beta2", "1.5", share),
        ("optimiser", "beta2", "NaN", share),
        ("optimiser", "momentum", "1", share),
        ("optimiser", "weight_decay", "-0.001", share),
        ("optimiser", "epsilon", "0", positive),
        ("optimiser", "epsilon", "-0.1", positive),
        ("schedule", "train_average_decay", "1", share),
        ("schedule", "validation_average_decay", "-0.5", share),
        ("schedule", "reduce_factor", "0", between),
        ("schedule", "reduce_factor", "1", between),
    ] {
        let number = if value == "NaN" {
            "nan".into()
        } else {
            format!("{:?}", value.parse::<f64>().unwrap())
        };
        let line = format!("{key} = {number}");
        let error = refused(table, key, &line);
        assert_eq!(error, format!("recipe.{table}.{key} = {value}, {rule}"));
    }
}
