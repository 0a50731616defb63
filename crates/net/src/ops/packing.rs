//! Weights in the order in which the kernels read them.

use crate::cpu::linear::group_blocks;
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane};
use rayon::prelude::*;

/// Which side of the weights `[small][large][tap]` is the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    LargeToSmall,
    SmallToLarge,
}

/// Channels of one side, cut into blocks: (first channel, count). A concatenation starts a block with each tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channels(Vec<(usize, usize)>);

impl Channels {
    pub(crate) fn new(tensors: &[usize]) -> Self {
        let mut list = Vec::new();
        let mut first = 0;
        for &channels in tensors {
            list.extend(
                (0..channels).step_by(LANES).map(|c| (first + c, (channels - c).min(LANES))),
            );
            first += channels;
        }
        Self(list)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|(_, n)| n).sum()
    }
}

/// `[group of output blocks][input block][tap][input channel of 16][output block in group]`, 16 output channels a lane.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub lanes: Vec<Lane>,
    inputs: Channels,
    outputs: Channels,
    taps: usize,
    direction: Direction,
}

impl Packed {
    pub(crate) fn new(
        small: &Channels,
        large: &Channels,
        taps: usize,
        direction: Direction,
    ) -> Self {
        let (inputs, outputs) = match direction {
            Direction::LargeToSmall => (large.clone(), small.clone()),
            Direction::SmallToLarge => (small.clone(), large.clone()),
        };
        let lanes = vec![Lane::ZERO; inputs.0.len() * outputs.0.len() * taps * LANES];
        Self { lanes, inputs, outputs, taps, direction }
    }

    pub(crate) fn input_channels(&self) -> usize {
        self.inputs.count()
    }

    pub(crate) fn output_channels(&self) -> usize {
        self.outputs.count()
    }

    /// Takes over weights `[small][large][tap]`.
    pub(crate) fn fill(&mut self, level: SimdLevel, weights: &[f32]) {
        let per_group = group_blocks(level);
        let (taps, inputs, outputs) = (self.taps, &self.inputs, &self.outputs.0);
        let (input_step, output_step) = match self.direction {
            Direction::LargeToSmall => (taps, inputs.count() * taps),
            Direction::SmallToLarge => (self.outputs.count() * taps, taps),
        };
        assert_eq!(weights.len(), inputs.count() * self.outputs.count() * taps, "weights");
        let group_lanes = per_group * inputs.0.len() * taps * LANES;
        self.lanes.par_chunks_mut(group_lanes).enumerate().for_each(|(group, lanes)| {
            let outputs = &outputs[group * per_group..outputs.len().min((group + 1) * per_group)];
            let mut lanes = lanes.chunks_exact_mut(LANES * outputs.len());
            for &(input, input_count) in &inputs.0 {
                for (tap, lanes) in lanes.by_ref().take(taps).enumerate() {
                    for i in 0..input_count {
                        for (b, &(output, output_count)) in outputs.iter().enumerate() {
                            let lane = &mut lanes[i * outputs.len() + b].0;
                            let at = (input + i) * input_step + tap;
                            for o in 0..output_count {
                                lane[o] = weights[at + (output + o) * output_step];
                            }
                        }
                    }
                }
            }
        });
    }
}

/// A bias, 16 channels a lane, zeros behind the end of each tensor.
pub(crate) fn pack_bias(channels: &Channels, bias: &[f32], lanes: &mut Vec<Lane>) {
    lanes.resize(channels.0.len(), Lane::ZERO);
    for (lane, &(first, count)) in lanes.iter_mut().zip(&channels.0) {
        lane.0[..count].copy_from_slice(&bias[first..first + count]);
    }
}
