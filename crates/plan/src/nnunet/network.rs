//! The network of nnU-Net's plans.

use super::table::{Table, show};
use super::{DEFAULT_SLOPE, NONLINEARITY, PLAIN, RESIDUAL, layer};
use artifact::bounds::MAX_STAGES;
use artifact::dataset::DatasetJson;
use artifact::plan::{Encoder, Network};
use serde_json::{Value, json};

/// The network of an `architecture`; images have as many channels as `described` says.
pub(super) fn network(
    mut table: Table,
    flat: bool,
    described: &DatasetJson,
    deep_supervision: bool,
) -> Result<Network, String> {
    let expected = format!("\"{PLAIN}\" or \"{RESIDUAL}\"");
    let class: String = table.take("network_class_name", &expected)?;
    let (encoder, layers) = match class.as_str() {
        PLAIN => (Encoder::Plain, "n_conv_per_stage"),
        RESIDUAL => (Encoder::Residual, "n_blocks_per_stage"),
        _ => {
            let key = table.at("network_class_name");
            return Err(format!("{key} = \"{class}\", expected {expected}"));
        }
    };
    table.ignore("_kw_requires_import");
    let mut arguments = table.table("arch_kwargs")?;
    table.finish()?;
    let dimensions = if flat { 2 } else { 3 };
    let expected = format!("a count from 1 to {MAX_STAGES}");
    let stages: usize = arguments.take("n_stages", &expected)?;
    if stages > MAX_STAGES {
        return Err(format!("{} = {stages}, expected {expected}", arguments.at("n_stages")));
    }
    arguments.fixed("conv_op", &json!(layer("conv_op", dimensions)))?;
    arguments.fixed("norm_op", &json!(layer("norm_op", dimensions)))?;
    arguments.fixed("conv_bias", &json!(true))?;
    arguments.fixed("dropout_op", &Value::Null)?;
    arguments.ignore("dropout_op_kwargs");
    arguments.fixed("nonlin", &json!(NONLINEARITY))?;
    let (negative_slope, norm_epsilon) = layer_arguments(&mut arguments)?;
    let mut decoder_convs =
        per_stage(&mut arguments, "n_conv_per_stage_decoder", stages.saturating_sub(1))?;
    // nnU-Net counts its decoder from the deepest stage.
    decoder_convs.reverse();
    let network = Network {
        encoder,
        input_channels: described.channels.len(),
        output_channels: match described.regions.len() {
            0 => described.labels.len(),
            regions => regions,
        },
        features: per_stage(&mut arguments, "features_per_stage", stages)?,
        kernels: per_axis(&mut arguments, "kernel_sizes", stages, flat)?,
        strides: per_axis(&mut arguments, "strides", stages, flat)?,
        encoder_convs: per_stage(&mut arguments, layers, stages)?,
        decoder_convs,
        deep_supervision,
        negative_slope,
        norm_epsilon,
    };
    arguments.finish()?;
    Ok(network)
}

/// Slope below 0, and what the norm adds to the variance.
fn layer_arguments(arguments: &mut Table) -> Result<(f32, f32), String> {
    let mut norm = arguments.table("norm_op_kwargs")?;
    let epsilon = norm.maybe("eps", "a number")?.unwrap_or(1e-5);
    norm.fixed("affine", &json!(true))?;
    norm.finish()?;
    let mut slope = arguments.table("nonlin_kwargs")?;
    slope.ignore("inplace");
    let negative_slope = slope.maybe("negative_slope", "a number")?.unwrap_or(DEFAULT_SLOPE);
    slope.finish()?;
    Ok((negative_slope, epsilon))
}

/// One count per stage; a single one stands for all.
fn per_stage(arguments: &mut Table, key: &str, stages: usize) -> Result<Vec<usize>, String> {
    let expected = format!("{stages} counts, one per stage");
    let value: Value = arguments.take(key, &expected)?;
    let wrong = format!("{} = {}, expected {expected}", arguments.at(key), show(&value));
    let read = match value {
        Value::Array(_) => serde_json::from_value(value).ok(),
        other => serde_json::from_value(other).ok().map(|n: usize| vec![n; stages]),
    };
    read.filter(|all: &Vec<usize>| all.len() == stages).ok_or(wrong)
}

/// One row per stage with one number per axis; a single number stands for a row, or for all rows.
fn per_axis(
    arguments: &mut Table,
    key: &str,
    stages: usize,
    flat: bool,
) -> Result<Vec<[usize; 3]>, String> {
    let axes = if flat { 2 } else { 3 };
    let expected = format!("{stages} rows of {axes}, one per stage");
    let value: Value = arguments.take(key, &expected)?;
    let wrong = format!("{} = {}, expected {expected}", arguments.at(key), show(&value));
    let row = |value: &Value| match value {
        Value::Array(_) => serde_json::from_value::<Vec<usize>>(value.clone()).ok(),
        number => serde_json::from_value(number.clone()).ok().map(|n: usize| vec![n; axes]),
    };
    let rows: Option<Vec<Vec<usize>>> = match &value {
        Value::Array(rows) => rows.iter().map(row).collect(),
        number => row(number).map(|row| vec![row; stages]),
    };
    let fits =
        |rows: &Vec<Vec<usize>>| rows.len() == stages && rows.iter().all(|r| r.len() == axes);
    let rows = rows.filter(fits).ok_or(wrong)?;
    Ok(rows.iter().map(|row| in_front(row, 1)).collect())
}

/// Two numbers get a third in front.
pub(super) fn in_front<T: Copy>(numbers: &[T], first: T) -> [T; 3] {
    match *numbers {
        [z, y, x] => [z, y, x],
        [y, x] => [first, y, x],
        _ => [first; 3],
    }
}
