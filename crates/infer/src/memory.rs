//! What a case takes at its peak, the next case left out.

use crate::ensemble::Member;
use crate::lineup::{Lineup, Previous, Stage};
use crate::prepare::Prepared;
use artifact::recipe::Averaged;
use net::sliding_window::Activation;
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
        let net = network(stage, device)?;
        let on_host = if matches!(device, Device::Cpu(_)) { net } else { 0 };
        card = card.max(net - on_host);
        most = most.max(on_host + of_stage(stage, lineup, prepared, probabilities));
    }
    let host = members.map(weights).sum::<u64>() + images.sum::<u64>() + most;
    Ok(Bytes { host, card })
}

/// The larger of tiling and export, which follow each other.
fn of_stage(stage: &Stage, lineup: &Lineup, prepared: &Prepared, probabilities: bool) -> u64 {
    let spec = &stage.ensemble.configuration.network;
    let (tiles, patch) = (stage.window.tile_batch, stage.window.patch);
    let case = &prepared.grid(stage.ensemble.cases()).case;
    let (seen, crop) = (volume(case.case.shape), volume(case.original.cropped_shape()));
    let image = volume(case.original.geometry.shape);
    let (inputs, outputs) = (spec.input_channels as u64, spec.output_channels as u64);
    let one_hot = if stage.previous == Previous::None { 0 } else { seen * (2 + 4 * inputs) };
    // Weights of the voxels; a batch of patches in and out; the patch's Gaussian.
    let tiling = one_hot + 4 * seen + 4 * volume(patch) * (1 + tiles as u64 * (inputs + outputs));
    // The best value and its class; one output's map in f64 and f32; softmax of logits; the mean over configurations.
    let averaged = lineup.counting() > 1;
    let resampled = if case.case.shape == case.original.cropped_shape() { 0 } else { 12 };
    let late = stage.decoding.averaged == Averaged::Logits
        && stage.decoding.activation == Activation::Softmax
        && (probabilities || averaged);
    let export = 6 + resampled + if late { 8 } else { 0 } + if averaged { 10 } else { 0 };
    4 * seen * outputs + tiling.max(crop * export + 4 * image)
}
