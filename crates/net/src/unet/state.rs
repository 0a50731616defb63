//! A network on one engine: its parameters, its memory, and the steps over them.

use super::Topology;
use super::topology::loss_weights;
use super::workspace::{Plan, Workspace};
use super::{Passes, init};
use crate::Error;
use crate::engine::{Engine, total};
use crate::loss::{Loss, LossOptions};
use crate::optimiser::Optimiser;
use artifact::plan::Network;
use ndarray::{ArrayView4, ArrayView5, ArrayViewMut5};

/// See the module.
#[derive(Debug)]
pub(super) struct State<E: Engine> {
    pub spec: Network,
    pub passes: Passes<E>,
    pub weights: E::Weights,
    pub gradient: Option<E::Vector>,
    training: Option<Workspace<E>>,
    pub inference: Option<Workspace<E>>,
    /// Of [`State::step`] in the training workspace.
    recording: E::Recording,
    /// Of a batch of views in the inference workspace.
    pub views: E::Recording,
}

impl<E: Engine> State<E> {
    /// All parameters zero but the norms' scales, which are one.
    pub(super) fn new(spec: &Network, topology: Topology, engine: E) -> Result<Self, Error> {
        // As they are read, and as the engine keeps them.
        engine.admit(8 * topology.len() as u64)?;
        let mut values = vec![0.0; topology.len()];
        for layer in &topology.layers {
            values[layer.gamma.clone()].fill(1.0);
        }
        let mut weights = engine.weights(&topology)?;
        engine.set_values(&mut weights, values)?;
        Ok(Self {
            passes: Passes { topology, engine, negative_slope: spec.negative_slope },
            spec: spec.clone(),
            weights,
            gradient: None,
            training: None,
            inference: None,
            recording: E::Recording::default(),
            views: E::Recording::default(),
        })
    }

    pub(super) fn initialise(&mut self, seed: u64) -> Result<(), Error> {
        let topology = &self.passes.topology;
        let mut values = vec![0.0; topology.len()];
        init::initialise(topology, seed, &mut values);
        self.set_values(values)
    }

    pub(super) fn values(&self) -> Result<Vec<f32>, Error> {
        self.passes.engine.values(&self.weights)
    }

    pub(super) fn set_values(&mut self, values: Vec<f32>) -> Result<(), Error> {
        self.passes.engine.set_values(&mut self.weights, values)
    }

    /// Zeros before the first gradients.
    pub(super) fn gradients(&self) -> Result<Vec<f32>, Error> {
        match &self.gradient {
            Some(gradient) => self.passes.engine.read(gradient),
            None => Ok(vec![0.0; self.passes.topology.len()]),
        }
    }

    pub(super) fn forward(
        &mut self,
        x: ArrayView5<'_, f32>,
        out: ArrayViewMut5<'_, f32>,
    ) -> Result<(), Error> {
        let (n, _, d, h, w) = x.dim();
        self.prepare_inference(n, [d, h, w])?;
        let Some(ws) = &mut self.inference else { return Ok(()) };
        let engine = &self.passes.engine;
        engine.receive(x, None, &mut ws.input)?;
        engine.unpack(&mut ws.input);
        engine.refresh(&self.passes.topology, &mut self.weights, false);
        self.passes.forward(&self.weights, ws);
        match &ws.stages[0].logits {
            Some(logits) => engine.export(logits, out),
            None => Ok(()),
        }
    }

    /// Forward pass and loss; with `gradients` the backward pass too. Uses the training workspace: with deep
    /// supervision all heads count, and a validation batch costs no memory of its own.
    pub(super) fn loss(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
        gradients: bool,
    ) -> Result<Loss, Error> {
        self.receive(x, target)?;
        self.begin_loss(options, gradients)?;
        self.read_loss(options)
    }

    /// As [`State::loss`], on what was received; the loss is there to be read.
    pub(super) fn begin_loss(
        &mut self,
        options: &LossOptions,
        gradients: bool,
    ) -> Result<(), Error> {
        self.passes.engine.begin_loss(options, self.spec.output_channels)?;
        let Some(ws) = &mut self.training else { return Err(Error::NoGradients) };
        let (passes, weights) = (&self.passes, &mut self.weights);
        passes.engine.unpack(&mut ws.input);
        passes.engine.refresh(&passes.topology, weights, gradients);
        passes.forward(weights, ws);
        passes.losses(&self.spec, ws, options, gradients);
        if let (true, Some(gradient)) = (gradients, &mut self.gradient) {
            passes.backward(weights, ws, gradient);
        }
        Ok(())
    }

    /// Loss, gradients and a step of the optimiser; recorded by engines that can.
    pub(super) fn step(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
        options: &LossOptions,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<Loss, Error> {
        self.receive(x, target)?;
        self.begin_step(options, optimiser, learning_rate)?;
        self.read_loss(options)
    }

    /// As [`State::step`], on what was received; its loss is there to be read.
    pub(super) fn begin_step(
        &mut self,
        options: &LossOptions,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<(), Error> {
        self.passes.engine.begin_loss(options, self.spec.output_channels)?;
        let (Some(ws), Some(gradient)) = (&mut self.training, &mut self.gradient) else {
            return Err(Error::NoGradients);
        };
        let (passes, weights, spec) = (&self.passes, &mut self.weights, &self.spec);
        let engine = &passes.engine;
        engine.begin_update(&passes.topology, optimiser, learning_rate)?;
        let key = format!("{options:?} {}", optimiser.recorded_as());
        engine.recorded(&mut self.recording, &key, &mut || {
            engine.unpack(&mut ws.input);
            // Whatever the present state: the recording must hold it.
            engine.touch(weights);
            engine.refresh(&passes.topology, weights, true);
            passes.forward(weights, ws);
            passes.losses(spec, ws, options, true);
            passes.backward(weights, ws, gradient);
            engine.update(weights, gradient, optimiser, learning_rate);
        })?;
        engine.touch(weights);
        Ok(())
    }

    fn receive(
        &mut self,
        x: ArrayView5<'_, f32>,
        target: ArrayView4<'_, i16>,
    ) -> Result<(), Error> {
        let (n, _, d, h, w) = x.dim();
        let (engine, input) = self.prepare_training(n, [d, h, w])?;
        engine.receive(x, Some(target), input)
    }

    /// Refuses training passes for which the machine hasn't the memory.
    pub(super) fn admit_training(&self, batch: usize, patch: [usize; 3]) -> Result<(), Error> {
        let Passes { topology, engine, .. } = &self.passes;
        engine.admit(Self::memory_bytes(&self.spec, topology, engine, batch, patch, true))
    }

    /// Takes the memory of training passes.
    pub(super) fn prepare_training(
        &mut self,
        batch: usize,
        patch: [usize; 3],
    ) -> Result<(&E, &mut E::Input), Error> {
        if self.gradient.is_none() {
            let length = self.passes.topology.len();
            self.gradient = Some(self.passes.engine.vector(length)?);
        }
        if self.training.as_ref().is_none_or(|ws| ws.shape != (batch, patch)) {
            self.forget_recordings();
        }
        let passes = &self.passes;
        let ws = prepare(&mut self.training, passes, &self.spec, batch, patch, true)?;
        Ok((&passes.engine, &mut ws.input))
    }

    /// Takes the memory of forward passes.
    pub(super) fn prepare_inference(
        &mut self,
        batch: usize,
        patch: [usize; 3],
    ) -> Result<(), Error> {
        if self.inference_shape() != Some((batch, patch)) {
            self.forget_recordings();
        }
        prepare(&mut self.inference, &self.passes, &self.spec, batch, patch, false).map(|_| ())
    }

    /// Samples and patch of the forward passes that there is memory for.
    pub(super) fn inference_shape(&self) -> Option<(usize, [usize; 3])> {
        self.inference.as_ref().map(|ws| ws.shape)
    }

    /// New memory is ahead, and scratch that all passes share may move.
    fn forget_recordings(&mut self) {
        self.recording = E::Recording::default();
        self.views = E::Recording::default();
    }

    /// The terms of all resolutions, weighted.
    pub(super) fn read_loss(&self, options: &LossOptions) -> Result<Loss, Error> {
        let mut terms = Vec::new();
        if let Some(ws) = &self.training {
            for (stage, weight) in ws.stages.iter().zip(loss_weights(&self.spec)) {
                if let Some(logits) = &stage.logits {
                    terms.push((weight, self.passes.engine.terms(logits)?));
                }
            }
        }
        Ok(total(&terms, options))
    }

    pub(super) fn update(
        &mut self,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<(), Error> {
        let gradient = self.gradient.as_mut().ok_or(Error::NoGradients)?;
        let (engine, topology) = (&self.passes.engine, &self.passes.topology);
        engine.begin_update(topology, optimiser, learning_rate)?;
        engine.update(&mut self.weights, gradient, optimiser, learning_rate);
        Ok(())
    }

    pub(super) fn memory_bytes(
        spec: &Network,
        topology: &Topology,
        engine: &E,
        batch: usize,
        patch: [usize; 3],
        training: bool,
    ) -> u64 {
        let plan = Plan::new(spec, topology, batch, patch, training);
        plan.bytes(engine, topology) + engine.parameter_bytes(topology, training) as u64
    }

    pub(super) fn release_training(&mut self) {
        self.recording = E::Recording::default();
        self.training = None;
    }
}

/// The workspace of this shape: the present one, or a new one in its place.
fn prepare<'a, E: Engine>(
    place: &'a mut Option<Workspace<E>>,
    passes: &Passes<E>,
    spec: &Network,
    batch: usize,
    patch: [usize; 3],
    training: bool,
) -> Result<&'a mut Workspace<E>, Error> {
    match place.take() {
        Some(ws) if ws.shape == (batch, patch) => Ok(place.insert(ws)),
        old => {
            drop(old);
            let topology = &passes.topology;
            let plan = Plan::new(spec, topology, batch, patch, training);
            let parameters = passes.engine.parameter_bytes(topology, training) as u64;
            passes.engine.admit(plan.bytes(&passes.engine, topology) + parameters)?;
            Ok(place.insert(plan.allocate(&passes.engine, topology)?))
        }
    }
}
