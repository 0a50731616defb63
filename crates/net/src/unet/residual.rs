//! The passes of a residual encoder.
//!
//! A block needs three buffers of its stage: `a[0]` holds its input and then its output (training keeps every output
//! in `out` instead), `a[1]` what lies between its convolutions, `up` the second convolution's output. Backward,
//! `a[0]` holds the gradient of the block's output and then of its input.

use super::topology::Block;
use super::workspace::{Stage, Workspace};
use super::{Engine, Weights};
use crate::ops::linear::{outer, scatter};
use crate::ops::{instance_norm, pool, residual};
use crate::tensor::Tensor;
use std::mem::take;
use std::ops::Range;

impl Engine {
    /// From `ws.input` to the result of every stage.
    pub(super) fn encode_residual(&self, weights: &Weights, ws: &mut Workspace) {
        let stem = self.topology.encoder[0][0];
        let Workspace { input, stages, moments, sums, .. } = ws;
        let Stage { a, y, out, .. } = &mut stages[0];
        let to = out.first_mut().unwrap_or(&mut a[0]);
        self.block(weights, stem, &[input], y.first_mut(), to, sums, &mut moments[stem]);
        for s in 0..self.topology.blocks.len() {
            for b in 0..self.topology.blocks[s].len() {
                self.residual_block(weights, ws, s, b);
            }
        }
    }

    fn residual_block(&self, weights: &Weights, ws: &mut Workspace, s: usize, b: usize) {
        let (layers, block) = (&self.topology.encoder[s], self.topology.blocks[s][b]);
        let Workspace { stages, moments, sums, .. } = ws;
        let (above, stages) = stages.split_at_mut(s);
        let Stage { a: [a0, a1], up, y, out, pooled, .. } = &mut stages[0];
        let kept = !out.is_empty();
        let (earlier, later) = out.split_at_mut(if kept { place(s, b) } else { 0 });
        let place = if kept { &mut later[0] } else { a0 };
        let mut to = take(place);
        let above = if b == 0 { above.last() } else { None };
        let before = match above {
            Some(above) => Some(above.result(0)),
            None => earlier.last(),
        };
        // Without a tensor of its own, the input lies where the output goes.
        let (index, x) = (layers[block.first], before.unwrap_or(&to));
        let inner = &mut moments[index];
        self.block(weights, index, &[x], y.get_mut(block.first), a1, sums, inner);
        let mut skip = before;
        if let (Some(x), true) = (before, block.project.is_some() || block.pools()) {
            self.skip(weights, layers, block, x, pooled, y, &mut to, sums, moments);
            skip = None;
        }
        let index = layers[block.first + 1];
        let y = y.get_mut(block.first + 1).unwrap_or(up);
        self.convolve(weights, index, &[a1], y, sums, &mut moments[index]);
        residual::add(self.level, y, &moments[index], skip, self.negative_slope, &mut to);
        *place = to;
    }

    /// The skip where it isn't the input itself: pooled, convolved, or both.
    fn skip(
        &self,
        weights: &Weights,
        layers: &[usize],
        block: Block,
        x: &Tensor,
        pooled: &mut Tensor,
        y: &mut [Tensor],
        to: &mut Tensor,
        sums: &mut [instance_norm::PlaneSums],
        moments: &mut [Vec<instance_norm::Moments>],
    ) {
        let Some(project) = block.project else {
            return pool::average(self.level, block.stride, x, to);
        };
        let source = if block.pools() {
            pool::average(self.level, block.stride, x, pooled);
            &*pooled
        } else {
            x
        };
        let index = layers[project];
        self.block(weights, index, &[source], y.get_mut(project), to, sums, &mut moments[index]);
    }

    /// From the gradient of the stage's result in `a[0]` to all gradients of the stage's layers; adds the gradient of
    /// its input to `a[0]` of the stage above.
    pub(super) fn residual_backward(
        &self,
        weights: &Weights,
        ws: &mut Workspace,
        s: usize,
        gradient: &mut [f32],
    ) {
        for b in (0..self.topology.blocks[s].len()).rev() {
            self.inner_backward(weights, ws, s, b, gradient);
            if b == 0 && s > 0 {
                self.entry_backward(weights, ws, s, gradient);
            } else {
                let (layer, block) = (&self.topology.encoder[s], self.topology.blocks[s][b]);
                let Workspace { stages, scratch, .. } = ws;
                let Stage { a: [da, _], up: dy, out, .. } = &mut stages[s];
                let (index, x) = (layer[block.first], &out[place(s, b) - 1]);
                self.weights_backward(index, x, dy, scratch, gradient);
                self.input_backward(weights, index, dy, da, true);
            }
        }
        if s == 0 {
            let stem = self.topology.encoder[0][0];
            let Workspace { stages, moments, sums, scratch, input, .. } = ws;
            let Stage { a: [da, _], y, .. } = &mut stages[0];
            self.normed_backward(stem, &y[0], &moments[stem], sums, da, gradient);
            self.weights_backward(stem, input, da, scratch, gradient);
        }
    }

    /// From the block's output to its first convolution's output, whose gradient ends in `up`; leaves that of the
    /// skip in `a[0]`.
    fn inner_backward(
        &self,
        weights: &Weights,
        ws: &mut Workspace,
        s: usize,
        b: usize,
        gradient: &mut [f32],
    ) {
        let (layers, block) = (&self.topology.encoder[s], self.topology.blocks[s][b]);
        let (first, second) = (layers[block.first], layers[block.first + 1]);
        let Workspace { stages, moments, sums, scratch, .. } = ws;
        let Stage { a: [da, dy], up: inner, y, out, .. } = &mut stages[s];
        let (gammas, betas) = self.norm_gradients(second, gradient);
        residual::add_backward(
            self.level,
            &y[block.first + 1],
            &out[place(s, b)],
            &moments[second],
            self.negative_slope,
            sums,
            da,
            dy,
            gammas,
            betas,
        );
        let y = &y[block.first];
        instance_norm::apply(self.level, Some(y), &moments[first], self.negative_slope, inner);
        self.weights_backward(second, inner, dy, scratch, gradient);
        self.input_backward(weights, second, dy, inner, false);
        self.normed_backward(first, y, &moments[first], sums, inner, gradient);
    }

    /// First convolution and skip of a stage's first block, into the stage above.
    fn entry_backward(
        &self,
        weights: &Weights,
        ws: &mut Workspace,
        s: usize,
        gradient: &mut [f32],
    ) {
        let (layers, block) = (&self.topology.encoder[s], self.topology.blocks[s][0]);
        let Workspace { stages, moments, sums, scratch, .. } = ws;
        let (above, stages) = stages.split_at_mut(s);
        let Stage { a: [target, _], out, .. } = &mut above[s - 1];
        let Stage { a: [da, _], up: dy, y, pooled, .. } = &mut stages[0];
        let x = &out[out.len() - 1];
        self.weights_backward(layers[block.first], x, dy, scratch, gradient);
        self.input_backward(weights, layers[block.first], dy, target, true);
        let Some(project) = block.project else {
            return pool::spread(self.level, block.stride, da, target);
        };
        let index = layers[project];
        self.normed_backward(index, &y[project], &moments[index], sums, da, gradient);
        if block.pools() {
            pool::average(self.level, block.stride, x, pooled);
            self.weights_backward(index, pooled, da, scratch, gradient);
            self.input_backward(weights, index, da, pooled, false);
            pool::spread(self.level, block.stride, pooled, target);
        } else {
            self.weights_backward(index, x, da, scratch, gradient);
            self.input_backward(weights, index, da, target, true);
        }
    }

    fn weights_backward(
        &self,
        layer: usize,
        x: &Tensor,
        dy: &Tensor,
        scratch: &mut Vec<crate::tensor::Lane>,
        gradient: &mut [f32],
    ) {
        let layer = &self.topology.layers[layer];
        let weight = &mut gradient[layer.weight.clone()];
        outer(self.level, &layer.geometry, &[x], dy, scratch, weight);
    }

    fn input_backward(
        &self,
        weights: &Weights,
        layer: usize,
        dy: &Tensor,
        dx: &mut Tensor,
        add: bool,
    ) {
        let (geometry, packed) = (&self.topology.layers[layer].geometry, &weights.backward[layer]);
        scatter(self.level, geometry, dy, packed, None, &mut [dx], add);
    }

    /// From the gradient behind a layer's norm (and leaky ReLU) to that of its convolution's output, in place.
    fn normed_backward(
        &self,
        layer: usize,
        y: &Tensor,
        moments: &[instance_norm::Moments],
        sums: &mut [instance_norm::PlaneSums],
        da: &mut Tensor,
        gradient: &mut [f32],
    ) {
        let slope = self.slope(layer);
        let (gammas, betas) = self.norm_gradients(layer, gradient);
        instance_norm::backward(self.level, y, moments, slope, sums, da, gammas, betas);
    }

    fn norm_gradients<'a>(
        &self,
        layer: usize,
        gradient: &'a mut [f32],
    ) -> (&'a mut [f32], &'a mut [f32]) {
        let l = &self.topology.layers[layer];
        let both: Range<usize> = l.gamma.start..l.beta.end;
        gradient[both].split_at_mut(l.gamma.len())
    }
}

/// Where a block's output is kept: the stem's comes first.
fn place(s: usize, b: usize) -> usize {
    b + usize::from(s == 0)
}
