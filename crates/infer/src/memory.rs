//! What a case takes at its peak, the next case left out.

use crate::ensemble::Member;
use crate::lineup::{Lineup, Previous, Stage};
use crate::predict::window;
use crate::prepare::Prepared;
use artifact::recipe::Averaged;
use net::sliding_window::{Activation, card_bytes};
use net::{Device, UNet};
use stage::{Error, Result};

fn volume(shape: [usize; 3]) -> u64 {
    shape.iter().product::<usize>() as u64
}

/// What a case takes at its peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Of the machine.
    pub host: u64,
    /// Of the card; 0 without one.
    pub card: u64,
}

/// The network with its tiles.
fn network(stage: &Stage, device: &Device) -> Result<u64> {
    let spec = &stage.ensemble.configuration.network;
    let (tiles, patch) = (stage.window.tile_batch, stage.window.patch);
    UNet::memory_bytes(spec, device, tiles, patch, false).map_err(|e| Error::input(e.to_string()))
}

/// The network with a whole case on the card; none if it doesn't fit there, or there is no card.
fn whole_on_card(stage: &Stage, device: &Device, prepared: &Prepared) -> Result<Option<u64>> {
    let Device::Cuda(cuda) = device else { return Ok(None) };
    let spec = &stage.ensemble.configuration.network;
    let case = &prepared.grid(stage.ensemble.cases()).case;
    card_bytes(spec, cuda, &window(stage, case), case.case.shape)
        .map_err(|e| Error::input(e.to_string()))
}

/// All weights and images, and the stage that takes most.
///
/// # Errors
/// If a network's description makes no sense.
pub(crate) fn bytes(
    lineup: &Lineup,
    device: &Device,
    prepared: &Prepared,
    probabilities: bool,
) -> Result<Bytes> {
    let weights = |m: &Member| m.parameters.iter().map(|(_, a)| 4 * a.len() as u64).sum::<u64>();
    let members = lineup.stages.iter().flat_map(|s| &s.ensemble.members);
    let images = prepared.grids().iter().map(|g| 4 * g.image().len() as u64);
    let (mut most, mut card) = (0, 0);
    for stage in &lineup.stages {
        let whole = whole_on_card(stage, device, prepared)?;
        let net = whole.map_or_else(|| network(stage, device), Ok)?;
        let on_host = if matches!(device, Device::Cpu(_)) { net } else { 0 };
        card = card.max(net - on_host);
        let beside = match whole {
            // The averages stay on the card, and label maps are made there.
            Some(_) if !probabilities && lineup.counting() == 1 => label_map(stage, prepared),
            Some(_) => export(stage, lineup, prepared, probabilities),
            None => tiling(stage, prepared).max(export(stage, lineup, prepared, probabilities)),
        };
        most = most.max(on_host + beside.max(one_hot(stage, prepared)));
    }
    let host = members.map(weights).sum::<u64>() + images.sum::<u64>() + most;
    Ok(Bytes { host, card })
}

/// The image with the previous stage's classes as channels.
fn one_hot(stage: &Stage, prepared: &Prepared) -> u64 {
    let seen = volume(prepared.grid(stage.ensemble.cases()).case.case.shape);
    let inputs = stage.ensemble.configuration.network.input_channels as u64;
    if stage.previous == Previous::None { 0 } else { seen * (2 + 4 * inputs) }
}

/// The averages of all outputs on the preprocessed grid.
fn averages(stage: &Stage, prepared: &Prepared) -> u64 {
    let seen = volume(prepared.grid(stage.ensemble.cases()).case.case.shape);
    4 * seen * stage.ensemble.configuration.network.output_channels as u64
}

/// Sums and weights of the voxels; a batch of patches in and out; the patch's Gaussian.
fn tiling(stage: &Stage, prepared: &Prepared) -> u64 {
    let spec = &stage.ensemble.configuration.network;
    let (tiles, patch) = (stage.window.tile_batch as u64, stage.window.patch);
    let seen = volume(prepared.grid(stage.ensemble.cases()).case.case.shape);
    let channels = (spec.input_channels + spec.output_channels) as u64;
    averages(stage, prepared)
        + one_hot(stage, prepared)
        + 4 * seen
        + 4 * volume(patch) * (1 + tiles * channels)
}

/// Classes in the crop box, and in the image as classes and labels.
fn label_map(stage: &Stage, prepared: &Prepared) -> u64 {
    let original = &prepared.grid(stage.ensemble.cases()).case.original;
    2 * volume(original.cropped_shape()) + 4 * volume(original.geometry.shape)
}

/// The averages on their way to the image's grid.
fn export(stage: &Stage, lineup: &Lineup, prepared: &Prepared, probabilities: bool) -> u64 {
    let case = &prepared.grid(stage.ensemble.cases()).case;
    let crop = volume(case.original.cropped_shape());
    let image = volume(case.original.geometry.shape);
    // The best value and its class; one output's map in f64 and f32; softmax of logits; the mean over configurations.
    let averaged = lineup.counting() > 1;
    let resampled = if case.case.shape == case.original.cropped_shape() { 0 } else { 12 };
    let late = stage.decoding.averaged == Averaged::Logits
        && stage.decoding.activation == Activation::Softmax
        && (probabilities || averaged);
    let export = 6 + resampled + if late { 8 } else { 0 } + if averaged { 10 } else { 0 };
    averages(stage, prepared) + crop * export + 4 * image
}
