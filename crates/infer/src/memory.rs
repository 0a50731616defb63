//! What a case takes at its peak.

use crate::lineup::{Lineup, Previous, Stage};
use crate::predict::window;
use crate::prepare::Prepared;
use artifact::image::Turn;
use artifact::recipe::Averaged;
use net::sliding_window::{Accumulator, Activation, Window, card_bytes, views};
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

/// Patches that go through the network at once, at most.
fn tiles(stage: &Stage, prepared: &Prepared) -> usize {
    let case = &prepared.grid(stage.ensemble.cases()).case;
    stage.window.tile_batch.min(views(case.case.shape, &window(stage, case)))
}

/// The network with its tiles.
fn network(stage: &Stage, device: &Device, prepared: &Prepared) -> Result<u64> {
    let spec = &stage.ensemble.configuration.network;
    let (tiles, patch) = (tiles(stage, prepared), stage.window.patch);
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

/// The stage that takes most, with the images; weights that wait for their turn left out, and so is what the cases before
/// and behind take meanwhile.
///
/// # Errors
/// If a network's description makes no sense.
pub(crate) fn bytes(
    lineup: &Lineup,
    device: &Device,
    prepared: &Prepared,
    probabilities: bool,
) -> Result<Bytes> {
    let images = prepared.grids().iter().map(|g| 4 * g.image().len() as u64).sum::<u64>();
    let outside = prepared.outside.as_ref().map_or(0, |o| o.len() as u64);
    let (mut most, mut card) = (0, 0);
    for (at, stage) in lineup.stages.iter().enumerate() {
        let whole = whole_on_card(stage, device, prepared)?;
        let net = whole.map_or_else(|| network(stage, device, prepared), Ok)?;
        let on_host = if matches!(device, Device::Cpu(_)) { net } else { 0 };
        card = card.max(net - on_host);
        let (during, after) = match whole {
            // The averages stay on the card, and label maps are made there.
            Some(_) if !probabilities && lineup.counting() == 1 => (0, label_map(stage, prepared)),
            Some(_) => (0, export(stage, lineup, prepared, probabilities)),
            None => (sums(stage, prepared), export(stage, lineup, prepared, probabilities)),
        };
        let last = at + 1 == lineup.stages.len();
        let kept = if last && !prepared.is_mapped() { 0 } else { images };
        most = most.max(on_host + (images + one_hot(stage, prepared) + during).max(kept + after));
    }
    Ok(Bytes { host: most + outside, card })
}

/// The shape in which a stage sees the case.
fn seen(stage: &Stage, prepared: &Prepared) -> [usize; 3] {
    prepared.grid(stage.ensemble.cases()).case.case.shape
}

/// The image with the previous stage's classes as channels.
fn one_hot(stage: &Stage, prepared: &Prepared) -> u64 {
    let inputs = stage.ensemble.configuration.network.input_channels as u64;
    if stage.previous == Previous::None {
        0
    } else {
        volume(seen(stage, prepared)) * (2 + 4 * inputs)
    }
}

/// Sums and what goes through the network at once.
fn sums(stage: &Stage, prepared: &Prepared) -> u64 {
    let spec = &stage.ensemble.configuration.network;
    let window = Window { tile_batch: tiles(stage, prepared), ..stage.window.clone() };
    let shape = seen(stage, prepared);
    Accumulator::bytes(shape, spec.input_channels, spec.output_channels, &window)
}

/// The averages of all outputs on the preprocessed grid.
fn averages(stage: &Stage, prepared: &Prepared) -> u64 {
    let outputs = stage.ensemble.configuration.network.output_channels as u64;
    4 * volume(seen(stage, prepared)) * outputs
}

/// Classes in the crop box and in the image, the file's bytes and the same compressed.
fn label_map(stage: &Stage, prepared: &Prepared) -> u64 {
    let original = &prepared.grid(stage.ensemble.cases()).case.original;
    let image = volume(original.geometry.shape);
    let wide = stage.ensemble.plan.labels.iter().any(|label| label.value > 255);
    let moved =
        original.cropped_shape() != original.geometry.shape || original.turn() != Turn::NONE;
    2 * volume(original.cropped_shape())
        + if moved { 2 * image } else { 0 }
        + image * if wide { 4 } else { 2 }
}

/// The averages on their way to the image's grid, and the label map when they are gone.
fn export(stage: &Stage, lineup: &Lineup, prepared: &Prepared, probabilities: bool) -> u64 {
    let case = &prepared.grid(stage.ensemble.cases()).case;
    let crop = volume(case.original.cropped_shape());
    let decoding = &stage.decoding;
    let averaged = lineup.counting() > 1;
    let whole = probabilities || averaged;
    let splines = decoding.order.max(decoding.order_coarse_axis) > 1;
    // One output's map in f64 and f32; softmax of logits; the mean over configurations; the best value; its class.
    let resampled = case.case.shape != case.original.cropped_shape() && (whole || splines);
    let late = whole
        && decoding.averaged == Averaged::Logits
        && decoding.activation == Activation::Softmax;
    let parts = [(resampled, 12), (late, 8), (averaged, 10), (whole || splines, 4), (true, 2)];
    let parts = parts.iter().filter(|(there, _)| *there).map(|(_, bytes)| bytes).sum::<u64>();
    (averages(stage, prepared) + crop * parts).max(label_map(stage, prepared))
}
