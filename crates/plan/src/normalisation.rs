//! Which normalisation each channel gets.

use crate::measured::Measured;
use artifact::plan::{Channel, Normalisation};
use artifact::recipe::Weighting;

/// One entry per channel, by its name: `CT` is clipped and scaled by the data set's foreground statistics, weighted so, any other
/// name is z-scored per image; with `masked`, which is for images of which cropping to the nonzero box leaves little, inside
/// the nonzero mask only (CT never). The names of nnU-Net's other schemes (`noNorm`, `zscore`, `rescale_to_0_1`,
/// `rgb_to_0_1`) are understood as well; case doesn't matter.
pub fn channels(measured: &Measured, masked: bool, weighting: Weighting) -> Vec<Channel> {
    let scheme = |name: &str| match name.to_lowercase().as_str() {
        "ct" => Normalisation::Ct,
        "nonorm" => Normalisation::None,
        "rescale_to_0_1" => Normalisation::RescaleTo01,
        "rgb_to_0_1" => Normalisation::RgbTo01,
        _ if masked => Normalisation::ZScoreMasked,
        _ => Normalisation::ZScore,
    };
    let channels = measured.channels.iter();
    channels
        .map(|channel| Channel {
            name: channel.name.clone(),
            normalisation: scheme(&channel.name),
            intensity: match weighting {
                Weighting::PerVoxel => channel.per_voxel.unwrap_or(channel.per_case),
                Weighting::PerCase => channel.per_case,
            },
        })
        .collect()
}
