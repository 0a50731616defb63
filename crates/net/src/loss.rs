//! What the network is trained on: softmax Dice plus cross-entropy (Isensee et al. 2018, section "training"; nnU-Net
//! v2's `DC_and_CE_loss`).

/// Weights and rules of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossOptions {
    /// Factor of the Dice term.
    pub dice_weight: f32,
    /// Factor of the cross-entropy.
    pub cross_entropy_weight: f32,
    /// Added to numerator and denominator of each Dice fraction.
    pub smooth: f32,
    /// Class 0 has a Dice term too.
    pub dice_background: bool,
    /// Dice sums run over the whole batch (true) or per sample, then averaged (false).
    pub batch_dice: bool,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self {
            dice_weight: 1.0,
            cross_entropy_weight: 1.0,
            smooth: 1e-5,
            dice_background: false,
            batch_dice: true,
        }
    }
}

/// One class at full resolution, prediction by the largest logit; for the pseudo-Dice 2·tp / (2·tp + fp + fn).
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
    /// Mean over voxels, natural logarithm.
    pub cross_entropy: f64,
    /// Per class, background first.
    pub counts: Vec<ClassCounts>,
}
