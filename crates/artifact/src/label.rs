//! Classes of a data set.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One class: its name and the value that stands for it in label maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Name, such as `background` or `liver`.
    pub name: String,
    /// Voxel value in label maps. Data sets may skip numbers; inside cases and networks a class is its index.
    pub value: i32,
}

/// Several labels that are predicted as one, such as "whole tumour"; regions may overlap (nnU-Net's region-based
/// training). A network of a data set with regions has one sigmoid output per region and none for the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Name, such as `whole tumour`.
    pub name: String,
    /// Values of the labels that make it up.
    pub values: Vec<i32>,
    /// Value that predictions show it as. Regions are written in their order, later ones over earlier ones
    /// (`regions_class_order`).
    pub value: i32,
}

/// Regions of known labels, without background; the ignore label is no class and above all of them.
pub(crate) fn check_regions(
    labels: &[Label],
    regions: &[Region],
    ignore: Option<&Label>,
) -> Result<(), String> {
    let values: BTreeSet<i32> = labels.iter().map(|l| l.value).collect();
    let known = |v: &i32| *v != 0 && values.contains(v);
    for region in regions {
        if region.values.is_empty() || !region.values.iter().all(known) {
            return Err(format!(
                "region {} has values {:?}, expected values of labels other than the background",
                region.name, region.values
            ));
        }
        if !known(&region.value) {
            return Err(format!(
                "region {} is written as {}, expected the value of a label",
                region.name, region.value
            ));
        }
    }
    let highest = labels.iter().map(|l| l.value).max().unwrap_or(0);
    match ignore {
        Some(ignore) if ignore.value <= highest || ignore.value > i32::from(i16::MAX) => {
            Err(format!(
                "{} has value {}, expected a value above every other label's, at most 32767",
                ignore.name, ignore.value
            ))
        }
        _ => Ok(()),
    }
}

/// Background first, values unique and not negative, at least one foreground class.
pub(crate) fn check_labels(labels: &[Label]) -> Result<(), String> {
    match labels {
        [] | [_] => {
            return Err(format!(
                "labels has {} entries, expected background and at least one class",
                labels.len()
            ));
        }
        [first, ..] if first.value != 0 => {
            return Err(format!(
                "labels[0] has value {}, expected the background, value 0",
                first.value
            ));
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for label in labels {
        if label.value < 0 || label.value > i32::from(i16::MAX) {
            return Err(format!(
                "label {} has value {}, expected 0..=32767",
                label.name, label.value
            ));
        }
        if !seen.insert(label.value) {
            return Err(format!(
                "label {} has value {}, which another label has too",
                label.name, label.value
            ));
        }
    }
    Ok(())
}
