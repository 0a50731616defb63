//! What a case takes at its peak, the next case left out.

use crate::ensemble::Member;
use crate::lineup::{Lineup, Previous, Stage};
use crate::prepare::Prepared;
use artifact::recipe::Averaged;
use net::sliding_window::Activation;
use net::{Cpu, Device, UNet};
use stage::{Error, Result};

fn volume(shape: [usize; 3]) -> u64 {
    shape.iter().product::<usize>() as u64
}

/// Bytes: all weights and images, and the stage that takes most.
///
/// # Errors
/// If a network's description makes no sense.
pub(crate) fn bytes(lineup: &Lineup, prepared: &Prepared, probabilities: bool) -> Result<u64> {
    let weights = |m: &Member| m.parameters.iter().map(|(_, a)| 4 * a.len() as u64).sum::<u64>();
    let members = lineup.stages.iter().flat_map(|s| &s.ensemble.members);
    let images = prepared.grids().iter().map(|g| 4 * g.image().len() as u64);
    let mut most = 0;
    for stage in &lineup.stages {
        most = most.max(of_stage(stage, lineup, prepared, probabilities)?);
    }
    Ok(members.map(weights).sum::<u64>() + images.sum::<u64>() + most)
}

/// The larger of network and export, which follow each other.
fn of_stage(
    stage: &Stage,
    lineup: &Lineup,
    prepared: &Prepared,
    probabilities: bool,
) -> Result<u64> {
    let spec = &stage.ensemble.configuration.network;
    let (tiles, patch) = (stage.window.tile_batch, stage.window.patch);
    let net = UNet::memory_bytes(spec, &Device::Cpu(Cpu::detect()), tiles, patch, false)
        .map_err(|e| Error::input(e.to_string()))?;
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
    Ok(net + 4 * seen * outputs + tiling.max(crop * export + 4 * image))
}
