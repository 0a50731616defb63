//! Whether `plans.json` describes the network whose weights are to lie beside it.

use artifact::dataset::DatasetJson;
use artifact::plan::{Configuration, Encoder, Network, Plan};
use artifact::{Label, Region};
use serde_json::Value;

/// Compares the architecture of a configuration with a network, key by key. Plans of nnU-Net before 2.4 have no
/// `architecture`; of those only the configuration is looked up.
///
/// # Errors
/// One line: key, found, expected.
pub fn check_plans(
    plans: &Value,
    configuration: &str,
    network: &Network,
    flat: bool,
) -> Result<(), String> {
    let architecture = inherited(plans, configuration, "architecture")?;
    let Some(architecture) = architecture else { return Ok(()) };
    let at = |key: &str| format!("configurations.{configuration}.architecture.{key}");
    let class = match network.encoder {
        Encoder::Plain => "PlainConvUNet",
        Encoder::Residual => "ResidualEncoderUNet",
    };
    let found = architecture["network_class_name"].as_str().unwrap_or_default();
    if found.rsplit('.').next() != Some(class) {
        return Err(format!("{} = {found:?}, expected {class}", at("network_class_name")));
    }
    let axes = |list: &[[usize; 3]]| -> Value {
        list.iter().map(|axes| axes[usize::from(flat)..].to_vec()).collect()
    };
    let convs = match network.encoder {
        Encoder::Plain => "n_conv_per_stage",
        Encoder::Residual => "n_blocks_per_stage",
    };
    let deepest_first: Vec<usize> = network.decoder_convs.iter().rev().copied().collect();
    let expected = [
        ("features_per_stage", network.features.iter().copied().collect()),
        ("kernel_sizes", axes(&network.kernels)),
        ("strides", axes(&network.strides)),
        (convs, network.encoder_convs.iter().copied().collect()),
        ("n_conv_per_stage_decoder", Value::from(deepest_first)),
    ];
    for (key, expected) in expected {
        let found = &architecture["arch_kwargs"][key];
        if *found != expected {
            let key = at(&format!("arch_kwargs.{key}"));
            return Err(format!("{key} = {found}, expected {expected} as in the plan"));
        }
    }
    let arguments = &architecture["arch_kwargs"];
    let layers = [
        ("nonlin_kwargs", "negative_slope", 0.01, network.negative_slope),
        ("norm_op_kwargs", "eps", 1e-5, network.norm_epsilon),
    ];
    for (table, key, default, expected) in layers {
        let found = arguments[table].get(key).map_or(Some(default), Value::as_f64);
        // Plans say 1e-5 where the network has the nearest f32.
        if found.map(|x| x as f32) != Some(expected) {
            let key = at(&format!("arch_kwargs.{table}.{key}"));
            let found = found.map_or_else(|| "no number".into(), |x| x.to_string());
            return Err(format!("{key} = {found}, expected {expected} as in the plan"));
        }
    }
    Ok(())
}

/// Whether `dataset.json` describes the data set of a plan, as nnU-Net reads it: `text` as it stands in the file, `read` as
/// these programs understand it.
///
/// # Errors
/// One line: key, found, expected.
pub fn check_dataset(text: &Value, read: &DatasetJson, plan: &Plan) -> Result<(), String> {
    let labels = text["labels"].as_object();
    let Some(background) = labels.and_then(|labels| labels.get("background")) else {
        let found = labels.map(|labels| labels.keys().cloned().collect::<Vec<_>>().join(", "));
        return Err(format!(
            "labels has {}, expected background, by which nnU-Net v2 finds value 0; the layout is {{\"background\": 0, \"NAME\": 1}}",
            found.unwrap_or_default()
        ));
    };
    if background.as_i64() != Some(0) {
        return Err(format!("labels.background = {background}, expected 0"));
    }
    let (found, expected) = (read.channels.len(), plan.channels.len());
    if found != expected {
        return Err(format!(
            "channel_names has {found} entries, expected {expected} as in the plan"
        ));
    }
    let (found, expected) = (described(read), planned(plan));
    if found != expected {
        return Err(format!("labels are {found}, expected {expected} as in the plan"));
    }
    Ok(())
}

fn described(read: &DatasetJson) -> String {
    meaning(&read.labels, &read.regions, read.ignore.as_ref())
}

fn planned(plan: &Plan) -> String {
    meaning(&plan.labels, &plan.regions, plan.ignore.as_ref())
}

/// What a network's outputs stand for, such as `a = 1, b = 2`; the background's name counts for nothing.
fn meaning(labels: &[Label], regions: &[Region], ignore: Option<&Label>) -> String {
    let label = |l: &Label| format!("{} = {}", l.name, l.value);
    let region = |r: &Region| format!("{} = {:?} written as {}", r.name, r.values, r.value);
    let mut all: Vec<String> = match regions {
        [] => labels.iter().skip(1).map(label).collect(),
        regions => regions.iter().map(region).collect(),
    };
    all.extend(ignore.map(label));
    all.join(", ")
}

/// Compares what else decides what such a network is shown: patch, spacing and order of the axes.
///
/// # Errors
/// One line: key, found, expected.
pub fn check_geometry(
    plans: &Value,
    name: &str,
    configuration: &Configuration,
    transpose: [usize; 3],
    flat: bool,
) -> Result<(), String> {
    let from = usize::from(flat);
    let expected = [
        ("patch_size", Value::from(configuration.patch_shape[from..].to_vec())),
        ("spacing", Value::from(configuration.spacing_mm[from..].to_vec())),
    ];
    for (key, expected) in expected {
        let found = inherited(plans, name, key)?.unwrap_or(&Value::Null);
        if numbers(found) != numbers(&expected) {
            return Err(format!(
                "configurations.{name}.{key} = {found}, expected {expected} as in the plan"
            ));
        }
    }
    let (found, expected) = (&plans["transpose_forward"], Value::from(transpose.to_vec()));
    if numbers(found) != numbers(&expected) {
        return Err(format!("transpose_forward = {found}, expected {expected} as in the plan"));
    }
    Ok(())
}

/// 1 and 1.0 are the same.
fn numbers(list: &Value) -> Option<Vec<f64>> {
    list.as_array()?.iter().map(Value::as_f64).collect()
}

/// A key of a configuration, or of the one that it inherits from.
fn inherited<'a>(
    plans: &'a Value,
    configuration: &str,
    key: &str,
) -> Result<Option<&'a Value>, String> {
    let mut name = configuration;
    // As many steps as there are configurations, so that a circle ends.
    let configurations = plans["configurations"].as_object().ok_or("has no configurations")?;
    for _ in 0..=configurations.len() {
        let found =
            configurations.get(name).ok_or_else(|| format!("has no configuration \"{name}\""))?;
        if let Some(value) = found.get(key) {
            return Ok(Some(value));
        }
        match found.get("inherits_from").and_then(Value::as_str) {
            Some(parent) => name = parent,
            None => return Ok(None),
        }
    }
    Err(format!("configurations.{configuration} inherits from itself"))
}
