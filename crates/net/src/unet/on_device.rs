//! Training on batches that are in device memory already.

use super::state::State;
use super::{Runner, UNet};
use crate::Error;
use crate::engine::Engine;
use crate::engine::cuda::CudaEngine;
use crate::loss::{Loss, LossOptions};
use crate::optimiser::Optimiser;
use kernels::{Event, GpuError, Pointer, Stream};
use std::time::Duration;

/// A batch in the memory of the network's card. It may be overwritten once the call that takes it has returned.
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
    /// As [`UNet::step`].
    ///
    /// # Errors
    /// As [`UNet::step`]; if the network is not on a card.
    pub fn step_on_device(
        &mut self,
        batch: &DeviceBatch<'_>,
        options: &LossOptions,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<Loss, Error> {
        let state = self.on_card(options)?;
        state.take(batch)?;
        state.received_step(options, optimiser, learning_rate)
    }

    /// As [`UNet::loss`].
    ///
    /// # Errors
    /// As [`UNet::loss`]; if the network is not on a card.
    pub fn loss_on_device(
        &mut self,
        batch: &DeviceBatch<'_>,
        options: &LossOptions,
    ) -> Result<Loss, Error> {
        let state = self.on_card(options)?;
        state.take(batch)?;
        state.received_loss(options, false)
    }

    /// On a card, takes the memory of training now rather than in the first iteration.
    ///
    /// # Errors
    /// One line with what is wanted and what is free, if it isn't enough.
    pub fn reserve_training(&mut self, samples: usize, patch: [usize; 3]) -> Result<(), Error> {
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
            Runner::Cpu(_) => None,
        }
    }

    /// How long the card waited for the last batch that it was given in its memory.
    ///
    /// # Errors
    /// If the card fails.
    pub fn waited_for_batch(&self) -> Result<Duration, Error> {
        match &self.runner {
            Runner::Cuda(state) => state.passes.engine.waited(),
            Runner::Cpu(_) => Ok(Duration::ZERO),
        }
    }

    fn on_card(&mut self, options: &LossOptions) -> Result<&mut State<CudaEngine>, Error> {
        options.targets.check(self.spec.output_channels)?;
        match &mut self.runner {
            Runner::Cuda(state) => Ok(state),
            Runner::Cpu(_) => Err(Error::NotOnCard),
        }
    }
}

impl State<CudaEngine> {
    fn take(&mut self, batch: &DeviceBatch<'_>) -> Result<(), Error> {
        let (engine, input) = self.prepare_training(batch.samples, batch.patch)?;
        engine.take(batch, input)
    }
}
