//! The recipe: every constant that a stage would otherwise hide in its code.
//!
//! A recipe is a TOML file with these tables; `nnu-plan` copies the resolved one into `plan.toml` under `[recipe]`.
//! Unknown keys are errors, so that a mistyped setting is never silently ignored.

mod augmentation;
mod check;
mod inference;
mod planning;
mod preprocessing;
mod training;

pub use augmentation::{AnatomicalAxis, Augmentation, Draw, Sampling, ShareOf, SliceAxis};
pub use inference::{Averaged, FirstStage, Inference, Postprocessing, PostprocessingRule};
pub use planning::{PaperPlanning, Planning, ShrinkUntil, V2Planning, Weighting};
pub use preprocessing::{LabelVote, Preprocessing, StepOrder};
use serde::{Deserialize, Serialize};
pub use training::{LossWeights, Optimiser, OptimiserKind, Schedule, ScheduleKind};

/// A closed range, written `[low, high]`.
pub type Range = [f64; 2];

/// All settings, by the stage that reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the recipe this started from: `paper`, or the user's own.
    pub name: String,
    /// Rules of `nnu-plan`.
    pub planning: Planning,
    /// Rules of `nnu-preprocess`.
    pub preprocessing: Preprocessing,
    /// Which patches are drawn.
    pub sampling: Sampling,
    /// How patches are changed.
    pub augmentation: Augmentation,
    /// Loss.
    pub loss: LossWeights,
    /// Optimiser.
    pub optimiser: Optimiser,
    /// Length of a training, learning rate, stopping.
    pub schedule: Schedule,
    /// Sliding-window prediction.
    pub inference: Inference,
    /// What `nnu-postprocess fit` may decide.
    pub postprocessing: Postprocessing,
}

impl Recipe {
    /// Axes (plan order) along which predictions may be mirrored, as far as [`Augmentation::never_mirror`] lets them in
    /// an image: `inference.mirror_axes`, else those that training mirrored.
    pub fn mirror_axes(&self) -> &[usize] {
        let training = &self.augmentation;
        match &self.inference.mirror_axes {
            Some(axes) => axes,
            None if training.mirror_probability == 0.0 => &[],
            None => &training.mirror_axes,
        }
    }

    /// … and along which they are: none without `inference.mirroring`.
    pub fn mirrored_in_prediction(&self) -> &[usize] {
        if self.inference.mirroring { self.mirror_axes() } else { &[] }
    }
}
