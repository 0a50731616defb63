//! Whether `plans.json` describes the network whose weights are to lie beside it.

use artifact::plan::{Encoder, Network};
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
    let Some(architecture) = architecture(plans, configuration)? else { return Ok(()) };
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
    Ok(())
}

/// The architecture of a configuration, or of the one that it inherits from.
fn architecture<'a>(plans: &'a Value, configuration: &str) -> Result<Option<&'a Value>, String> {
    let mut name = configuration;
    // As many steps as there are configurations, so that a circle ends.
    let configurations = plans["configurations"].as_object().ok_or("has no configurations")?;
    for _ in 0..=configurations.len() {
        let found =
            configurations.get(name).ok_or_else(|| format!("has no configuration \"{name}\""))?;
        if let Some(architecture) = found.get("architecture") {
            return Ok(Some(architecture));
        }
        match found.get("inherits_from").and_then(Value::as_str) {
            Some(parent) => name = parent,
            None => return Ok(None),
        }
    }
    Err(format!("configurations.{configuration} inherits from itself"))
}
