//! Which normalisation each channel gets.

use artifact::fingerprint::Fingerprint;
use artifact::plan::{Channel, Normalisation};
use artifact::recipe::Planning;

/// One entry per channel, by its name: `CT` is clipped and scaled by the data set's foreground statistics, any other
/// name is z-scored per image. If cropping to the nonzero box leaves on average at most `masked_normalisation_below` of
/// the voxels, z-scores are taken inside the nonzero mask only (CT never). The names of nnU-Net's other schemes
/// (`noNorm`, `zscore`, `rescale_to_0_1`, `rgb_to_0_1`) are understood as well; case doesn't matter.
pub fn channels(fingerprint: &Fingerprint, planning: &Planning) -> Vec<Channel> {
    let sizes = fingerprint.cases.iter().map(|c| c.relative_size);
    let mean_size = sizes.sum::<f64>() / fingerprint.cases.len().max(1) as f64;
    let masked = mean_size <= planning.masked_normalisation_below;
    let scheme = |name: &str| match name.to_lowercase().as_str() {
        "ct" => Normalisation::Ct,
        "nonorm" => Normalisation::None,
        "rescale_to_0_1" => Normalisation::RescaleTo01,
        "rgb_to_0_1" => Normalisation::RgbTo01,
        _ if masked => Normalisation::ZScoreMasked,
        _ => Normalisation::ZScore,
    };
    let channels = fingerprint.channels.iter();
    channels
        .map(|c| Channel {
            name: c.name.clone(),
            normalisation: scheme(&c.name),
            intensity: c.intensity,
        })
        .collect()
}
