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
use crate::ops::instance_norm::{Moments, PlaneSums};
use crate::ops::linear::outer_scratch;
use crate::tensor::{LANES, Lane, Layout, Tensor};
use artifact::plan::Network;

/// One resolution.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    pub a: [Tensor; 2],
    /// Empty at the last stage of a plain encoder. Residual blocks use it before the decoder does.
    pub up: Tensor,
    /// Outputs of the encoder's, then the decoder's convolutions; only for training.
    pub y: Vec<Tensor>,
    /// Outputs of the residual blocks, at stage 0 the stem's ahead of them; only for training.
    pub out: Vec<Tensor>,
    /// The pooled input of the stage's first block, if the skip is convolved.
    pub pooled: Tensor,
    /// Only where a head runs.
    pub logits: Option<Tensor>,
    /// Labels at this resolution, `[n, z, y, x]`.
    pub target: Vec<i16>,
}

impl Stage {
    /// The encoder's result, which without a kept copy lies in activation buffer `skip`.
    pub(crate) fn result(&self, skip: usize) -> &Tensor {
        self.out.last().unwrap_or(&self.a[skip])
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub input: Tensor,
    pub stages: Vec<Stage>,
    /// Per layer; empty for layers without norm.
    pub moments: Vec<Vec<Moments>>,
    pub sums: Vec<PlaneSums>,
    pub scratch: Vec<Lane>,
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
    scratch: usize,
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
        let mut plan = Self { training, input, stages: layouts, pooled, logits, scratch: 0 };
        if training {
            plan.scratch = plan.gradient_scratch(topology);
        }
        plan
    }

    /// The most that any layer's weight gradient wants.
    fn gradient_scratch(&self, topology: &Topology) -> usize {
        let mut most = 0;
        let mut want = |layer: usize, large: &[Layout], small: &Layout| {
            most = outer_scratch(&topology.layers[layer].geometry, large, small).max(most);
        };
        for (s, layout) in self.stages.iter().enumerate() {
            for (i, &layer) in topology.encoder[s].iter().enumerate() {
                want(layer, &[self.encoder_input(topology, s, i)], layout);
            }
            if s + 1 < self.stages.len() {
                want(topology.up[s], &[*layout], &self.stages[s + 1]);
                want(topology.decoder[s][0], &[*layout, *layout], layout);
                want(topology.head[s], &[*layout], &layout.with_channels(self.classes()));
            }
        }
        most
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

    fn classes(&self) -> usize {
        self.logits[0].map_or(1, |l| l.channels)
    }

    /// Bytes of the workspace.
    pub(crate) fn bytes(&self, topology: &Topology) -> u64 {
        let mut total = self.input.bytes() + self.scratch as u64 * size_of::<Lane>() as u64;
        for (s, layout) in self.stages.iter().enumerate() {
            let whole = 2 + usize::from(self.has_up(topology, s)) + self.kept_outputs(topology, s);
            total += layout.bytes() * whole as u64;
            total += self.pooled[s].as_ref().map_or(0, Layout::bytes);
            if self.training {
                let convs = topology.encoder[s].len() + topology.decoder.get(s).map_or(0, Vec::len);
                total += layout.without_halo().bytes() * convs as u64;
            }
            total += self.logits.get(s).and_then(Option::as_ref).map_or(0, Layout::bytes);
        }
        total
    }

    pub(crate) fn allocate(&self, topology: &Topology) -> Workspace {
        let stage = |(s, layout): (usize, &Layout)| {
            let convs = topology.encoder[s].len() + topology.decoder.get(s).map_or(0, Vec::len);
            let kept = if self.training { convs } else { 0 };
            Stage {
                a: [Tensor::zeros(*layout), Tensor::zeros(*layout)],
                up: if self.has_up(topology, s) {
                    Tensor::zeros(*layout)
                } else {
                    Tensor::default()
                },
                y: (0..kept).map(|_| Tensor::zeros(layout.without_halo())).collect(),
                out: (0..self.kept_outputs(topology, s)).map(|_| Tensor::zeros(*layout)).collect(),
                pooled: self.pooled[s].map(Tensor::zeros).unwrap_or_default(),
                logits: self.logits.get(s).copied().flatten().map(Tensor::zeros),
                target: vec![],
            }
        };
        let moments = |layer: &super::topology::Layer| {
            let normed = if layer.gamma.is_empty() { 0 } else { layer.outputs.div_ceil(LANES) };
            vec![Moments::ZERO; normed * self.input.batch]
        };
        let planes = self.stages.iter().map(Layout::planes).max().unwrap_or(0);
        Workspace {
            input: Tensor::zeros(self.input),
            stages: self.stages.iter().enumerate().map(stage).collect(),
            moments: topology.layers.iter().map(moments).collect(),
            sums: vec![Default::default(); planes],
            scratch: vec![Lane::ZERO; self.scratch],
            shape: (self.input.batch, self.input.size),
        }
    }
}
