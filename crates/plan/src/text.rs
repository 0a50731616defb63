//! `plan.toml` as a person reads it: every number with its unit and meaning behind it.

use artifact::plan::{Channel, Configuration, Geometry, NnunetNames, Plan, PlannedDataset};
use artifact::{Label, Region, recipe::Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml_edit::{Array, DocumentMut, Item, Table, Value};

/// The plan without its recipe.
#[derive(Serialize, Deserialize)]
struct Decisions {
    dataset: PlannedDataset,
    geometry: Geometry,
    #[serde(default, skip_serializing_if = "NnunetNames::is_empty")]
    nnunet: NnunetNames,
    channels: Vec<Channel>,
    labels: Vec<Label>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    regions: Vec<Region>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore: Option<Label>,
    configurations: BTreeMap<String, Configuration>,
}

/// What stands behind a key. The first entry whose path ends a value's path is used.
const COMMENTS: [(&str, &str); 41] = [
    ("dataset.training_cases", "cases measured"),
    ("dataset.file_ending", "of predictions"),
    (
        "dataset.reader",
        "images are turned to RAS where it ends in _ras; by whose rules they lie in space",
    ),
    ("geometry.transpose", "plan axis i is image axis transpose[i] (image axes z, y, x)"),
    ("geometry.median_spacing_mm", "mm; of the cases as stored, in plan order"),
    ("geometry.median_shape", "voxels; of their nonzero boxes as stored, in plan order"),
    ("channels.normalisation", "ct, z_score, z_score_masked, rescale_to01, rgb_to01 or none"),
    ("intensity.mean", "foreground of the training set"),
    ("intensity.sd", "population standard deviation"),
    ("intensity.percentile_00_5", "0.5th percentile"),
    ("intensity.percentile_99_5", "99.5th percentile"),
    ("labels.value", "voxel value in label maps"),
    ("spacing_mm", "mm; voxel distance that cases are resampled to"),
    ("keep_slice_distance", "cases keep their own distance along axis 0"),
    ("median_shape", "voxels; median training case at this spacing"),
    ("patch_shape", "voxels"),
    ("batch_size", "patches"),
    ("batch_dice", "Dice sums run over the whole batch (true) or each sample (false)"),
    ("previous_stage", "its segmentation is added as one-hot input channels"),
    ("cases_from", "the configuration whose preprocessed cases it uses"),
    ("network.encoder", "plain, or residual: blocks of two convolutions"),
    ("network.input_channels", "image channels and one-hot channels"),
    ("network.output_channels", "classes with background, or regions"),
    ("network.features", "feature maps per stage, full resolution first"),
    ("network.kernels", "voxels; convolution kernel per stage and axis"),
    ("network.strides", "stride into each stage per axis; 2 = pooled"),
    ("network.encoder_convs", "convolutions (residual: blocks) per encoder stage"),
    ("network.decoder_convs", "convolutions per decoder stage"),
    ("network.deep_supervision", "a loss at every decoder resolution"),
    ("network.negative_slope", "of the leaky ReLU"),
    ("network.norm_epsilon", "added to the variance by the instance norm"),
    // Above the tables themselves.
    ("[dataset]", "The data set that was planned for."),
    (
        "[geometry]",
        "Shapes, spacings, kernels and strides below are in plan order (z, y, x), coarsest first.",
    ),
    ("[nnunet]", "nnU-Net's own names, for writing its plans.json."),
    ("[regions]", "Regions in the order of the network's output channels."),
    ("[ignore]", "Voxels of this value are left out everywhere."),
    ("[channels]", "Input channels in order: normalisation and intensities of the foreground."),
    (
        "[labels]",
        "Classes by value; without regions in the order of the network's output channels.",
    ),
    (
        "[configurations]",
        "What can be trained; --set configurations.NAME.KEY=VALUE changes an entry.",
    ),
    ("[network]", "A U-Net; stages are counted from full resolution."),
    ("[recipe]", "The recipe: every constant that the planner used and later stages will use."),
];

/// The plan's own decisions as a commented document, tables in the order in which a person asks for them.
pub(crate) fn decisions(plan: &Plan) -> Result<DocumentMut, String> {
    let decisions = Decisions {
        dataset: plan.dataset.clone(),
        geometry: plan.geometry.clone(),
        nnunet: plan.nnunet.clone(),
        channels: plan.channels.clone(),
        labels: plan.labels.clone(),
        regions: plan.regions.clone(),
        ignore: plan.ignore.clone(),
        configurations: plan.configurations.clone(),
    };
    let text = toml::to_string(&decisions).map_err(|e| e.to_string())?;
    let mut document: DocumentMut = text.parse().map_err(|e| format!("{e}"))?;
    comment(document.as_table_mut(), "");
    Ok(document)
}

/// The plan that a document of decisions and a recipe make.
pub(crate) fn read(decisions: &DocumentMut, recipe: &Recipe) -> Result<Plan, String> {
    let text = decisions.to_string();
    let read: Decisions = toml::from_str(&text).map_err(|e| e.message().replace('\n', " "))?;
    Ok(Plan {
        dataset: read.dataset,
        geometry: read.geometry,
        nnunet: read.nnunet,
        channels: read.channels,
        labels: read.labels,
        regions: read.regions,
        ignore: read.ignore,
        configurations: read.configurations,
        recipe: recipe.clone(),
    })
}

/// Decisions, then the recipe with its own comments under `[recipe]`.
pub(crate) fn body(decisions: &DocumentMut, recipe: &DocumentMut) -> String {
    let mut root = Table::new();
    for (key, item) in recipe.as_table() {
        root.insert(key, item.clone());
        // A file's first key carries the comment at its top.
        if let (Some(old), Some(mut new)) = (recipe.as_table().key(key), root.key_mut(key)) {
            *new.leaf_decor_mut() = old.leaf_decor().clone();
        }
    }
    if let Some(text) = about("[recipe]") {
        root.decor_mut().set_prefix(format!("\n# {text}\n"));
    }
    let mut document = DocumentMut::new();
    document.insert("recipe", Item::Table(root));
    format!("{}{document}", decisions.to_string().trim_start_matches('\n'))
}

fn about(path: &str) -> Option<&'static str> {
    let ends = |key: &str| path == key || path.ends_with(&format!(".{key}"));
    COMMENTS.iter().find(|(key, _)| ends(key)).map(|(_, text)| *text)
}

fn comment(table: &mut Table, prefix: &str) {
    for (key, item) in table.iter_mut() {
        let path = format!("{prefix}{}", key.get());
        let heading = about(&format!("[{}]", key.get())).map(|text| format!("\n# {text}\n"));
        match item {
            Item::Value(value) => comment_value(key.get(), &path, value),
            Item::Table(inner) => {
                // An implicit table has no heading of its own to stand above.
                if let Some(heading) = heading {
                    if inner.is_implicit() {
                        if let Some((_, Item::Table(first))) = inner.iter_mut().next() {
                            first.decor_mut().set_prefix(heading);
                        }
                    } else {
                        inner.decor_mut().set_prefix(heading);
                    }
                }
                comment(inner, &format!("{path}."));
            }
            Item::ArrayOfTables(tables) => {
                if let Some(first) = tables.get_mut(0) {
                    if let Some(heading) = heading {
                        first.decor_mut().set_prefix(heading);
                    }
                    comment(first, &format!("{path}."));
                }
            }
            Item::None => {}
        }
    }
}

fn comment_value(key: &str, path: &str, value: &mut Value) {
    if let Value::Array(array) = value {
        on_one_line(array);
    }
    let Some(text) = about(path) else { return };
    let length = key.len() + " = ".len() + value.clone().decorated("", "").to_string().len();
    let space = " ".repeat(40_usize.saturating_sub(length).max(1));
    value.decor_mut().set_suffix(format!("{space}# {text}"));
}

fn on_one_line(array: &mut Array) {
    for value in array.iter_mut() {
        if let Value::Array(inner) = value {
            on_one_line(inner);
        }
    }
    array.fmt();
    array.set_trailing("");
    array.set_trailing_comma(false);
}

/// One line per configuration for the log.
pub fn summary(plan: &Plan) -> Vec<String> {
    let line = |(name, c): (&String, &Configuration)| {
        let patch = c.patch_shape.map(|n| n.to_string()).join("×");
        let spacing = c.spacing_mm.map(|s| format!("{s:.3}")).join("×");
        let poolings = c.network.poolings().map(|n| n.to_string()).join(",");
        format!(
            "{name:<18} patch {patch:<12} batch {:<4} spacing {spacing:<18} mm  poolings {poolings}",
            c.batch_size
        )
    };
    plan.configurations.iter().map(line).collect()
}
