//! `dataset_fingerprint.json` with its `dataset.json`.

use super::{DATASET, Described};
use crate::geometry::Grid;
use crate::measured::{Measured, MeasuredChannel};
use artifact::plan::{Intensity, NnunetNames};
use serde::Deserialize;
use stage::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Fingerprint {
    spacings: Vec<[f64; 3]>,
    shapes_after_crop: Vec<[f64; 3]>,
    foreground_intensity_properties_per_channel: BTreeMap<String, Properties>,
    median_relative_size_after_cropping: f64,
}

/// Of one channel's foreground.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Properties {
    max: f64,
    mean: f64,
    median: f64,
    min: f64,
    percentile_00_5: f64,
    percentile_99_5: f64,
    std: f64,
}

impl From<Properties> for Intensity {
    fn from(p: Properties) -> Self {
        Self {
            mean: p.mean,
            sd: p.std,
            min: p.min,
            median: p.median,
            max: p.max,
            percentile_00_5: p.percentile_00_5,
            percentile_99_5: p.percentile_99_5,
        }
    }
}

/// Whether a file is nnU-Net's fingerprint rather than ours: it ends in `.json`, or begins as JSON does.
pub fn is_fingerprint(path: &Path) -> bool {
    let begins = |text: String| text.trim_start().starts_with('{');
    path.extension().is_some_and(|e| e == "json")
        || artifact::file::text(path, "read").is_ok_and(begins)
}

/// The data set that nnU-Net measured. Cases have no ids there.
///
/// # Errors
/// If the file can't be read or its contents make no sense: file, key, found, expected.
pub fn measured(fingerprint: &Path, described: &Described) -> Result<Measured> {
    let json = &described.json;
    let text = artifact::file::json(fingerprint, "read this fingerprint")?;
    let fault = |e: String| Error::input(format!("{}: {e}", fingerprint.display()));
    let read: Fingerprint = serde_json::from_str(&text).map_err(|e| fault(e.to_string()))?;
    let folder = fingerprint.canonicalize().ok();
    let folder = folder.as_deref().and_then(Path::parent).and_then(Path::file_name);
    let folder = folder.map(|name| name.to_string_lossy().into_owned());
    let name = json.name.clone().or_else(|| folder.clone());
    let size = read.median_relative_size_after_cropping;
    Ok(Measured {
        name: name.unwrap_or_default(),
        file_ending: described.file_ending.clone(),
        reader: json.reader.unwrap_or_default(),
        training_cases: described.training_cases,
        grids: grids(&read).map_err(fault)?,
        channels: channels(&json.channels, &read).map_err(fault)?,
        labels: json.labels.clone(),
        regions: json.regions.clone(),
        ignore: json.ignore.clone(),
        mean_relative_size: size,
        median_relative_size: size,
        flat_axis_first: false,
        nnunet: NnunetNames {
            image_reader: json.image_reader.clone(),
            dataset: folder.filter(|name| name.starts_with(DATASET)),
            ..NnunetNames::default()
        },
    })
}

fn grids(read: &Fingerprint) -> std::result::Result<Vec<Grid>, String> {
    let (spacings, shapes) = (&read.spacings, &read.shapes_after_crop);
    if spacings.is_empty() || spacings.len() != shapes.len() {
        let (found, expected) = (shapes.len(), spacings.len().max(1));
        return Err(format!(
            "shapes_after_crop has {found} entries, expected {expected}, one per entry of spacings"
        ));
    }
    let grid = |(i, (spacing, shape)): (usize, (&[f64; 3], &[f64; 3]))| {
        if !spacing.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(format!("spacings[{i}] = {spacing:?}, expected positive numbers"));
        }
        let whole = |edge: &f64| edge.fract() == 0.0 && (1.0..=1e6).contains(edge);
        if !shape.iter().all(whole) {
            return Err(format!("shapes_after_crop[{i}] = {shape:?}, expected voxels from 1"));
        }
        Ok(Grid { spacing_mm: *spacing, shape: shape.map(|edge| edge as usize) })
    };
    spacings.iter().zip(shapes).enumerate().map(grid).collect()
}

fn channels(
    names: &[String],
    read: &Fingerprint,
) -> std::result::Result<Vec<MeasuredChannel>, String> {
    let all = &read.foreground_intensity_properties_per_channel;
    let key = "foreground_intensity_properties_per_channel";
    if all.len() != names.len() {
        let (found, expected) = (all.len(), names.len());
        return Err(format!(
            "{key} has {found} entries, expected {expected}, one per channel of dataset.json"
        ));
    }
    let channel = |(i, name): (usize, &String)| match all.get(&i.to_string()) {
        // nnU-Net draws equally many voxels from every case.
        Some(&properties) => {
            Ok(MeasuredChannel { name: name.clone(), per_voxel: None, per_case: properties.into() })
        }
        None => Err(format!("{key}.{i} is missing, expected the channel {name}")),
    };
    names.iter().enumerate().map(channel).collect()
}
