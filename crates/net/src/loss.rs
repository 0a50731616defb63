//! What the network is trained on: Dice plus cross-entropy, over classes by softmax (Isensee et al. 2018, section
//! "training"; nnU-Net v2's `DC_and_CE_loss`) or over regions by sigmoids (`DC_and_BCE_loss`).

use crate::Error;
use artifact::plan::Plan;

/// What the output channels stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Outputs {
    /// Softmax: channel `i` is class `i`, 0 the background.
    #[default]
    Classes,
    /// Sigmoids: channel `i` is a region, a union of classes; regions may overlap, the background has no channel.
    Regions {
        /// Number of classes that labels can have, background included.
        classes: usize,
        /// Class indices of each region.
        members: Vec<Vec<usize>>,
    },
}

/// What the labels of a batch mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Targets {
    /// What the output channels stand for.
    pub outputs: Outputs,
    /// Voxels with this label are nobody's: they count in no sum, and no gradient comes from them.
    pub ignore: Option<i16>,
}

impl Targets {
    /// As a plan has them.
    pub fn of_plan(plan: &Plan) -> Self {
        let outputs = if plan.regions.is_empty() {
            Outputs::Classes
        } else {
            Outputs::Regions { classes: plan.labels.len(), members: plan.region_classes() }
        };
        Self { outputs, ignore: plan.ignore_class() }
    }

    /// Number of classes that labels of a network with so many output channels can have.
    pub(crate) fn classes(&self, output_channels: usize) -> usize {
        match &self.outputs {
            Outputs::Classes => output_channels,
            Outputs::Regions { classes, .. } => *classes,
        }
    }

    /// One region per output channel, of classes that there are.
    pub(crate) fn check(&self, output_channels: usize) -> Result<(), Error> {
        let Outputs::Regions { classes, members } = &self.outputs else { return Ok(()) };
        if members.len() != output_channels {
            let expected = format!("{output_channels}, one per output channel");
            let found = vec![members.len()];
            return Err(Error::Shape { what: "regions of the loss", found, expected });
        }
        match members.iter().flatten().find(|class| *class >= classes) {
            Some(class) => Err(Error::Class {
                found: i16::try_from(*class).unwrap_or(i16::MAX),
                classes: *classes,
            }),
            None => Ok(()),
        }
    }
}

/// Weights and rules of the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct LossOptions {
    /// Factor of the Dice term.
    pub dice_weight: f32,
    /// Factor of the cross-entropy.
    pub cross_entropy_weight: f32,
    /// Added to numerator and denominator of each Dice fraction.
    pub smooth: f32,
    /// Class 0 has a Dice term too. Regions all have one.
    pub dice_background: bool,
    /// Dice sums run over the whole batch (true) or per sample, then averaged (false).
    pub batch_dice: bool,
    /// What the labels mean.
    pub targets: Targets,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self {
            dice_weight: 1.0,
            cross_entropy_weight: 1.0,
            smooth: 1e-5,
            dice_background: false,
            batch_dice: true,
            targets: Targets::default(),
        }
    }
}

/// One output channel at full resolution, ignored voxels left out; for the pseudo-Dice 2·tp / (2·tp + fp + fn).
/// A class is predicted where it has the largest logit, a region where its sigmoid exceeds 0.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassCounts {
    /// Voxels of the class that were found.
    pub tp: u64,
    /// Voxels of other classes that were taken for it.
    pub fp: u64,
    /// Voxels of the class that were missed.
    pub fn_: u64,
}

/// The loss of one batch. With deep supervision the terms are the weighted means over the resolutions.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// `dice_weight · dice + cross_entropy_weight · cross_entropy`.
    pub total: f64,
    /// Minus the mean soft Dice: −1 is perfect.
    pub dice: f64,
    /// Natural logarithm. Classes: mean over annotated voxels, 0 if there are none. Regions: mean over voxels and
    /// regions; with an ignore label the sum over both divided by the number of annotated voxels alone, as nnU-Net
    /// has it.
    pub cross_entropy: f64,
    /// Per output channel; for classes background first.
    pub counts: Vec<ClassCounts>,
}
