//! Loss, optimiser, schedule.

use serde::{Deserialize, Serialize};

/// Loss = `dice_weight` × Dice loss + `cross_entropy_weight` × cross-entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossWeights {
    /// Weight of the Dice loss.
    pub dice_weight: f64,
    /// Weight of the cross-entropy.
    pub cross_entropy_weight: f64,
    /// Added to numerator and denominator of the Dice.
    pub dice_smooth: f64,
    /// Count the background as a class of the Dice.
    pub dice_background: bool,
}

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimiserKind {
    /// Adam.
    Adam,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// Optimiser and its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimiser {
    /// Which one.
    pub kind: OptimiserKind,
    /// Initial learning rate.
    pub learning_rate: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Adam: decay of the mean of gradients.
    pub beta1: f64,
    /// Adam: decay of the mean of squared gradients.
    pub beta2: f64,
    /// Adam: added to the denominator.
    pub epsilon: f64,
    /// Adam: divide by the largest mean square so far.
    pub amsgrad: bool,
    /// SGD: momentum.
    pub momentum: f64,
    /// SGD: Nesterov's form.
    pub nesterov: bool,
    /// Global gradient norm is clipped to this; 0 = off.
    pub clip_norm: f64,
}

/// How the learning rate moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Divided when the training loss stops improving; training ends when the validation loss does.
    Plateau,
    /// `learning_rate × (1 − epoch / epochs) ^ poly_power`.
    Polynomial,
}

/// Length of a training, learning rate, stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Which rule moves the learning rate.
    pub kind: ScheduleKind,
    /// Epochs at most.
    pub epochs: usize,
    /// Training batches per epoch.
    pub iterations_per_epoch: usize,
    /// Validation batches per epoch.
    pub validation_iterations: usize,
    /// Polynomial: exponent.
    pub poly_power: f64,
    /// Plateau: decay of the moving average of the training loss.
    pub train_average_decay: f64,
    /// Plateau: decay of the moving average of the validation loss.
    pub validation_average_decay: f64,
    /// Plateau: an improvement counts from here (absolute).
    pub min_improvement: f64,
    /// Plateau: epochs without improvement of the training average before the rate is divided.
    pub reduce_after_epochs: usize,
    /// Plateau: factor on the learning rate.
    pub reduce_factor: f64,
    /// Plateau: epochs without improvement of the validation average before training ends …
    pub stop_after_epochs: usize,
    /// … but not while the learning rate is above this.
    pub stop_below_learning_rate: f64,
}
