//! `dataset.json`, with the keys that a plan can't do without.

use super::Imported;
use artifact::dataset::DatasetJson;
use artifact::plan::{Plan, PlannedDataset};
use artifact::recipe::Recipe;
use stage::{Error, Result};
use std::path::Path;

/// What nnU-Net's other files leave to `dataset.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The file.
    pub json: DatasetJson,
    /// Its `numTraining`.
    pub training_cases: usize,
    /// Its `file_ending`.
    pub file_ending: String,
}

impl Described {
    /// Reads the file.
    ///
    /// # Errors
    /// If it's missing or broken, or a key is missing: file, key, expected.
    pub fn load(path: &Path) -> Result<Self> {
        let json = DatasetJson::load(path)?;
        let missing = |key: &str, expected: &str| {
            Error::input(format!("{}: {key} is missing, expected {expected}", path.display()))
        };
        let cases = json.training_cases.filter(|&n| n > 0);
        let cases = cases.ok_or_else(|| missing("numTraining", "the number of training cases"));
        let ending = json.file_ending.clone();
        let ending = ending.ok_or_else(|| missing("file_ending", "such as \".nii.gz\""));
        Ok(Self { training_cases: cases?, file_ending: ending?, json })
    }

    /// Ids of the training cases, if the file lists them.
    pub fn ids(&self) -> Option<&[String]> {
        self.json.ids.as_deref().filter(|ids| !ids.is_empty())
    }

    /// The plan that nnU-Net's plans of this data set make with a recipe.
    pub fn plan(&self, imported: Imported, recipe: &Recipe) -> Plan {
        let folder = imported.names.dataset.clone();
        Plan {
            dataset: PlannedDataset {
                name: self.json.name.clone().or(folder).unwrap_or_default(),
                training_cases: self.training_cases,
                file_ending: self.file_ending.clone(),
                reader: imported.reader,
            },
            geometry: imported.geometry,
            nnunet: imported.names,
            channels: imported.channels,
            labels: self.json.labels.clone(),
            regions: self.json.regions.clone(),
            ignore: self.json.ignore.clone(),
            configurations: imported.configurations,
            recipe: recipe.clone(),
        }
    }
}
