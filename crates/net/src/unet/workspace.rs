//! All memory of a forward and backward pass, planned from (network, batch, patch) and reused.
//!
//! Each stage has two activation buffers that its layers write in turn, and one for the upsampled tensor. Training
//! also keeps each convolution's output y; activations are computed again from y in the backward pass, where the
//! activation buffers turn into gradient buffers as soon as their last reader is done. The skip connection stays in
//! its buffer until the decoder comes back to the stage.
//!
//! A residual encoder's blocks work in three buffers: input and output, inside, and before the sum. Training also keeps
//! each block's output: it tells the sign of what went into the ReLU, and the next block's weight gradients need it.

use super::topology::{Topology, loss_weights};
use crate::Error;
use crate::engine::{Engine, Wanted};
use crate::layout::Layout;
use artifact::plan::Network;

/// One resolution.
#[derive(Debug)]
pub(crate) struct Stage<E: Engine> {
    pub a: [E::Tensor; 2],
    /// Empty at the last stage of a plain encoder. Residual blocks use it before the decoder does.
    pub up: E::Tensor,
    /// Outputs of the encoder's, then the decoder's convolutions; only for training.
    pub y: Vec<E::Tensor>,
    /// Outputs of the residual blocks, at stage 0 the stem's ahead of them; only for training.
    pub out: Vec<E::Tensor>,
    /// The pooled input of the stage's first block, if the skip is convolved.
    pub pooled: E::Tensor,
    /// Only where a head runs.
    pub logits: Option<E::Logits>,
}

impl<E: Engine> Stage<E> {
    /// The encoder's result, which without a kept copy lies in activation buffer `skip`.
    pub(crate) fn result(&self, skip: usize) -> &E::Tensor {
        self.out.last().unwrap_or(&self.a[skip])
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Workspace<E: Engine> {
    pub input: E::Input,
    pub stages: Vec<Stage<E>>,
    /// Per layer; empty for layers without norm.
    pub moments: Vec<E::Moments>,
    pub scratch: E::Scratch,
    pub shape: (usize, [usize; 3]),
}

/// Layouts of a workspace.
#[derive(Debug)]
pub(crate) struct Plan {
    training: bool,
    input: Layout,
    stages: Vec<Layout>,
    /// Per stage, where a residual block pools and convolves its skip.
    pooled: Vec<Option<Layout>>,
    /// Per stage, where a head runs.
    logits: Vec<Option<Layout>>,
}

impl Plan {
    pub(crate) fn new(
        spec: &Network,
        topology: &Topology,
        batch: usize,
        patch: [usize; 3],
        training: bool,
    ) -> Self {
        let stages = spec.features.len();
        let mut size = patch;
        let mut layouts = Vec::new();
        for s in 0..stages {
            size = [0, 1, 2].map(|a| size[a] / spec.strides[s][a]);
            // The halo serves this stage's convolutions and the next stage's first, which reads from here.
            let next = &spec.kernels[(s + 1).min(stages - 1)];
            let halo = [0, 1, 2].map(|a| (spec.kernels[s][a].max(next[a]) - 1) / 2);
            layouts.push(Layout { batch, channels: spec.features[s], size, halo });
        }
        let runs = |s: usize| if training { loss_weights(spec)[s] > 0.0 } else { s == 0 };
        let logits = (0..stages - 1)
            .map(|s| runs(s).then(|| layouts[s].without_halo().with_channels(spec.output_channels)))
            .collect();
        let input = layouts[0].with_channels(spec.input_channels);
        let pooled = |s: usize| {
            let first = topology.blocks.get(s)?.first()?;
            let channels = spec.features[s.checked_sub(1)?];
            (first.pools() && first.project.is_some())
                .then(|| layouts[s].without_halo().with_channels(channels))
        };
        let pooled = (0..stages).map(pooled).collect();
        Self { training, input, stages: layouts, pooled, logits }
    }

    /// Every layer between its grids.
    fn operations<'a>(&self, topology: &'a Topology) -> Vec<Wanted<'a>> {
        let mut list = Vec::new();
        let mut want = |layer: usize, large: &[Layout], small: Layout| {
            let (layer, large) = (&topology.layers[layer], large.to_vec());
            list.push(Wanted { layer, large, small, training: self.training });
        };
        for (s, &layout) in self.stages.iter().enumerate() {
            for (i, &layer) in topology.encoder[s].iter().enumerate() {
                want(layer, &[self.encoder_input(topology, s, i)], layout);
            }
            if s + 1 < self.stages.len() {
                want(topology.up[s], &[layout], self.stages[s + 1]);
                for (i, &layer) in topology.decoder[s].iter().enumerate() {
                    let both = [layout; 2];
                    want(layer, if i == 0 { &both } else { &both[1..] }, layout);
                }
                if let Some(logits) = self.logits[s] {
                    want(topology.head[s], &[layout], logits);
                }
            }
        }
        list
    }

    /// What layer `i` of an encoder stage reads.
    fn encoder_input(&self, topology: &Topology, s: usize, i: usize) -> Layout {
        let first = topology.blocks.get(s).and_then(|blocks| blocks.first());
        let project = first.and_then(|block| block.project);
        match (i, s) {
            (0, 0) => self.input,
            (0, _) => self.stages[s - 1],
            _ if project == Some(i) => self.pooled[s].unwrap_or(self.stages[s.saturating_sub(1)]),
            _ => self.stages[s],
        }
    }

    /// Outputs of residual blocks that a stage keeps.
    fn kept_outputs(&self, topology: &Topology, s: usize) -> usize {
        match topology.blocks.get(s) {
            Some(blocks) if self.training => blocks.len() + usize::from(s == 0),
            _ => 0,
        }
    }

    /// Whether a stage has a third buffer.
    fn has_up(&self, topology: &Topology, s: usize) -> bool {
        s + 1 < self.stages.len() || topology.residual()
    }

    /// Bytes of the workspace on this engine.
    pub(crate) fn bytes<E: Engine>(&self, engine: &E, topology: &Topology) -> u64 {
        let mut arena = engine.counting_arena();
        self.carve(engine, topology, &mut arena);
        (E::given(&arena) + engine.scratch_bytes(&self.operations(topology))) as u64
    }

    pub(crate) fn allocate<E: Engine>(
        &self,
        engine: &E,
        topology: &Topology,
    ) -> Result<Workspace<E>, Error> {
        let mut counting = engine.counting_arena();
        self.carve(engine, topology, &mut counting);
        let mut arena = engine.arena(E::given(&counting))?;
        let (input, stages, moments) = self.carve(engine, topology, &mut arena);
        let scratch = engine.scratch(&self.operations(topology))?;
        let shape = (self.input.batch, self.input.size);
        Ok(Workspace { input, stages, moments, scratch, shape })
    }

    fn carve<E: Engine>(
        &self,
        engine: &E,
        topology: &Topology,
        arena: &mut E::Arena,
    ) -> (E::Input, Vec<Stage<E>>, Vec<E::Moments>) {
        let input = engine.input(arena, self.input, self.training);
        let mut stages = Vec::new();
        for (s, &layout) in self.stages.iter().enumerate() {
            let convs = topology.encoder[s].len() + topology.decoder.get(s).map_or(0, Vec::len);
            let kept = if self.training { convs } else { 0 };
            let plain = layout.without_halo();
            let a = [engine.tensor(arena, layout), engine.tensor(arena, layout)];
            let up = match self.has_up(topology, s) {
                true => engine.tensor(arena, layout),
                false => E::Tensor::default(),
            };
            let y = (0..kept).map(|_| engine.tensor(arena, plain)).collect();
            let outputs = self.kept_outputs(topology, s);
            let out = (0..outputs).map(|_| engine.tensor(arena, layout)).collect();
            let pooled = self.pooled[s].map(|l| engine.tensor(arena, l)).unwrap_or_default();
            let logits = self.logits.get(s).copied().flatten();
            let logits = logits.map(|l| engine.logits(arena, l, self.training));
            stages.push(Stage { a, up, y, out, pooled, logits });
        }
        let batch = self.input.batch;
        let moments = topology.layers.iter().map(|l| engine.moments(arena, l, batch)).collect();
        (input, stages, moments)
    }
}
