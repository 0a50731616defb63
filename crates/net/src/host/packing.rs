//! Weights in the order in which the kernels read them.

use super::format::Format;
use super::grid::{BLOCK, Chunk, Wide};
use crate::geometry::Direction;
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

/// `[output block][input block][tap][half of the outputs][part][group of inputs][16 outputs][inputs of the group]`.
#[derive(Debug)]
pub(crate) struct Packed {
    pub chunks: Vec<Chunk>,
    pub inputs: Vec<(usize, usize)>,
    pub outputs: Vec<(usize, usize)>,
    pub taps: usize,
    /// Chunks of one tap between two blocks.
    tap_chunks: usize,
    direction: Direction,
}

impl Packed {
    /// For weights between tensors of these channels.
    pub(crate) fn new<F: Format>(
        small: &[usize],
        large: &[usize],
        taps: usize,
        direction: Direction,
    ) -> Self {
        let (inputs, outputs) = match direction {
            Direction::LargeToSmall => (blocks(large), blocks(small)),
            Direction::SmallToLarge => (blocks(small), blocks(large)),
        };
        let tap_chunks = 2 * F::PARTS * F::TILE;
        let chunks = vec![Chunk::ZERO; inputs.len() * outputs.len() * taps * tap_chunks];
        Self { chunks, inputs, outputs, taps, tap_chunks, direction }
    }

    /// Chunks of one output block and one input block.
    pub(crate) fn pair_chunks(&self) -> usize {
        self.taps * self.tap_chunks
    }

    /// Weights of a block's outputs.
    pub(super) fn of_block(&self, output: usize) -> &[Chunk] {
        let length = self.inputs.len() * self.pair_chunks();
        &self.chunks[output * length..][..length]
    }

    /// Takes over weights `[small][large][tap]`.
    pub(crate) fn fill<F: Format>(&mut self, weights: &[f32]) {
        let count = |blocks: &[(usize, usize)]| blocks.iter().map(|b| b.1).sum::<usize>();
        let (taps, tap_chunks) = (self.taps, self.tap_chunks);
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
                    let place = o / 16 * F::PARTS * F::TILE + c / F::GROUP;
                    let element = o % 16 * F::GROUP + c % F::GROUP;
                    for (tap, &value) in weights[from..from + taps].iter().enumerate() {
                        let chunks = &mut chunks[tap * tap_chunks + place..];
                        let bits = F::bits(value);
                        if F::GROUP == 1 {
                            chunks[0].put_word(element, bits);
                            continue;
                        }
                        for part in 0..F::PARTS {
                            chunks[part * F::TILE].0[element] = (bits >> (16 * part)) as u16;
                        }
                    }
                }
            }
        });
    }
}

/// A bias in blocks of 32, zeros behind the end.
pub(crate) fn pack_bias(bias: &[f32], blocks: &mut Vec<Wide>) {
    blocks.clear();
    blocks.extend(bias.chunks(BLOCK).map(|part| {
        let mut block = Wide::ZERO;
        block.0[..part.len()].copy_from_slice(part);
        block
    }));
}
