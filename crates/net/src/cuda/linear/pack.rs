//! Weights in the order in which `convolve.cu` reads them.

use super::arguments::{MAX_TAPS, PackArgs};
use super::{BLOCK, filled_groups, groups, pair, to_u32};
use crate::cuda::Context;
use crate::cuda::tensor::Element;
use crate::geometry::Direction;
use kernels::{Buffer, GpuError, Pointer};
use std::sync::Arc;

/// A slot: 8 input channels of a tap × 32 output channels, as bfloat16.
pub(super) const SLOT_BYTES: usize = 512;

/// Packed weights of one layer in one direction, a part of a buffer that it keeps alive. For float tensors every weight
/// is a sum of two bfloat16; the low halves follow the high ones.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(super) pointer: Pointer,
    pub(super) inputs: [usize; 2],
    pub(super) outputs: [usize; 2],
    pub(super) taps: usize,
    pub(super) element: Element,
    direction: Direction,
    _owner: Arc<Buffer>,
}

impl Packed {
    /// What it takes in memory, a multiple of 512. `small` and `large` are the channels of the two sides' tensors.
    pub(crate) fn bytes(
        small: &[usize],
        large: &[usize],
        taps: usize,
        direction: Direction,
        element: Element,
    ) -> usize {
        let (inputs, outputs) = sides(small, large, direction);
        halves(element) * half_bytes(inputs, outputs, taps)
    }

    /// At `offset` bytes of `buffer`, a multiple of 16.
    pub(crate) fn at(
        buffer: &Arc<Buffer>,
        offset: usize,
        small: &[usize],
        large: &[usize],
        taps: usize,
        direction: Direction,
        element: Element,
    ) -> Self {
        let bytes = Self::bytes(small, large, taps, direction, element);
        assert!(offset + bytes <= buffer.bytes(), "packed weights past their buffer");
        assert!(offset.is_multiple_of(16), "offset {offset} of packed weights");
        assert!((1..=MAX_TAPS).contains(&taps), "{taps} taps");
        let (inputs, outputs) = sides(small, large, direction);
        let pointer = buffer.pointer().offset(offset);
        Self { pointer, inputs, outputs, taps, element, direction, _owner: buffer.clone() }
    }

    /// Bytes to the low halves.
    pub(super) fn low(&self) -> usize {
        half_bytes(self.inputs, self.outputs, self.taps)
    }

    /// Groups of 8 input channels × blocks of 32 output channels.
    fn blocks(&self) -> usize {
        input_groups(self.inputs) * output_blocks(self.outputs)
    }
}

fn halves(element: Element) -> usize {
    match element {
        Element::Bf16 => 1,
        Element::F32 => 2,
    }
}

fn sides(small: &[usize], large: &[usize], direction: Direction) -> ([usize; 2], [usize; 2]) {
    let (small, large) = (pair(small.iter().copied()), pair(large.iter().copied()));
    match direction {
        Direction::LargeToSmall => (large, small),
        Direction::SmallToLarge => (small, large),
    }
}

pub(super) fn input_groups(inputs: [usize; 2]) -> usize {
    inputs.iter().map(|&c| filled_groups(groups(c))).sum()
}

pub(super) fn output_blocks(outputs: [usize; 2]) -> usize {
    outputs.iter().map(|c| c.div_ceil(BLOCK)).sum()
}

fn half_bytes(inputs: [usize; 2], outputs: [usize; 2], taps: usize) -> usize {
    output_blocks(outputs) * input_groups(inputs) * taps * SLOT_BYTES
}

/// What one launch packs: the device's table of it, made once.
#[derive(Debug)]
pub(crate) struct PackTable {
    buffer: Buffer,
    entries: usize,
    blocks: usize,
}

impl PackTable {
    /// Of packed weights and where their weights `[small][large][tap]`, f32, lie.
    pub(crate) fn new(ctx: &Context, layers: &[(&Packed, Pointer)]) -> Result<Self, GpuError> {
        let mut words: Vec<u64> = Vec::new();
        let mut entry_of_block: Vec<u32> = Vec::new();
        let two = |low: usize, high: usize| u64::from(to_u32(low)) | u64::from(to_u32(high)) << 32;
        for (i, (packed, weights)) in layers.iter().enumerate() {
            let ([i0, i1], [o0, o1]) = (packed.inputs, packed.outputs);
            let (input_step, output_step) = match packed.direction {
                Direction::LargeToSmall => (packed.taps, (i0 + i1) * packed.taps),
                Direction::SmallToLarge => ((o0 + o1) * packed.taps, packed.taps),
            };
            let low = if packed.element == Element::F32 { packed.low() } else { 0 };
            // The fields of PackEntry in pack.cu.
            words.extend([weights.0, packed.pointer.0, low as u64, two(i0, i1), two(o0, o1)]);
            words.extend([two(input_step, output_step), two(packed.taps, entry_of_block.len())]);
            entry_of_block.extend(std::iter::repeat_n(to_u32(i), packed.blocks()));
        }
        let (entries, blocks) = (8 * words.len(), entry_of_block.len());
        let buffer = ctx.gpu.buffer(entries + 4 * blocks)?;
        ctx.stream.upload(buffer.pointer(), &words)?;
        ctx.stream.upload(buffer.pointer().offset(entries), &entry_of_block)?;
        Ok(Self { buffer, entries, blocks })
    }
}

/// Packs all weights of a table.
pub(crate) fn pack(ctx: &Context, table: &PackTable) {
    let entries = table.buffer.pointer();
    let arguments = PackArgs { entries, entry_of_block: entries.offset(table.entries) };
    ctx.launch("pack_weights", [table.blocks, 1, 1], 256, 0, &arguments);
}
