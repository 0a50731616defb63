//! `fold_K/model.toml` with `weights.npz`, `plan.toml`, `history.toml`, `progress.png`: one trained network.
//!
//! The folder is complete by itself: `nnu-infer --model` reads nothing else. While training, `checkpoint.toml` with
//! `checkpoint_NNNNNN.npz` lie beside it; both are files of `nnu-train` alone.

use crate::Kind;
use crate::bounds::{self, Rule};
use serde::{Deserialize, Serialize};

/// Name of the weights.
pub const WEIGHTS: &str = "weights.npz";
/// Name of the plan's copy.
pub const PLAN: &str = "plan.toml";
/// Name of the history.
pub const HISTORY: &str = "history.toml";
/// Name of the curves.
pub const PROGRESS: &str = "progress.png";

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What was trained.
    pub model: ModelInfo,
}

/// What was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Configuration.
    pub configuration: String,
    /// Fold.
    pub fold: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// Why training ended: `epochs`, `plateau`; `imported`: it took place in nnU-Net.
    pub ended_by: String,
    /// Number format of the arithmetic: `f32`.
    pub precision: String,
    /// Cases it was validated on.
    pub validation: Vec<String>,
    /// Dice per foreground class over the fold's validation cases, predicted in full on the preprocessed grid (NaN:
    /// class absent); empty when that was switched off.
    pub validation_dice: Vec<f64>,
}

impl Kind for Model {
    const KIND: &'static str = "model";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.model.epochs == 0 {
            return Err("model.epochs = 0, expected at least 1".into());
        }
        bounds::count("model.epochs", self.model.epochs, 1, bounds::MAX_COUNT)?;
        bounds::count("model.fold", self.model.fold, 0, bounds::MAX_COUNT)
    }
}

/// `history.toml`: one row per epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Epoch 0 first.
    pub epochs: Vec<Epoch>,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 0.
    pub epoch: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Mean over the epoch's training batches.
    pub train_loss: f64,
    /// Mean over the epoch's validation batches.
    pub validation_loss: f64,
    /// Moving average of `train_loss`.
    pub train_loss_average: f64,
    /// Moving average of `validation_loss`.
    pub validation_loss_average: f64,
    /// Per foreground class: 2TP / (2TP + FP + FN) over all validation batches; NaN if there was none.
    pub pseudo_dice: Vec<f64>,
}

impl Kind for History {
    const KIND: &'static str = "history";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        check_epochs(&self.epochs)
    }
}

/// Larger than any loss; sums of as many as there are epochs don't overflow.
const LOSS: Rule = Rule::Within(-1e60, 1e60);

/// One line if an epoch is out of order, or a number none that a training comes to.
///
/// # Errors
/// Key, found, expected.
pub fn check_epochs(epochs: &[Epoch]) -> Result<(), String> {
    for (i, e) in epochs.iter().enumerate() {
        let key = |name: &str| format!("epochs[{i}].{name}");
        if e.epoch != i {
            return Err(format!("{} = {}, expected {i}", key("epoch"), e.epoch));
        }
        bounds::LEARNING_RATE.check(&key("learning_rate"), e.learning_rate)?;
        let losses = [
            ("train_loss", e.train_loss),
            ("validation_loss", e.validation_loss),
            ("train_loss_average", e.train_loss_average),
            ("validation_loss_average", e.validation_loss_average),
        ];
        for (name, loss) in losses.into_iter().filter(|(_, loss)| loss.is_finite()) {
            LOSS.check(&key(name), loss)?;
        }
        for dice in e.pseudo_dice.iter().filter(|dice| !dice.is_nan()) {
            Rule::Within(0.0, 1.0).check(&key("pseudo_dice"), *dice)?;
        }
    }
    Ok(())
}
