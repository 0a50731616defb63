//! nnU-Net's `plans.json` as a plan.

use super::fingerprint::Properties;
use super::network::{in_front, network};
use super::table::{Table, show};
use super::{LABEL_MANAGER, NORMALISATIONS, PLANNERS, PREPROCESSOR, RESAMPLING, cases_folder};
use crate::{FULL, SLICES};
use artifact::dataset::DatasetJson;
use artifact::image::Reader;
use artifact::plan::{Channel, Configuration, Encoder, Geometry, NnunetNames, Normalisation};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// nnU-Net plans four, people add some; each is read with all that it inherits.
const MOST_CONFIGURATIONS: usize = 100;

/// What `plans.json` says; data set and recipe come from elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// Order of the axes, medians of the stored cases.
    pub geometry: Geometry,
    /// nnU-Net's names.
    pub names: NnunetNames,
    /// How images are read.
    pub reader: Reader,
    /// Normalisations and intensities under the names of `dataset.json`.
    pub channels: Vec<Channel>,
    /// All configurations, inheritance resolved.
    pub configurations: BTreeMap<String, Configuration>,
    /// The built-in recipe of the planner that made the plans.
    pub recipe: &'static str,
    /// Keys of the recipe that the plans decide, with their values.
    pub settings: Vec<(&'static str, u8)>,
}

/// Reads `plans.json` of the data set that `described` is of; `deep_supervision` isn't among nnU-Net's plans.
///
/// # Errors
/// The first key that is unknown, missing, or has a value that these programs can't do: key, found, expected.
pub fn import(
    text: &str,
    described: &DatasetJson,
    deep_supervision: bool,
) -> Result<Imported, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
    let mut top = Table::new("", value)?;
    let mut names = NnunetNames {
        dataset: Some(top.take("dataset_name", "a name")?),
        plans: Some(top.take("plans_name", "a name")?),
        planner: Some(top.take("experiment_planner_used", "the name of a planner")?),
        image_reader: None,
        cases: BTreeMap::new(),
    };
    let class: String = top.take("image_reader_writer", "the name of a class")?;
    let reader_of_images = Reader::of_class("image_reader_writer", &class)?;
    if let Some(ending) = &described.file_ending {
        let files = format!("dataset.json says file_ending = \"{ending}\"");
        Reader::check_class("image_reader_writer", &class, (ending, &files))?;
    }
    let geometry = geometry(&mut top)?;
    names.image_reader = Some(class);
    top.fixed("label_manager", &json!(LABEL_MANAGER))?;
    top.ignore("continue_training");
    let key = "foreground_intensity_properties_per_channel";
    let intensities: BTreeMap<String, Properties> =
        top.take(key, "mean, median, std, min, max and percentiles of every channel")?;
    let all: Map<String, Value> = top.take("configurations", "an object")?;
    top.finish()?;
    let mut reader = Configurations { described, geometry, names, deep_supervision, shared: None };
    let mut configurations = reader.configurations(&all)?;
    reader.complete(&mut configurations);
    let Some(shared) = reader.shared else {
        return Err("configurations is empty, expected at least one".into());
    };
    let channel = |(i, name): (usize, &String)| {
        let found = intensities.get(&i.to_string());
        let properties = *found.ok_or_else(|| format!("{key}.{i} is missing, expected {name}"))?;
        let normalisation = shared.normalisations[i];
        Ok(Channel { name: name.clone(), normalisation, intensity: properties.into() })
    };
    let channels = described.channels.iter().enumerate().map(channel);
    let channels = channels.collect::<Result<_, String>>()?;
    let encoder = configurations.values().next().map_or(Encoder::Plain, |c| c.network.encoder);
    let planner = reader.names.planner.as_deref().unwrap_or_default();
    let known = PLANNERS.iter().find(|(class, ..)| *class == planner);
    let recipe = match (known, encoder) {
        (Some((_, _, recipe)), _) => recipe,
        (None, Encoder::Plain) => PLANNERS[0].2,
        (None, Encoder::Residual) => PLANNERS[1].2,
    };
    Ok(Imported {
        geometry: reader.geometry,
        names: reader.names,
        reader: reader_of_images,
        channels,
        configurations,
        recipe,
        settings: shared.orders.to_vec(),
    })
}

fn geometry(top: &mut Table) -> Result<Geometry, String> {
    let forward: [usize; 3] = top.take("transpose_forward", "a permutation of [0, 1, 2]")?;
    let backward: [usize; 3] = top.take("transpose_backward", "a permutation of [0, 1, 2]")?;
    let inverse = |axis: usize| forward.get(*backward.get(axis)?).copied();
    if (0..3).any(|axis| inverse(axis) != Some(axis)) {
        return Err(format!(
            "transpose_backward = {backward:?}, expected the inverse of transpose_forward = {forward:?}"
        ));
    }
    let spacing = top.take("original_median_spacing_after_transp", "three spacings")?;
    let shape = top.take("original_median_shape_after_transp", "three edges")?;
    Ok(Geometry { transpose: forward, median_spacing_mm: Some(spacing), median_shape: Some(shape) })
}

/// What all configurations have in common with us, and each only for itself with nnU-Net.
#[derive(Debug, Clone, PartialEq)]
struct Shared {
    normalisations: Vec<Normalisation>,
    orders: [(&'static str, u8); 6],
}

struct Configurations<'a> {
    described: &'a DatasetJson,
    geometry: Geometry,
    names: NnunetNames,
    deep_supervision: bool,
    shared: Option<Shared>,
}

impl Configurations<'_> {
    fn configurations(
        &mut self,
        all: &Map<String, Value>,
    ) -> Result<BTreeMap<String, Configuration>, String> {
        if all.len() > MOST_CONFIGURATIONS {
            return Err(format!(
                "configurations has {} entries, expected at most {MOST_CONFIGURATIONS}",
                all.len()
            ));
        }
        let mut read = BTreeMap::new();
        let mut folders = BTreeMap::new();
        for name in all.keys() {
            let table = Table::new(&format!("configurations.{name}"), resolved(all, name)?)?;
            let (folder, configuration) = self.configuration(table)?;
            folders.insert(name.clone(), folder);
            read.insert(name.clone(), configuration);
        }
        // The cases belong to the configuration that inherits from none.
        let inherits = |name: &str| all.get(name).is_some_and(|c| c.get("inherits_from").is_some());
        let names: Vec<String> = read.keys().cloned().collect();
        for name in &names {
            let folder = &folders[name];
            let others = names.iter().filter(|n| *n != name && folders[*n] == *folder);
            let owner = others.filter(|n| !inherits(n)).min_by_key(|n| (*n > name, n.as_str()));
            let owns = !inherits(name) && owner.is_none_or(|o| o > name);
            if let Some(owner) = owner.filter(|_| !owns) {
                let (expected, found) = (read[owner].spacing_mm, read[name].spacing_mm);
                if found != expected {
                    return Err(format!(
                        "configurations.{name}.spacing = {found:?}, expected {expected:?} as in {owner}, which has the same data_identifier = \"{folder}\""
                    ));
                }
                if let Some(configuration) = read.get_mut(name) {
                    configuration.cases_from = Some(owner.clone());
                }
            } else {
                self.name_folder(name, folder, read[name].network.encoder);
            }
        }
        for name in &names {
            let previous = read[name].previous_stage.clone();
            if let Some(previous) = previous.filter(|p| !read.contains_key(p)) {
                let names = names.join(", ");
                return Err(format!(
                    "configurations.{name}.previous_stage = \"{previous}\", expected one of {names}"
                ));
            }
        }
        Ok(read)
    }

    /// Remembers the folder of a configuration's cases if the planner would have called it otherwise.
    fn name_folder(&mut self, name: &str, folder: &str, encoder: Encoder) {
        let plans = self.names.plans.as_deref().unwrap_or_default();
        if cases_folder(name, plans, encoder) != folder {
            self.names.cases.insert(name.into(), folder.into());
        }
    }

    /// A configuration and the folder of its cases.
    fn configuration(&mut self, mut table: Table) -> Result<(String, Configuration), String> {
        let folder = table.take("data_identifier", "a folder's name")?;
        if let Some(old) = table.maybe::<Value>("UNet_class_name", "")? {
            let (key, found) = (table.at("UNet_class_name"), show(&old));
            let expected =
                "architecture; these plans are of an old format, plan again with a present nnU-Net";
            return Err(format!("{key} = {found}, expected {expected}"));
        }
        table.fixed("preprocessor_name", &json!(PREPROCESSOR))?;
        let patch: Vec<usize> = table.take("patch_size", "2 or 3 edges")?;
        let flat = match patch.len() {
            2 => true,
            3 => false,
            _ => {
                return Err(format!(
                    "{} = {patch:?}, expected 2 or 3 edges",
                    table.at("patch_size")
                ));
            }
        };
        let expected = if flat { "2 numbers" } else { "3 numbers" };
        let spacing: Vec<f64> = table.take("spacing", expected)?;
        let median: Vec<f64> = table.take("median_image_size_in_voxels", expected)?;
        for (key, found) in [("spacing", &spacing), ("median_image_size_in_voxels", &median)] {
            if found.len() != patch.len() {
                return Err(format!("{} = {found:?}, expected {expected}", table.at(key)));
            }
        }
        let shared = self.shared_of(&mut table)?;
        self.agree(&table, shared)?;
        let previous_stage: Option<String> = table.maybe("previous_stage", "a configuration")?;
        let foreground = self.described.labels.len() - 1;
        let one_hot = if previous_stage.is_some() { foreground } else { 0 };
        let mut network =
            network(table.table("architecture")?, flat, self.described, self.deep_supervision)?;
        network.input_channels = self.described.channels.len() + one_hot;
        let configuration = Configuration {
            spacing_mm: in_front(&spacing, 1.0),
            keep_slice_distance: flat,
            median_shape: in_front(&median, 1.0),
            patch_shape: in_front(&patch, 1),
            batch_size: table.take("batch_size", "a count from 1")?,
            batch_dice: table.take("batch_dice", "true or false")?,
            cases_from: None,
            previous_stage,
            network,
        };
        // Follows from previous_stage.
        table.ignore("next_stage");
        table.finish()?;
        Ok((folder, configuration))
    }

    fn shared_of(&self, table: &mut Table) -> Result<Shared, String> {
        let count = self.described.channels.len();
        let expected = format!("{count}, one per channel of dataset.json");
        let schemes: Vec<String> = table.take("normalization_schemes", "a list of classes")?;
        let masks: Vec<bool> = table.take("use_mask_for_norm", "a list of true and false")?;
        for (key, found) in
            [("normalization_schemes", schemes.len()), ("use_mask_for_norm", masks.len())]
        {
            if found != count {
                return Err(format!("{} has {found} entries, expected {expected}", table.at(key)));
            }
        }
        let known = |(i, (scheme, mask)): (usize, (&String, &bool))| {
            let of_class = || NORMALISATIONS.iter().filter(|(class, ..)| class == scheme);
            if of_class().next().is_none() {
                let key = table.at("normalization_schemes");
                let mut classes: Vec<&str> =
                    NORMALISATIONS.iter().map(|(class, ..)| *class).collect();
                classes.dedup();
                return Err(format!(
                    "{key}[{i}] = \"{scheme}\", expected one of {}",
                    classes.join(", ")
                ));
            }
            let exact = of_class().find(|(_, masked, _)| masked == mask);
            let key = table.at("use_mask_for_norm");
            exact
                .map(|(.., n)| *n)
                .ok_or_else(|| format!("{key}[{i}] = true, expected false with {scheme}"))
        };
        let normalisations = schemes.iter().zip(&masks).enumerate().map(known);
        let normalisations = normalisations.collect::<Result<_, _>>()?;
        let data = resampling(table, "data", false)?;
        let labels = resampling(table, "seg", true)?;
        let probabilities = resampling(table, "probabilities", false)?;
        let orders = [
            ("preprocessing.image_order", data.0),
            ("preprocessing.image_order_coarse_axis", data.1),
            ("preprocessing.label_order", labels.0),
            ("preprocessing.label_order_coarse_axis", labels.1),
            ("inference.resample_order", probabilities.0),
            ("inference.resample_order_coarse_axis", probabilities.1),
        ];
        Ok(Shared { normalisations, orders })
    }

    /// A plan of ours normalises and resamples all configurations alike.
    fn agree(&mut self, table: &Table, shared: Shared) -> Result<(), String> {
        let Some(first) = &self.shared else {
            self.shared = Some(shared);
            return Ok(());
        };
        if first.normalisations != shared.normalisations {
            let (found, expected) = (&shared.normalisations, &first.normalisations);
            return Err(format!(
                "{} = {found:?}, expected {expected:?} as in the other configurations",
                table.at("normalization_schemes")
            ));
        }
        if let Some(i) = (0..6).find(|&i| first.orders[i] != shared.orders[i]) {
            let key = ["data", "data", "seg", "seg", "probabilities", "probabilities"][i];
            let order = ["order", "order_z"][i % 2];
            let (found, expected) = (shared.orders[i].1, first.orders[i].1);
            return Err(format!(
                "{}.{order} = {found}, expected {expected} as in the other configurations",
                table.at(&format!("resampling_fn_{key}_kwargs"))
            ));
        }
        Ok(())
    }

    /// 2D plans don't say how far slices lie apart and how many there are.
    fn complete(&self, all: &mut BTreeMap<String, Configuration>) {
        let spacing = match all.get(FULL) {
            Some(full) => Some(full.spacing_mm),
            None => self.geometry.median_spacing_mm,
        };
        let (Some(spacing), Some(shape)) = (spacing, self.geometry.median_shape) else { return };
        for (_, c) in all.iter_mut().filter(|(name, c)| *name == SLICES || c.keep_slice_distance) {
            c.spacing_mm[0] = spacing[0];
            c.median_shape[0] = shape[0];
        }
    }
}

/// Order, and order along the coarse axis.
fn resampling(table: &mut Table, what: &str, labels: bool) -> Result<(u8, u8), String> {
    table.fixed(&format!("resampling_fn_{what}"), &json!(RESAMPLING))?;
    let mut arguments = table.table(&format!("resampling_fn_{what}_kwargs"))?;
    arguments.fixed("is_seg", &json!(labels))?;
    arguments.fixed("force_separate_z", &Value::Null)?;
    let orders = (arguments.take("order", "0, 1 or 3")?, arguments.take("order_z", "0, 1 or 3")?);
    arguments.finish()?;
    Ok(orders)
}

/// A configuration with all that it inherits.
fn resolved(all: &Map<String, Value>, name: &str) -> Result<Value, String> {
    let mut merged = Map::new();
    let (mut child, mut seen) = (name, Vec::new());
    loop {
        seen.push(child);
        let at = format!("configurations.{child}");
        let Some(value) = all.get(child) else { break };
        let Value::Object(table) = value else {
            return Err(format!("{at} = {}, expected an object", show(value)));
        };
        for (key, value) in table {
            if key != "inherits_from" && !merged.contains_key(key) {
                merged.insert(key.clone(), value.clone());
            }
        }
        let Some(parent) = table.get("inherits_from") else { break };
        match parent.as_str() {
            Some(parent) if all.contains_key(parent) && !seen.contains(&parent) => child = parent,
            _ => {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                let names = names.join(", ");
                let expected = format!("one of {names}, and no circle");
                return Err(format!("{at}.inherits_from = {}, expected {expected}", show(parent)));
            }
        }
    }
    Ok(Value::Object(merged))
}
