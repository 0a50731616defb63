//! The optimiser's state and steps on a card (`kernels/optimiser.cu`).

use super::Rule;
use crate::Error;
use crate::cuda::Context;
use kernels::{Buffer, Pointer};
use std::ops::Range;
use std::sync::Arc;

/// As in `kernels/optimiser.cu`; a thread has four parameters.
const THREADS: usize = 256;

/// Blocks that the gradient's norm is summed in, at most. Part of the norm's definition, as the order of its sum.
const NORM_BLOCKS: usize = 512;

kernels::arguments! {
    struct BeginArgs {
        step: Pointer,
        size: f32,
        root: f32,
        first: u32,
        padding: u32,
    }
}

kernels::arguments! {
    struct NormArgs {
        gradient: Pointer,
        sums: Pointer,
        count: u32,
        range: u32,
    }
}

kernels::arguments! {
    struct FactorArgs {
        sums: Pointer,
        step: Pointer,
        limit: f64,
        count: u32,
        padding: u32,
    }
}

kernels::arguments! {
    struct UpdateArgs {
        values: Pointer,
        gradient: Pointer,
        first: Pointer,
        second: Pointer,
        largest: Pointer,
        step: Pointer,
        idle: Pointer,
        count: u32,
        idle_ranges: u32,
        clip: u32,
        decay: f32,
        one_beta1: f32,
        beta2: f32,
        one_beta2: f32,
        epsilon: f32,
        nesterov: u32,
        padding: u32,
    }
}

/// Moments in device memory, and what differs from step to step.
#[derive(Debug)]
pub(super) struct CardMoments {
    ctx: Arc<Context>,
    vectors: Vec<Buffer>,
    /// `Step` of the kernels, then the sums of the norm's blocks.
    step: Buffer,
    /// First and last (exclusive) of each range of parameters that a step leaves as they are.
    idle: Buffer,
    idle_ranges: usize,
    length: usize,
}

impl CardMoments {
    /// With the state that the host has.
    pub(super) fn new(
        ctx: &Arc<Context>,
        vectors: &[Vec<f32>],
        ranges: &[Range<usize>],
    ) -> Result<Self, Error> {
        let length = vectors.first().map_or(0, Vec::len);
        let copy = |values: &Vec<f32>| {
            let buffer = ctx.gpu.buffer(4 * length)?;
            ctx.stream.upload(buffer.pointer(), values)?;
            Ok::<_, Error>(buffer)
        };
        let vectors = vectors.iter().map(copy).collect::<Result<_, _>>()?;
        let step = ctx.gpu.buffer(16 + 8 * NORM_BLOCKS)?;
        let ends: Vec<u32> = ranges.iter().flat_map(|r| [r.start, r.end]).map(number).collect();
        let idle = ctx.gpu.buffer(4 * ends.len().max(1))?;
        ctx.stream.upload(idle.pointer(), &ends)?;
        ctx.moved();
        Ok(Self { ctx: ctx.clone(), vectors, step, idle, idle_ranges: ranges.len(), length })
    }

    pub(super) fn read(&self) -> Result<Vec<Vec<f32>>, Error> {
        let copy = |buffer: &Buffer| {
            let mut values = vec![0.0f32; self.length];
            self.ctx.stream.download(buffer.pointer(), &mut values)?;
            Ok(values)
        };
        self.vectors.iter().map(copy).collect()
    }

    /// Tells the card which step it is; arithmetic as the CPU's.
    pub(super) fn begin(&self, rule: Rule, steps: u64, learning_rate: f64) -> Result<(), Error> {
        let exponent = i32::try_from(steps).unwrap_or(i32::MAX);
        let (size, root) = match rule {
            Rule::Adam(a) => (
                (learning_rate / (1.0 - a.beta1.powi(exponent))) as f32,
                (1.0 - a.beta2.powi(exponent)).sqrt() as f32,
            ),
            Rule::Sgd(_) => (learning_rate as f32, 1.0),
        };
        let first = u32::from(steps == 1);
        let arguments = BeginArgs { step: self.step.pointer(), size, root, first, padding: 0 };
        self.ctx.launch("optimiser_begin", [1, 1, 1], 32, 0, &arguments);
        Ok(self.ctx.check()?)
    }

    /// Where the state lies: recorded steps have it built in.
    pub(super) fn place(&self) -> Pointer {
        self.step.pointer()
    }

    /// Queues the step that was begun.
    pub(super) fn step(
        &self,
        rule: Rule,
        clip_norm: Option<f64>,
        values: Pointer,
        gradient: Pointer,
    ) {
        if let Some(limit) = clip_norm {
            self.clip(limit, gradient);
        }
        let vector = |i: usize| self.vectors.get(i).map_or(Pointer::default(), Buffer::pointer);
        let arguments = UpdateArgs {
            values,
            gradient,
            first: vector(0),
            second: vector(1),
            largest: vector(2),
            step: self.step.pointer(),
            idle: self.idle.pointer(),
            count: number(self.length),
            idle_ranges: number(self.idle_ranges),
            clip: u32::from(clip_norm.is_some()),
            decay: 0.0,
            one_beta1: 0.0,
            beta2: 0.0,
            one_beta2: 0.0,
            epsilon: 0.0,
            nesterov: 0,
            padding: 0,
        };
        let (kernel, arguments) = match rule {
            Rule::Adam(a) => (
                "optimiser_adam",
                UpdateArgs {
                    decay: a.weight_decay as f32,
                    one_beta1: (1.0 - a.beta1) as f32,
                    beta2: a.beta2 as f32,
                    one_beta2: (1.0 - a.beta2) as f32,
                    epsilon: a.epsilon as f32,
                    ..arguments
                },
            ),
            Rule::Sgd(s) => (
                "optimiser_sgd",
                UpdateArgs {
                    decay: s.weight_decay as f32,
                    one_beta1: s.momentum as f32,
                    nesterov: u32::from(s.nesterov),
                    ..arguments
                },
            ),
        };
        let blocks = self.length.div_ceil(4 * THREADS);
        self.ctx.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &arguments);
    }

    fn clip(&self, limit: f64, gradient: Pointer) {
        let range = self.length.div_ceil(NORM_BLOCKS).next_multiple_of(4 * THREADS);
        let blocks = self.length.div_ceil(range);
        let (step, sums) = (self.step.pointer(), self.step.pointer().offset(16));
        let norm = NormArgs { gradient, sums, count: number(self.length), range: range as u32 };
        self.ctx.launch("optimiser_norm", [blocks, 1, 1], THREADS as u32, 0, &norm);
        let factor = FactorArgs { sums, step, limit, count: blocks as u32, padding: 0 };
        self.ctx.launch("optimiser_factor", [1, 1, 1], THREADS as u32, 0, &factor);
    }
}

fn number(parameters: usize) -> u32 {
    u32::try_from(parameters).expect("fewer parameters than 2^32")
}
