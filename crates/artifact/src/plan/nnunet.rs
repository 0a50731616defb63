//! What a plan can say and nnU-Net v2 can't do, so that its images, networks or labels would be others.

use super::{Configuration, Network, Plan};
use crate::recipe::{LabelVote, Recipe, StepOrder};

/// Endings that one of nnU-Net's classes says to read (its `imageio`, 2.8.1), ours first.
const ENDINGS: [&str; 9] =
    [".nii.gz", ".nii", ".png", ".bmp", ".tif", ".tiff", ".nrrd", ".mha", ".gipl"];

impl Plan {
    /// Refuses what nnU-Net would do otherwise without a word.
    ///
    /// # Errors
    /// The first of it, in one line: key, found, expected.
    pub fn check_for_nnunet(&self) -> Result<(), String> {
        steps(&self.recipe)?;
        labels(self)?;
        let ending = self.dataset.file_ending.as_str();
        if self.nnunet.image_reader.is_none() && !ENDINGS.contains(&ending) {
            return Err(format!(
                "dataset.file_ending = \"{ending}\", expected one of {}, which nnU-Net v2 reads; convert the images",
                ENDINGS.join(", ")
            ));
        }
        for (name, configuration) in &self.configurations {
            shape(self, configuration).map_err(|e| format!("configurations.{name}.{e}"))?;
        }
        Ok(())
    }
}

fn steps(recipe: &Recipe) -> Result<(), String> {
    let p = &recipe.preprocessing;
    if p.order != StepOrder::NormaliseThenResample {
        let found = "\"resample_then_normalise\"";
        return Err(format!(
            "recipe.preprocessing.order = {found}, expected \"normalise_then_resample\", the only order that nnU-Net v2 knows"
        ));
    }
    if p.label_order == 1 && p.label_vote == LabelVote::Half {
        let found = "\"half\"";
        return Err(format!(
            "recipe.preprocessing.label_vote = {found}, expected \"largest_weight\", the only vote that nnU-Net v2 knows"
        ));
    }
    if p.anisotropy_threshold != 3.0 {
        let found = p.anisotropy_threshold;
        return Err(format!(
            "recipe.preprocessing.anisotropy_threshold = {found}, expected 3, which nnU-Net v2 has in its code"
        ));
    }
    Ok(())
}

/// Its networks write the index of the largest output, and it finds background and ignored voxels by name.
fn labels(plan: &Plan) -> Result<(), String> {
    // Regions are written with values of their own.
    let numbered = plan.labels.iter().zip(0..).find(|(label, i)| label.value != *i);
    if let Some((label, i)) = numbered.filter(|_| plan.regions.is_empty()) {
        return Err(format!(
            "label {} has value {}, expected {i}: nnU-Net v2 writes the number of a class, and knows no gaps; \
             renumber the label maps and dataset.json, and plan again",
            label.name, label.value
        ));
    }
    if !plan.regions.is_empty() && plan.regions.iter().all(|region| region.values.len() == 1) {
        return Err(
            "each of the regions has a single value, expected one of several, else nnU-Net v2 takes them for classes"
                .into(),
        );
    }
    let named = plan.labels.iter().map(|l| &l.name).chain(plan.regions.iter().map(|r| &r.name));
    if let Some(name) = named.skip(1).find(|name| matches!(name.as_str(), "ignore" | "background"))
    {
        return Err(format!(
            "a class or region is called {name}, expected another name: nnU-Net v2 has this one for itself"
        ));
    }
    let Some(ignore) = &plan.ignore else { return Ok(()) };
    let next = 1 + plan.labels.iter().map(|l| l.value).max().unwrap_or(0);
    if ignore.value != next {
        return Err(format!(
            "{} has value {}, expected {next}, the one above the highest label, as nnU-Net v2 asks; \
             renumber the label maps and dataset.json, and plan again",
            ignore.name, ignore.value
        ));
    }
    if ignore.name != "ignore" {
        return Err(format!(
            "the label of ignored voxels is called {}, expected ignore: nnU-Net v2 would take it for a class; \
             rename it in dataset.json, and plan again",
            ignore.name
        ));
    }
    Ok(())
}

/// nnU-Net counts a network's channels from `dataset.json`, and has 2D configurations with two axes.
fn shape(plan: &Plan, c: &Configuration) -> Result<(), String> {
    let network = &c.network;
    let previous = if c.previous_stage.is_some() { plan.labels.len() - 1 } else { 0 };
    let counts = [
        ("input_channels", network.input_channels, plan.channels.len() + previous),
        ("output_channels", network.output_channels, plan.outputs()),
    ];
    for (key, found, expected) in counts {
        if found != expected {
            return Err(format!(
                "network.{key} = {found}, expected {expected}, as nnU-Net v2 counts from dataset.json"
            ));
        }
    }
    if c.keep_slice_distance && !(c.patch_shape[0] == 1 && within_slices(network)) {
        return Err(
            "keep_slice_distance = true, but its patches or its network reach across slices: nnU-Net v2 has this \
             for 2D networks only"
                .into(),
        );
    }
    Ok(())
}

fn within_slices(network: &Network) -> bool {
    network.kernels.iter().chain(&network.strides).all(|axes| axes[0] == 1)
}
