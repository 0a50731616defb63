//! `plan.toml`: what `nnu-plan` decided; every later stage reads this file alone.
//!
//! Axes are z, y, x *after* [`Geometry::transpose`]; spacings in mm; shapes in voxels.

mod nnunet;

use crate::bounds::{self, Rule};
use crate::image::{Reader, Turn};
use crate::{Kind, Label, Region, recipe::Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The data set that was planned for.
    pub dataset: PlannedDataset,
    /// How image axes map to the plan's axes.
    pub geometry: Geometry,
    /// nnU-Net's names, where the plan was made from its files.
    #[serde(default, skip_serializing_if = "NnunetNames::is_empty")]
    pub nnunet: NnunetNames,
    /// One entry per input channel, in channel order.
    pub channels: Vec<Channel>,
    /// Classes by rising value; index 0 is the background. Without regions, output channel `i` is class `i`.
    pub labels: Vec<Label>,
    /// Regions in the order of their output channel (sigmoid); none: softmax over `labels`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// Voxels with this value are nobody's: left out of sampling, loss and scores. In cases its class index is
    /// `labels.len()`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<Label>,
    /// By name: `2d`, `3d_fullres`, `3d_lowres`, `3d_cascade_fullres`.
    pub configurations: BTreeMap<String, Configuration>,
    /// The resolved recipe: every constant that later stages use.
    pub recipe: Recipe,
}

/// The data set, as far as later stages care.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedDataset {
    /// Name from `dataset.json`, or the folder's.
    pub name: String,
    /// Number of training cases.
    pub training_cases: usize,
    /// `.nii.gz`, `.nii`, …: what predictions are written as.
    pub file_ending: String,
    /// How images and label maps are read; the plan's image axes are those that it gives.
    #[serde(default, skip_serializing_if = "Reader::is_default")]
    pub reader: Reader,
}

impl PlannedDataset {
    fn check(&self) -> Result<(), String> {
        self.reader.check_ending("dataset.reader", &self.file_ending)
    }
}

/// How image axes map to the plan's axes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    /// Plan axis `i` is image axis `transpose[i]` (image axes are z, y, x as the data set's reader gives them).
    pub transpose: [usize; 3],
    /// Median spacing of the cases as stored, per plan axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_spacing_mm: Option<[f64; 3]>,
    /// Median shape of the cases' nonzero boxes as stored, per plan axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_shape: Option<[f64; 3]>,
}

impl Geometry {
    /// Only the order of the axes.
    pub fn of_transpose(transpose: [usize; 3]) -> Self {
        Self { transpose, median_spacing_mm: None, median_shape: None }
    }
}

/// What nnU-Net v2 calls things, where a plan was made from its files; only for writing its files again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NnunetNames {
    /// Its data set's folder, such as `Dataset004_Hippocampus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Name of its plans, such as `nnUNetPlans`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plans: Option<String>,
    /// Class of the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planner: Option<String>,
    /// Class that reads the images, as its files name it; what it does is `dataset.reader`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_reader: Option<String>,
    /// Folders of preprocessed cases by configuration, where they aren't named as its planners name them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cases: BTreeMap<String, String>,
}

impl NnunetNames {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How one channel's intensities are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Clip to the data set's foreground percentiles 0.5 and 99.5, then subtract its mean, divide by its sd.
    Ct,
    /// Subtract the image's mean, divide by its standard deviation.
    ZScore,
    /// As `ZScore`, but statistics and transform only inside the nonzero mask; outside is 0.
    ZScoreMasked,
    /// (x − min) / (max − min).
    RescaleTo01,
    /// x / 255.
    RgbTo01,
    /// Cast to f32 only.
    None,
}

impl Normalisation {
    /// By a channel's name: `CT`, nnU-Net's names of its other schemes, and for every other name the z-score; `masked` says
    /// which. Case doesn't matter.
    pub fn of_channel(name: &str, masked: bool) -> Self {
        match name.to_lowercase().as_str() {
            "ct" => Self::Ct,
            "nonorm" => Self::None,
            "rescale_to_0_1" => Self::RescaleTo01,
            "rgb_to_0_1" => Self::RgbTo01,
            _ if masked => Self::ZScoreMasked,
            _ => Self::ZScore,
        }
    }

    /// Whether it takes an image with values from `low` to `high`.
    ///
    /// # Errors
    /// One line: found, expected.
    pub fn check_range(self, low: f32, high: f32) -> Result<(), String> {
        if self == Self::RgbTo01 && (low < 0.0 || high > 255.0) {
            return Err(format!(
                "values from {low} to {high}, expected 0 to 255 (scheme rgb_to01)"
            ));
        }
        Ok(())
    }
}

/// One input channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Name from the data set, such as `CT` or `T1`.
    pub name: String,
    /// Scheme.
    pub normalisation: Normalisation,
    /// Foreground intensities of the training set; used by [`Normalisation::Ct`].
    pub intensity: Intensity,
}

/// Foreground intensity statistics of one channel over the training set; what counts the same in them, voxels or cases, is
/// the recipe's [`Weighting`](crate::recipe::Weighting).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Intensity {
    /// Mean.
    pub mean: f64,
    /// Population standard deviation.
    pub sd: f64,
    /// Smallest value.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// Largest value.
    pub max: f64,
    /// 0.5th percentile.
    pub percentile_00_5: f64,
    /// 99.5th percentile.
    pub percentile_99_5: f64,
}

/// One configuration: what is resampled to what, which patches, which network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Target spacing.
    pub spacing_mm: [f64; 3],
    /// 2D: cases keep their own slice distance along axis 0, `spacing_mm[0]` is the median only.
    pub keep_slice_distance: bool,
    /// Median shape of the training cases at the target spacing; a median of an even number of cases may end in .5.
    pub median_shape: [f64; 3],
    /// Patch; axis 0 is 1 for 2D.
    pub patch_shape: [usize; 3],
    /// Samples per batch.
    pub batch_size: usize,
    /// Dice sums run over the whole batch (true) or per sample (false).
    pub batch_dice: bool,
    /// The configuration whose preprocessed cases this one uses, where it has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cases_from: Option<String>,
    /// The configuration whose prediction is added as one-hot input channels, one per foreground class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_stage: Option<String>,
    /// The network.
    pub network: Network,
}

/// What an encoder stage is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoder {
    /// Convolutions in a row.
    #[default]
    Plain,
    /// A stem, then residual blocks of two convolutions.
    Residual,
}

/// A U-Net. Stages are counted from full resolution; 2D is 3D with depth 1.
///
/// Encoder stage `i` is `encoder_convs[i]` × (conv → instance norm → leaky ReLU), its first convolution strided by
/// `strides[i]`. Decoder step for stage `i` (from the deepest but one up to 0): transposed convolution with kernel =
/// stride = `strides[i + 1]`, concatenation (upsampled first, skip second), `decoder_convs[i]` × (conv → norm →
/// leaky ReLU) with `kernels[i]`, and a 1×1×1 segmentation head.
///
/// A residual encoder begins with a stem (conv → norm → leaky ReLU, stride 1, features and kernel of stage 0); stage `i`
/// is `encoder_convs[i]` × block: conv (the first block's strided) → norm → leaky ReLU → conv → norm, plus the skip,
/// → leaky ReLU. The skip is average-pooled where the block is strided (kernel = stride), then 1×1×1-convolved without
/// bias and normalised where the number of features changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// What the encoder's stages are made of.
    #[serde(default)]
    pub encoder: Encoder,
    /// Image channels plus one-hot channels of a previous stage.
    pub input_channels: usize,
    /// Output channels: classes including background (softmax), or regions (sigmoid).
    pub output_channels: usize,
    /// Feature maps per stage.
    pub features: Vec<usize>,
    /// Convolution kernel per stage and axis: 1 or 3.
    pub kernels: Vec<[usize; 3]>,
    /// Stride into each stage per axis: 1 or 2; the first row is all 1.
    pub strides: Vec<[usize; 3]>,
    /// Convolutions per encoder stage; residual: blocks.
    pub encoder_convs: Vec<usize>,
    /// Convolutions per decoder stage; one entry fewer than stages.
    pub decoder_convs: Vec<usize>,
    /// A weighted loss at every decoder resolution.
    pub deep_supervision: bool,
    /// Slope of the leaky ReLU below 0.
    pub negative_slope: f32,
    /// Added to the variance by the instance norm.
    pub norm_epsilon: f32,
}

impl Network {
    /// Poolings per axis: how often each axis is halved.
    pub fn poolings(&self) -> [usize; 3] {
        let count = |axis: usize| self.strides.iter().filter(|s| s[axis] == 2).count();
        [count(0), count(1), count(2)]
    }

    /// Every patch edge must be a multiple of this.
    pub fn divisor(&self) -> [usize; 3] {
        let shift = |n: usize| u32::try_from(n).ok().and_then(|n| 1usize.checked_shl(n));
        self.poolings().map(|n| shift(n).unwrap_or(usize::MAX))
    }
}

impl Plan {
    /// A configuration by name.
    ///
    /// # Errors
    /// One line that lists the configurations there are.
    pub fn configuration(&self, name: &str) -> Result<&Configuration, String> {
        self.configurations.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.configurations.keys().map(String::as_str).collect();
            format!(
                "configuration \"{name}\" is not planned, expected one of: {}",
                names.join(", ")
            )
        })
    }

    /// From an image's axes as stored to the plan's.
    pub fn turn(&self, image: &crate::image::Geometry) -> Turn {
        self.dataset.reader.turn(image).then(Turn::of_transpose(self.geometry.transpose))
    }

    /// Output channels of a network: regions if there are any, else classes.
    pub fn outputs(&self) -> usize {
        if self.regions.is_empty() { self.labels.len() } else { self.regions.len() }
    }

    /// Class index of ignored voxels in cases, if the data set has an ignore label.
    pub fn ignore_class(&self) -> Option<i16> {
        self.ignore.as_ref().and_then(|_| i16::try_from(self.labels.len()).ok())
    }

    /// What is scored: regions if there are any, else the foreground classes; by name.
    pub fn targets(&self) -> Vec<&str> {
        match self.regions.is_empty() {
            true => self.labels[1..].iter().map(|l| l.name.as_str()).collect(),
            false => self.regions.iter().map(|r| r.name.as_str()).collect(),
        }
    }

    /// Class indices of each region; empty without regions.
    pub fn region_classes(&self) -> Vec<Vec<usize>> {
        let class = |value: &i32| self.labels.iter().position(|l| l.value == *value);
        self.regions.iter().map(|r| r.values.iter().filter_map(class).collect()).collect()
    }

    /// The configuration whose preprocessed cases a configuration uses: its own name, or [`Configuration::cases_from`].
    ///
    /// # Errors
    /// As [`Self::configuration`].
    pub fn cases_of<'a>(&'a self, name: &'a str) -> Result<&'a str, String> {
        Ok(self.configuration(name)?.cases_from.as_deref().unwrap_or(name))
    }

    /// Hash of everything that decides what preprocessing writes for a configuration, and of nothing else: neither the
    /// length of a training nor a name nor a number that its rules don't use makes cases stale.
    ///
    /// # Errors
    /// As [`Self::configuration`].
    pub fn preprocessing_hash(&self, configuration: &str) -> Result<String, String> {
        #[derive(Serialize)]
        struct Decisive<'a> {
            spacing_mm: &'a [f64],
            transpose: [usize; 3],
            normalisations: Vec<(Normalisation, Vec<f64>)>,
            labels: Vec<i32>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            regions: Vec<&'a [i32]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            ignore: Option<i32>,
            #[serde(skip_serializing_if = "Reader::is_default")]
            reader: Reader,
            rules: &'a crate::recipe::Preprocessing,
        }
        let c = self.configuration(configuration)?;
        // Only CT is normalised by the data set's intensities.
        let normalisation = |channel: &Channel| {
            let (ct, v) = (channel.normalisation == Normalisation::Ct, &channel.intensity);
            let numbers = [v.percentile_00_5, v.percentile_99_5, v.mean, v.sd];
            (channel.normalisation, if ct { numbers.to_vec() } else { Vec::new() })
        };
        let decisive = Decisive {
            // Where slices keep their distance, the first number is nobody's.
            spacing_mm: &c.spacing_mm[usize::from(c.keep_slice_distance)..],
            transpose: self.geometry.transpose,
            normalisations: self.channels.iter().map(normalisation).collect(),
            labels: self.labels.iter().map(|label| label.value).collect(),
            regions: self.regions.iter().map(|region| region.values.as_slice()).collect(),
            ignore: self.ignore.as_ref().map(|label| label.value),
            reader: self.dataset.reader,
            rules: &self.recipe.preprocessing,
        };
        let text = toml::to_string(&decisive).map_err(|e| e.to_string())?;
        Ok(crate::hash_bytes(text.as_bytes()))
    }
}

impl Kind for Plan {
    const KIND: &'static str = "plan";
    const VERSION: u32 = 3;

    fn check(&self) -> Result<(), String> {
        let t = self.geometry.transpose;
        let mut sorted = t;
        sorted.sort_unstable();
        if sorted != [0, 1, 2] {
            return Err(format!("geometry.transpose = {t:?}, expected a permutation of [0, 1, 2]"));
        }
        bounds::count("dataset.training_cases", self.dataset.training_cases, 0, bounds::MAX_COUNT)?;
        bounds::entries("channels", self.channels.len(), 1, bounds::MAX_CHANNELS)?;
        for (i, channel) in self.channels.iter().enumerate() {
            channel.intensity.check().map_err(|e| format!("channels[{i}].intensity.{e}"))?;
        }
        if let Some(spacing) = self.geometry.median_spacing_mm {
            bounds::SPACING_MM.check_all("geometry.median_spacing_mm", &spacing)?;
        }
        if let Some(shape) = self.geometry.median_shape {
            bounds::MEDIAN_EDGE.check_all("geometry.median_shape", &shape)?;
        }
        self.dataset.check()?;
        if let Some(class) = &self.nnunet.image_reader {
            let read = Reader::of_class("nnunet.image_reader", class)?;
            let ending = &self.dataset.file_ending;
            let files = format!("dataset.file_ending = \"{ending}\"");
            Reader::check_class("nnunet.image_reader", class, (ending, &files))?;
            if read != self.dataset.reader {
                return Err(format!(
                    "nnunet.image_reader = \"{class}\", which isn't what dataset.reader says"
                ));
            }
        }
        crate::label::check_labels(&self.labels)?;
        crate::label::check_regions(&self.labels, &self.regions, self.ignore.as_ref())?;
        for (name, c) in &self.configurations {
            let checked = c.check().and_then(|()| self.check_links(name, c));
            checked.map_err(|e| format!("configurations.{name}.{e}"))?;
        }
        self.recipe.check()
    }
}

impl Plan {
    /// That what a configuration takes from others doesn't lead back to it; others may be planned elsewhere.
    fn check_links(&self, name: &str, c: &Configuration) -> Result<(), String> {
        if let Some(from) = &c.cases_from
            && self.configurations.get(from).is_some_and(|c| c.cases_from.is_some())
        {
            return Err(format!(
                "cases_from = \"{from}\", expected another configuration that has cases of its own"
            ));
        }
        let mut seen = vec![name];
        let mut previous = c.previous_stage.as_deref();
        while let Some(stage) = previous {
            if seen.contains(&stage) {
                return Err(format!("previous_stage = \"{stage}\", expected no circle of stages"));
            }
            seen.push(stage);
            previous = self.configurations.get(stage).and_then(|c| c.previous_stage.as_deref());
        }
        Ok(())
    }
}

impl Intensity {
    fn check(&self) -> Result<(), String> {
        let numbers = [
            ("mean", self.mean),
            ("min", self.min),
            ("median", self.median),
            ("max", self.max),
            ("percentile_00_5", self.percentile_00_5),
            ("percentile_99_5", self.percentile_99_5),
        ];
        numbers.iter().try_for_each(|(key, x)| bounds::INTENSITY.check(key, *x))?;
        Rule::Within(0.0, 1e30).check("sd", self.sd)?;
        let (low, high) = (self.percentile_00_5, self.percentile_99_5);
        if low > high {
            return Err(format!(
                "percentile_00_5 = {low}, expected at most percentile_99_5 = {high}"
            ));
        }
        Ok(())
    }
}

impl Configuration {
    fn check(&self) -> Result<(), String> {
        let net = &self.network;
        net.check().map_err(|e| format!("network.{e}"))?;
        bounds::SPACING_MM.check_all("spacing_mm", &self.spacing_mm)?;
        bounds::MEDIAN_EDGE.check_all("median_shape", &self.median_shape)?;
        bounds::check_batch(self.patch_shape, self.batch_size)?;
        let divisor = net.divisor();
        for axis in 0..3 {
            let edge = self.patch_shape[axis];
            if !edge.is_multiple_of(divisor[axis]) {
                return Err(format!(
                    "patch_shape[{axis}] = {edge}, expected a multiple of {} (the network pools this axis {} times)",
                    divisor[axis],
                    net.poolings()[axis]
                ));
            }
        }
        Ok(())
    }
}

impl Network {
    /// One line: field, found, expected.
    pub fn check(&self) -> Result<(), String> {
        let stages = self.features.len();
        if !(2..=bounds::MAX_STAGES).contains(&stages) {
            return Err(format!(
                "features has {stages} {}, expected 2 to {}, one per stage: a U-Net pools at least once",
                if stages == 1 { "entry" } else { "entries" },
                bounds::MAX_STAGES
            ));
        }
        let lengths = [
            ("kernels", self.kernels.len(), stages),
            ("strides", self.strides.len(), stages),
            ("encoder_convs", self.encoder_convs.len(), stages),
            ("decoder_convs", self.decoder_convs.len(), stages - 1),
        ];
        for (field, found, expected) in lengths {
            if found != expected {
                return Err(format!(
                    "{field} has {found} entries, expected {expected} for {stages} stages"
                ));
            }
        }
        if let Some(k) = self.kernels.iter().flatten().find(|k| !matches!(k, 1 | 3)) {
            return Err(format!("kernels contains {k}, expected 1 or 3"));
        }
        if let Some(s) = self.strides.iter().flatten().find(|s| !matches!(s, 1 | 2)) {
            return Err(format!("strides contains {s}, expected 1 or 2"));
        }
        if self.strides[0] != [1, 1, 1] {
            return Err(format!("strides[0] = {:?}, expected [1, 1, 1]", self.strides[0]));
        }
        bounds::counts("features", &self.features, 1, bounds::MAX_FEATURES)?;
        bounds::counts("encoder_convs", &self.encoder_convs, 1, bounds::MAX_CONVS)?;
        bounds::counts("decoder_convs", &self.decoder_convs, 1, bounds::MAX_CONVS)?;
        bounds::count("input_channels", self.input_channels, 1, bounds::MAX_CHANNELS)?;
        bounds::count("output_channels", self.output_channels, 1, bounds::MAX_CHANNELS)?;
        bounds::NEGATIVE_SLOPE.check("negative_slope", self.negative_slope.into())?;
        bounds::NORM_EPSILON.check("norm_epsilon", self.norm_epsilon.into())
    }
}
