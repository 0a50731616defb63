//! A plan as nnU-Net's `plans.json`.

use super::{
    DEFAULT_SLOPE, IMPORTED_ARGUMENTS, LABEL_MANAGER, NONLINEARITY, NORMALISATIONS, PLAIN,
    PREPROCESSOR, RESAMPLING, RESIDUAL, cases_folder, image_reader, layer, planner,
};
use crate::{CASCADE, FULL, LOW, SLICES};
use artifact::plan::{Channel, Configuration, Encoder, Network, NnunetNames, Plan};
use artifact::recipe::Recipe;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

type Table = Map<String, Value>;

/// The plan in nnU-Net's words and order; `names` go before those in the plan.
///
/// # Errors
/// If nnU-Net can't do what the plan says; one line with key, found, expected.
pub fn export(plan: &Plan, names: &NnunetNames) -> Result<Value, String> {
    plan.check_for_nnunet()?;
    let encoder = plan.configurations.values().next().map_or(Encoder::Plain, |c| c.network.encoder);
    let (class, plans) = planner(&plan.recipe.name, encoder);
    let name = |first: &Option<String>, then: &Option<String>, last: &str| {
        first.clone().or_else(|| then.clone()).unwrap_or_else(|| last.into())
    };
    let own = &plan.nnunet;
    let plans = name(&names.plans, &own.plans, plans);
    let geometry = &plan.geometry;
    let missing = |key: &str| {
        let from = "the median over the cases as stored; plan again with this version";
        format!("geometry.{key} is missing, expected {from}")
    };
    let spacing = geometry.median_spacing_mm.ok_or_else(|| missing("median_spacing_mm"))?;
    let shape = geometry.median_shape.ok_or_else(|| missing("median_shape"))?;
    let of_images = plan.dataset.reader;
    let reader = image_reader(of_images, &plan.dataset.file_ending, shape[0] == 1.0);
    let backward = [0, 1, 2].map(|axis| geometry.transpose.iter().position(|&t| t == axis));
    Ok(json!({
        "dataset_name": name(&names.dataset, &own.dataset, &plan.dataset.name),
        "plans_name": plans,
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": shape.map(|edge| edge.round_ties_even() as u64),
        "image_reader_writer": name(&names.image_reader, &own.image_reader, reader),
        "transpose_forward": geometry.transpose,
        "transpose_backward": backward,
        "configurations": configurations(plan, &plans)?,
        "experiment_planner_used": name(&names.planner, &own.planner, class),
        "label_manager": LABEL_MANAGER,
        "foreground_intensity_properties_per_channel": intensities(&plan.channels),
    }))
}

fn configurations(plan: &Plan, plans: &str) -> Result<Table, String> {
    let rank = |name: &str| match name {
        SLICES => 0,
        LOW => 1,
        FULL => 2,
        CASCADE => 3,
        _ => 4,
    };
    let mut names: Vec<&String> = plan.configurations.keys().collect();
    names.sort_by_key(|name| (rank(name), *name));
    let mut all = Table::new();
    for name in names {
        let c = plan.configuration(name)?;
        let mut table = match &c.cases_from {
            Some(parent) => inherited(plan, c, parent)?,
            None => {
                let folder = plan.nnunet.cases.get(name).cloned();
                let encoder = c.network.encoder;
                let folder = folder.unwrap_or_else(|| cases_folder(name, plans, encoder));
                let mut table = Table::from_iter([("data_identifier".into(), json!(folder))]);
                table.extend(whole(c, name == LOW, &plan.channels, &plan.recipe)?);
                table
            }
        };
        if let Some(previous) = &c.previous_stage {
            table.insert("previous_stage".into(), json!(previous));
        }
        let next = |c: &&Configuration| c.previous_stage.as_deref() == Some(name);
        let next = plan.configurations.iter().filter(|(_, c)| next(c)).map(|(name, _)| name);
        match next.collect::<Vec<_>>()[..] {
            [] => {}
            [one] => drop(table.insert("next_stage".into(), json!(one))),
            ref several => drop(table.insert("next_stage".into(), json!(several))),
        }
        all.insert(name.clone(), Value::Object(table));
    }
    Ok(all)
}

/// Only what differs from the configuration whose cases it uses.
fn inherited(plan: &Plan, c: &Configuration, parent: &str) -> Result<Table, String> {
    let of = plan.configuration(parent)?;
    let from = whole(of, parent == LOW, &plan.channels, &plan.recipe)?;
    let own = whole(c, parent == LOW, &plan.channels, &plan.recipe)?;
    let mut table = Table::from_iter([("inherits_from".into(), json!(parent))]);
    table.extend(own.into_iter().filter(|(key, value)| from.get(key) != Some(value)));
    Ok(table)
}

/// All keys but those that link configurations. The low resolution's median shape is rounded in nnU-Net.
fn whole(
    c: &Configuration,
    rounded: bool,
    channels: &[Channel],
    recipe: &Recipe,
) -> Result<Table, String> {
    let flat = c.keep_slice_distance;
    let median = &c.median_shape[usize::from(flat)..];
    let median = if rounded {
        json!(median.iter().map(|edge| edge.round_ties_even() as u64).collect::<Vec<_>>())
    } else {
        json!(median)
    };
    let scheme = |c: &Channel| NORMALISATIONS.iter().find(|(.., n)| *n == c.normalisation);
    let schemes: Vec<_> = channels.iter().filter_map(scheme).collect();
    let (p, i) = (&recipe.preprocessing, &recipe.inference);
    let arguments = |labels: bool, order: u8, coarse: u8| json!({"is_seg": labels, "order": order, "order_z": coarse, "force_separate_z": null});
    let table = json!({
        "preprocessor_name": PREPROCESSOR,
        "batch_size": c.batch_size,
        "patch_size": c.patch_shape[usize::from(flat)..],
        "median_image_size_in_voxels": median,
        "spacing": c.spacing_mm[usize::from(flat)..],
        "normalization_schemes": schemes.iter().map(|s| s.0).collect::<Vec<_>>(),
        "use_mask_for_norm": schemes.iter().map(|s| s.1).collect::<Vec<_>>(),
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": arguments(false, p.image_order, p.image_order_coarse_axis),
        "resampling_fn_seg_kwargs": arguments(true, p.label_order, p.label_order_coarse_axis),
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs":
            arguments(false, i.resample_order, i.resample_order_coarse_axis),
        "architecture": architecture(&c.network, flat)?,
        "batch_dice": c.batch_dice,
    });
    match table {
        Value::Object(table) => Ok(table),
        _ => Ok(Table::new()),
    }
}

fn architecture(network: &Network, flat: bool) -> Result<Value, String> {
    let dimensions = if flat { 2 } else { 3 };
    let per_axis = |all: &[[usize; 3]]| -> Vec<Vec<usize>> {
        all.iter().map(|row| row[usize::from(flat)..].to_vec()).collect()
    };
    let (class, layers) = match network.encoder {
        Encoder::Plain => (PLAIN, "n_conv_per_stage"),
        Encoder::Residual => (RESIDUAL, "n_blocks_per_stage"),
    };
    let mut nonlinearity = Table::from_iter([("inplace".into(), json!(true))]);
    if network.negative_slope != DEFAULT_SLOPE {
        nonlinearity.insert("negative_slope".into(), short(network.negative_slope)?);
    }
    // nnU-Net's decoder is counted from the deepest stage.
    let decoder: Vec<usize> = network.decoder_convs.iter().rev().copied().collect();
    Ok(json!({
        "network_class_name": class,
        "arch_kwargs": {
            "n_stages": network.features.len(),
            "features_per_stage": network.features,
            "conv_op": layer("conv_op", dimensions),
            "kernel_sizes": per_axis(&network.kernels),
            "strides": per_axis(&network.strides),
            layers: network.encoder_convs,
            "n_conv_per_stage_decoder": decoder,
            "conv_bias": true,
            "norm_op": layer("norm_op", dimensions),
            "norm_op_kwargs": {"eps": short(network.norm_epsilon)?, "affine": true},
            "dropout_op": null,
            "dropout_op_kwargs": null,
            "nonlin": NONLINEARITY,
            "nonlin_kwargs": nonlinearity,
        },
        "_kw_requires_import": IMPORTED_ARGUMENTS,
    }))
}

/// The number that a person wrote: 1e-5, not the f32's 9.99999975e-6.
fn short(x: f32) -> Result<Value, String> {
    let wide: f64 = x.to_string().parse().map_err(|_| format!("{x} is no number"))?;
    Ok(json!(wide))
}

fn intensities(channels: &[Channel]) -> Table {
    let one = |(i, c): (usize, &Channel)| {
        let v = &c.intensity;
        let properties = json!({
            "max": v.max, "mean": v.mean, "median": v.median, "min": v.min,
            "percentile_00_5": v.percentile_00_5, "percentile_99_5": v.percentile_99_5, "std": v.sd,
        });
        (i.to_string(), properties)
    };
    channels.iter().enumerate().map(one).collect()
}

/// JSON with nnU-Net's indentation and a line's end.
pub fn pretty(plans: &Value) -> String {
    let mut bytes = Vec::new();
    let format = PrettyFormatter::with_indent(b"    ");
    let mut serializer = Serializer::with_formatter(&mut bytes, format);
    // A value without maps of other keys than texts can't fail to be written to memory.
    let _ = plans.serialize(&mut serializer);
    let mut text = String::from_utf8(bytes).unwrap_or_default();
    text.push('\n');
    text
}
