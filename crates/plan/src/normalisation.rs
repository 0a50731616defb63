//! Which normalisation each channel gets.

use crate::measured::{Measured, MeasuredChannel};
use artifact::plan::{Channel, Normalisation};
use artifact::recipe::Weighting;

/// One entry per channel, by its name ([`Normalisation::of_channel`]): `CT` is clipped and scaled by the data set's foreground
/// statistics, weighted so; any other name is z-scored per image; with `masked`, which is for images of which cropping to the
/// nonzero box leaves little, inside the nonzero mask only (CT never).
pub fn channels(measured: &Measured, masked: bool, weighting: Weighting) -> Vec<Channel> {
    let channel = |channel: &MeasuredChannel| Channel {
        name: channel.name.clone(),
        normalisation: Normalisation::of_channel(&channel.name, masked),
        intensity: match weighting {
            Weighting::PerVoxel => channel.per_voxel.unwrap_or(channel.per_case),
            Weighting::PerCase => channel.per_case,
        },
    };
    measured.channels.iter().map(channel).collect()
}
