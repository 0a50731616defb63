//! Batches that are in device memory already: training on them, and prediction.

use super::state::State;
use super::{Runner, UNet};
use crate::Error;
use crate::cuda::Context;
use crate::cuda::tensor::Tensor;
use crate::engine::Engine;
use crate::engine::cuda::CudaEngine;
use crate::loss::{Loss, LossOptions};
use crate::optimiser::Optimiser;
use kernels::{Event, Gpu, GpuError, Pointer, Stream};
use std::time::Duration;

/// A batch in the memory of the network's card. It may be overwritten once the loss was read.
#[derive(Debug, Clone, Copy)]
pub struct DeviceBatch<'a> {
    /// f32 `[n, channel, z, y, x]`.
    pub image: Pointer,
    /// i16 `[n, z, y, x]`.
    pub label: Pointer,
    /// Number of samples.
    pub samples: usize,
    /// z, y, x.
    pub patch: [usize; 3],
    /// When both are there.
    pub ready: &'a Event,
}

impl UNet {
    /// Queues what [`UNet::step`] does; [`UNet::loss_of_device`] waits for it. Meanwhile the next batch can be made.
    ///
    /// # Errors
    /// As [`UNet::step`]; if the network is not on a card.
    pub fn begin_step_on_device(
        &mut self,
        batch: &DeviceBatch<'_>,
        options: &LossOptions,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<(), Error> {
        let state = self.on_card(options)?;
        state.take(batch)?;
        state.begin_step(options, optimiser, learning_rate)
    }

    /// Queues what [`UNet::loss`] does; [`UNet::loss_of_device`] waits for it.
    ///
    /// # Errors
    /// As [`UNet::loss`]; if the network is not on a card.
    pub fn begin_loss_on_device(
        &mut self,
        batch: &DeviceBatch<'_>,
        options: &LossOptions,
    ) -> Result<(), Error> {
        let state = self.on_card(options)?;
        state.take(batch)?;
        state.begin_loss(options, false)
    }

    /// Waits for the loss of what was begun last; from then on its batch may be overwritten.
    ///
    /// # Errors
    /// As [`UNet::loss`]; if the network is not on a card.
    pub fn loss_of_device(&mut self, options: &LossOptions) -> Result<Loss, Error> {
        self.on_card(options)?.read_loss(options)
    }

    /// On a card, takes the memory of training now rather than in the first iteration; on the CPU, asks for it only.
    ///
    /// # Errors
    /// One line with what is wanted and what is free, if it isn't enough.
    pub fn reserve_training(&mut self, samples: usize, patch: [usize; 3]) -> Result<(), Error> {
        self.admit_training(samples, patch)?;
        let Runner::Cuda(state) = &mut self.runner else { return Ok(()) };
        let (spec, topology, engine) = (&self.spec, &self.topology, &state.passes.engine);
        let bytes =
            |training| State::memory_bytes(spec, topology, engine, samples, patch, training);
        // The parameters lie there already.
        let wanted = bytes(true).saturating_sub(engine.parameter_bytes(topology, false) as u64);
        let free = engine.ctx.gpu.memory()?.free;
        if wanted > free {
            let [z, y, x] = patch;
            return Err(Error::Gpu(GpuError::Memory {
                what: format!("training with batches of {samples} × {z}×{y}×{x} voxels"),
                wanted,
                free,
                way_out: "end other programs on the card, plan again with a smaller --gpu-memory, \
                          or use --device cpu"
                    .into(),
            }));
        }
        state.prepare_training(samples, patch).map(|_| ())
    }

    /// The stream that the network's card works through.
    pub fn card_stream(&self) -> Option<&Stream> {
        match &self.runner {
            Runner::Cuda(state) => Some(&state.passes.engine.ctx.stream),
            _ => None,
        }
    }

    /// How long the card waited for the last batch that it was given in its memory.
    ///
    /// # Errors
    /// If the card fails.
    pub fn waited_for_batch(&self) -> Result<Duration, Error> {
        match &self.runner {
            Runner::Cuda(state) => state.passes.engine.waited(),
            _ => Ok(Duration::ZERO),
        }
    }

    /// The card that it is on.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match &self.runner {
            Runner::Cuda(state) => Some(&state.passes.engine.ctx.gpu),
            _ => None,
        }
    }

    /// Bytes of the parameters and of a forward pass over so many patches, whether they are taken yet or not.
    pub(crate) fn views_bytes(&self, samples: usize, patch: [usize; 3]) -> Result<u64, Error> {
        let Runner::Cuda(state) = &self.runner else { return Err(Error::NotOnCard) };
        let (topology, engine) = (&self.topology, &state.passes.engine);
        Ok(State::memory_bytes(&self.spec, topology, engine, samples, patch, false))
    }

    /// Bytes of the parameters, and of a forward pass if one was made: what [`UNet::views_bytes`] counts and is taken
    /// already.
    pub(crate) fn held_bytes(&self) -> Result<u64, Error> {
        let Runner::Cuda(state) = &self.runner else { return Err(Error::NotOnCard) };
        match state.inference_shape() {
            Some((samples, patch)) => self.views_bytes(samples, patch),
            None => Ok(state.passes.engine.parameter_bytes(&self.topology, false) as u64),
        }
    }

    /// Readies forward passes over so many patches, behind `ready`.
    pub(crate) fn begin_views(
        &mut self,
        samples: usize,
        patch: [usize; 3],
        ready: &Event,
    ) -> Result<(), Error> {
        let Runner::Cuda(state) = &mut self.runner else { return Err(Error::NotOnCard) };
        state.prepare_inference(samples, patch)?;
        let State { passes, weights, .. } = &mut **state;
        passes.engine.ctx.stream.wait(ready)?;
        passes.engine.refresh(&passes.topology, weights, false);
        Ok(passes.engine.ctx.check()?)
    }

    /// A forward pass after `cut`, which writes the network's input, and before `take`, which reads its logits; recorded,
    /// so that `key` stands for all that the two have built in. The mark is behind them.
    pub(crate) fn forward_views(
        &mut self,
        key: &str,
        cut: &dyn Fn(&Context, &Tensor),
        take: &dyn Fn(&Context, &Tensor),
    ) -> Result<Event, Error> {
        let Runner::Cuda(state) = &mut self.runner else { return Err(Error::NotOnCard) };
        state.forward_views(key, cut, take)?;
        let ctx = &state.passes.engine.ctx;
        ctx.check()?;
        Ok(ctx.stream.record()?)
    }

    fn on_card(&mut self, options: &LossOptions) -> Result<&mut State<CudaEngine>, Error> {
        options.targets.check(self.spec.output_channels)?;
        match &mut self.runner {
            Runner::Cuda(state) => Ok(state),
            _ => Err(Error::NotOnCard),
        }
    }
}

impl State<CudaEngine> {
    fn take(&mut self, batch: &DeviceBatch<'_>) -> Result<(), Error> {
        let (engine, input) = self.prepare_training(batch.samples, batch.patch)?;
        engine.take(batch, input)
    }

    fn forward_views(
        &mut self,
        key: &str,
        cut: &dyn Fn(&Context, &Tensor),
        take: &dyn Fn(&Context, &Tensor),
    ) -> Result<(), Error> {
        let Self { passes, weights, inference: Some(ws), views, .. } = self else {
            return Err(Error::NotOnCard);
        };
        let engine = &passes.engine;
        engine.recorded(views, key, &mut || {
            cut(&engine.ctx, CudaEngine::image(&ws.input));
            passes.forward(weights, ws);
            if let Some(logits) = &ws.stages[0].logits {
                take(&engine.ctx, logits.values());
            }
        })
    }
}
