//! What a planner needs to know of a data set, whoever measured it.

use crate::geometry::Grid;
use artifact::fingerprint::Fingerprint;
use artifact::image::Reader;
use artifact::plan::{Intensity, NnunetNames};
use artifact::recipe::{Planning, Recipe, Weighting};
use artifact::{Label, Region};

/// A channel's name and the intensities of its foreground.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredChannel {
    /// Name from the data set.
    pub name: String,
    /// Every voxel counting the same; nnU-Net's fingerprints don't have it.
    pub per_voxel: Option<Intensity>,
    /// Every case counting the same.
    pub per_case: Intensity,
}

/// A measured data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// `.nii.gz`, `.nii`, …
    pub file_ending: String,
    /// How images are read.
    pub reader: Reader,
    /// Training cases; nnU-Net takes their number from `dataset.json`, so there may be more or fewer [`Self::grids`].
    pub training_cases: usize,
    /// Spacing and nonzero box of every case, image axes.
    pub grids: Vec<Grid>,
    /// Name and foreground intensities of every channel.
    pub channels: Vec<MeasuredChannel>,
    /// Classes, background first.
    pub labels: Vec<Label>,
    /// Regions, if the data set has any.
    pub regions: Vec<Region>,
    /// The label of voxels that nobody annotated.
    pub ignore: Option<Label>,
    /// Voxels in the nonzero box / voxels: mean over the cases.
    pub mean_relative_size: f64,
    /// The same: median over the cases.
    pub median_relative_size: f64,
    /// An axis along which every case is one voxel thick comes first, whatever its spacing. nnU-Net looks at the spacing
    /// alone, so its fingerprints are planned as it plans them.
    pub flat_axis_first: bool,
    /// nnU-Net's names, where they are known.
    pub nnunet: NnunetNames,
}

impl Measured {
    /// Channels that a network of this data set gives: regions, or classes with the background.
    pub fn outputs(&self) -> usize {
        if self.regions.is_empty() { self.labels.len() } else { self.regions.len() }
    }

    /// The weighting of intensities that the recipe asks for, or the one that was measured.
    pub fn weighting(&self, recipe: &Recipe) -> Weighting {
        let measured = self.channels.iter().all(|c| c.per_voxel.is_some());
        if measured { recipe.planning.intensity_weighting() } else { Weighting::PerCase }
    }

    /// The recipe as far as this data set allows it: with the weighting of intensities that was measured.
    pub(crate) fn followed(&self, recipe: &Recipe) -> Recipe {
        let mut followed = recipe.clone();
        let weighting = match &mut followed.planning {
            Planning::Paper(planning) => &mut planning.intensity_weighting,
            Planning::V2(planning) => &mut planning.intensity_weighting,
        };
        *weighting = self.weighting(recipe);
        followed
    }

    /// Entries of `labels` in nnU-Net's `dataset.json`: classes or regions, the background, the ignore label.
    pub fn label_entries(&self) -> usize {
        let named =
            if self.regions.is_empty() { self.labels.len() } else { self.regions.len() + 1 };
        named + usize::from(self.ignore.is_some())
    }
}

impl From<&Fingerprint> for Measured {
    fn from(fingerprint: &Fingerprint) -> Self {
        let sizes: Vec<f64> = fingerprint.cases.iter().map(|c| c.relative_size).collect();
        let channels = fingerprint.channels.iter().map(|c| MeasuredChannel {
            name: c.name.clone(),
            per_voxel: Some(c.per_voxel),
            per_case: c.per_case,
        });
        Self {
            name: fingerprint.dataset.name.clone(),
            file_ending: fingerprint.dataset.file_ending.clone(),
            reader: fingerprint.dataset.reader,
            training_cases: fingerprint.cases.len(),
            grids: crate::geometry::grids(fingerprint),
            channels: channels.collect(),
            labels: fingerprint.labels.clone(),
            regions: fingerprint.regions.clone(),
            ignore: fingerprint.ignore.clone(),
            mean_relative_size: sizes.iter().sum::<f64>() / sizes.len().max(1) as f64,
            median_relative_size: crate::geometry::median(sizes.into_iter()),
            flat_axis_first: true,
            nnunet: NnunetNames::default(),
        }
    }
}

impl From<&Self> for Measured {
    fn from(measured: &Self) -> Self {
        measured.clone()
    }
}
