//! What the numbers of a plan may be at most, in one place, and how a fault is put: key, found, expected.
//!
//! Every bound lies far beyond what any machine of today can do or any image has, and so low that no product of numbers
//! within them overflows 64 bits: whatever passes can be described, and its memory be counted, before any is taken.

/// Stages of a U-Net. Fifteen poolings take an edge of [`MAX_PATCH_EDGE`] to two voxels; nnU-Net's networks have 8 at most.
pub const MAX_STAGES: usize = 16;

/// Feature maps of a stage; nnU-Net's have 512 at most.
pub const MAX_FEATURES: usize = 1 << 13;

/// Convolutions or blocks of a stage; nnU-Net's have 6 at most.
pub const MAX_CONVS: usize = 64;

/// Channels that go into a network or come out of it: label values end at 32767.
pub const MAX_CHANNELS: usize = 1 << 15;

/// Voxels along an edge of a patch; the volumes that NIfTI's first version can hold end at 32767.
pub const MAX_PATCH_EDGE: usize = 1 << 16;

/// Patches of a batch.
pub const MAX_BATCH: usize = 1 << 20;

/// Voxels of all patches of a batch: some seventy times what nnU-Net plans for a card of 80 GiB.
pub const MAX_BATCH_VOXELS: usize = 1 << 31;

/// Epochs, iterations, cases, voxels kept per class: what is merely counted.
pub const MAX_COUNT: usize = 1_000_000_000;

/// From electron microscopy's nanometre to a kilometre.
pub const SPACING_MM: Rule = Rule::Within(1e-6, 1e6);

/// Median shapes, in voxels; medians of an even number of cases may end in .5.
pub(crate) const MEDIAN_EDGE: Rule = Rule::Within(0.5, 1e9);

/// Intensities: half of what an f32 holds when divided by the smallest standard deviation that is used, 1e-8.
pub(crate) const INTENSITY: Rule = Rule::Within(-1e30, 1e30);

/// Of an epoch: the decay ends at 0.
pub(crate) const LEARNING_RATE: Rule = Rule::Within(0.0, 1e30);

/// Of the leaky ReLU: 0 is a ReLU, 1 none at all.
pub(crate) const NEGATIVE_SLOPE: Rule = Rule::Within(0.0, 1.0);

/// Added to a variance: less would make a constant channel's gradients overflow.
pub(crate) const NORM_EPSILON: Rule = Rule::Within(1e-12, 1.0);

/// What a number may be. None of them lets NaN pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// From the first to the second.
    Within(f64, f64),
    /// Above the first, up to the second.
    Above(f64, f64),
    /// From the first, but below the second.
    Below(f64, f64),
    /// Above the first and below the second.
    Between(f64, f64),
}

impl Rule {
    /// Whether a number may be.
    pub fn allows(self, x: f64) -> bool {
        match self {
            Self::Within(low, high) => (low..=high).contains(&x),
            Self::Above(low, high) => x > low && x <= high,
            Self::Below(low, high) => (low..high).contains(&x),
            Self::Between(low, high) => x > low && x < high,
        }
    }

    /// As messages put it.
    pub fn expected(self) -> String {
        match self {
            Self::Within(low, high) => format!("{} to {}", show(low), show(high)),
            Self::Above(low, high) => format!("above {} and at most {}", show(low), show(high)),
            Self::Below(low, high) => format!("{} or more and below {}", show(low), show(high)),
            Self::Between(low, high) => format!("above {} and below {}", show(low), show(high)),
        }
    }

    /// One line if `x` may not be the value of `key`.
    pub(crate) fn check(self, key: &str, x: f64) -> Result<(), String> {
        if self.allows(x) {
            return Ok(());
        }
        Err(format!("{key} = {}, expected {}", show(x), self.expected()))
    }

    /// One line if one of `all` may not be.
    pub(crate) fn check_all(self, key: &str, all: &[f64]) -> Result<(), String> {
        if all.iter().all(|&x| self.allows(x)) {
            return Ok(());
        }
        let all: Vec<String> = all.iter().map(|&x| show(x)).collect();
        Err(format!("{key} = [{}], expected {}", all.join(", "), self.expected()))
    }
}

/// A number as a person writes it: no three hundred zeros.
fn show(x: f64) -> String {
    let size = x.abs();
    if size == 0.0 || !x.is_finite() || (1e-4..1e9).contains(&size) {
        x.to_string()
    } else {
        format!("{x:e}")
    }
}

/// One line if a count isn't from `least` to `most`.
pub(crate) fn count(key: &str, n: usize, least: usize, most: usize) -> Result<(), String> {
    if (least..=most).contains(&n) {
        return Ok(());
    }
    Err(format!("{key} = {n}, expected {least} to {most}"))
}

/// One line if a list hasn't from `least` to `most` entries.
pub(crate) fn entries(key: &str, n: usize, least: usize, most: usize) -> Result<(), String> {
    if (least..=most).contains(&n) {
        return Ok(());
    }
    Err(format!("{key} has {n} entries, expected {least} to {most}"))
}

/// One line if one of these counts isn't.
pub(crate) fn counts(key: &str, all: &[usize], least: usize, most: usize) -> Result<(), String> {
    if all.iter().all(|n| (least..=most).contains(n)) {
        return Ok(());
    }
    Err(format!("{key} = {all:?}, expected {least} to {most} each"))
}

/// One line if a batch of `size` patches of this shape is beyond any machine, or is none.
///
/// # Errors
/// Key, found, expected.
pub fn check_batch(patch: [usize; 3], size: usize) -> Result<(), String> {
    counts("patch_shape", &patch, 1, MAX_PATCH_EDGE)?;
    count("batch_size", size, 1, MAX_BATCH)?;
    let voxels = patch.iter().try_fold(size, |all, &edge| all.checked_mul(edge));
    if voxels.is_some_and(|n| n <= MAX_BATCH_VOXELS) {
        return Ok(());
    }
    Err(format!(
        "batch_size = {size} of patch_shape = {patch:?}, expected at most {MAX_BATCH_VOXELS} voxels together"
    ))
}
