//! Weights in the order in which the matrix kernels read them.

use super::tensor::{BLOCK, Chunk};
use crate::ops::packing::Direction;
use half::bf16;
use rayon::prelude::*;

/// Channels of one side, cut into blocks: (first channel, count). A concatenation starts a block with each tensor.
fn blocks(tensors: &[usize]) -> Vec<(usize, usize)> {
    let mut list = Vec::new();
    let mut first = 0;
    for &channels in tensors {
        list.extend((0..channels).step_by(BLOCK).map(|c| (first + c, (channels - c).min(BLOCK))));
        first += channels;
    }
    list
}

/// `[output block][input block][tap][half of the outputs][part][pair of inputs][16 outputs][2 inputs]`.
#[derive(Debug)]
pub(crate) struct Packed {
    pub chunks: Vec<Chunk>,
    pub inputs: Vec<(usize, usize)>,
    pub outputs: Vec<(usize, usize)>,
    pub taps: usize,
    parts: usize,
    direction: Direction,
}

/// Chunks of one tap of one part of 16 outputs: one tile.
const TILE: usize = 16;

impl Packed {
    /// For weights between tensors of these channels.
    pub(crate) fn new(
        small: &[usize],
        large: &[usize],
        taps: usize,
        parts: usize,
        direction: Direction,
    ) -> Self {
        let (inputs, outputs) = match direction {
            Direction::LargeToSmall => (blocks(large), blocks(small)),
            Direction::SmallToLarge => (blocks(small), blocks(large)),
        };
        let count = inputs.len() * outputs.len() * taps * 2 * parts * TILE;
        Self { chunks: vec![Chunk::ZERO; count], inputs, outputs, taps, parts, direction }
    }

    /// Chunks of one output block and one input block.
    pub(crate) fn pair_chunks(&self) -> usize {
        self.taps * 2 * self.parts * TILE
    }

    /// Takes over weights `[small][large][tap]`.
    pub(crate) fn fill(&mut self, weights: &[f32]) {
        let count = |blocks: &[(usize, usize)]| blocks.iter().map(|b| b.1).sum::<usize>();
        let (taps, parts) = (self.taps, self.parts);
        let (all_inputs, all_outputs) = (count(&self.inputs), count(&self.outputs));
        assert_eq!(weights.len(), all_inputs * all_outputs * taps, "weights");
        let (input_step, output_step) = match self.direction {
            Direction::LargeToSmall => (taps, all_inputs * taps),
            Direction::SmallToLarge => (all_outputs * taps, taps),
        };
        let (pair, inputs, outputs) = (self.pair_chunks(), &self.inputs, &self.outputs);
        self.chunks.par_chunks_mut(pair).enumerate().for_each(|(i, chunks)| {
            let (output, output_count) = outputs[i / inputs.len()];
            let (input, input_count) = inputs[i % inputs.len()];
            for o in 0..output_count {
                for c in 0..input_count {
                    let from = (output + o) * output_step + (input + c) * input_step;
                    let place = o / 16 * parts * TILE + c / 2;
                    let element = o % 16 * 2 + c % 2;
                    for (tap, &value) in weights[from..from + taps].iter().enumerate() {
                        let at = tap * 2 * parts * TILE + place;
                        let rounded = bf16::from_f32(value);
                        chunks[at].0[element] = rounded.to_bits();
                        if parts == 2 {
                            let rest = bf16::from_f32(value - rounded.to_f32());
                            chunks[at + TILE].0[element] = rest.to_bits();
                        }
                    }
                }
            }
        });
    }
}

/// A bias in blocks of 32, zeros behind the end.
pub(crate) fn pack_bias(bias: &[f32], blocks: &mut Vec<super::tensor::Wide>) {
    blocks.clear();
    blocks.extend(bias.chunks(BLOCK).map(|part| {
        let mut block = super::tensor::Wide::ZERO;
        block.0[..part.len()].copy_from_slice(part);
        block
    }));
}
