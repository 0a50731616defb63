//! The passes of a residual encoder.
//!
//! A block needs three buffers of its stage: `a[0]` holds its input and then its output (training keeps every output
//! in `out` instead), `a[1]` what lies between its convolutions, `up` the second convolution's output. Backward,
//! `a[0]` holds the gradient of the block's output and then of its input.

use super::Passes;
use super::topology::Block;
use super::workspace::{Stage, Workspace};
use crate::engine::Engine;
use std::mem::take;

impl<E: Engine> Passes<E> {
    /// From `ws.input` to the result of every stage.
    pub(super) fn encode_residual(&self, weights: &E::Weights, ws: &mut Workspace<E>) {
        let stem = self.topology.encoder[0][0];
        let Workspace { input, stages, moments, scratch, .. } = ws;
        let Stage { a, y, out, .. } = &mut stages[0];
        let to = out.first_mut().unwrap_or(&mut a[0]);
        self.block(
            weights,
            stem,
            &[E::image(input)],
            y.first_mut(),
            to,
            scratch,
            &mut moments[stem],
        );
        for s in 0..self.topology.blocks.len() {
            for b in 0..self.topology.blocks[s].len() {
                self.residual_block(weights, ws, s, b);
            }
        }
    }

    fn residual_block(&self, weights: &E::Weights, ws: &mut Workspace<E>, s: usize, b: usize) {
        let (layers, block) = (&self.topology.encoder[s], self.topology.blocks[s][b]);
        let Workspace { stages, moments, scratch, .. } = ws;
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
        self.block(weights, index, &[x], y.get_mut(block.first), a1, scratch, inner);
        let mut skip = before;
        if let (Some(x), true) = (before, block.project.is_some() || block.pools()) {
            self.skip(weights, layers, block, x, pooled, y, &mut to, scratch, moments);
            skip = None;
        }
        let index = layers[block.first + 1];
        let y = y.get_mut(block.first + 1).unwrap_or(up);
        let layer = &self.topology.layers[index];
        self.engine.convolve(weights, layer, &[a1], y, scratch, &mut moments[index]);
        self.engine.add_skip(y, &moments[index], skip, self.negative_slope, &mut to);
        *place = to;
    }

    /// The skip where it isn't the input itself: pooled, convolved, or both.
    fn skip(
        &self,
        weights: &E::Weights,
        layers: &[usize],
        block: Block,
        x: &E::Tensor,
        pooled: &mut E::Tensor,
        y: &mut [E::Tensor],
        to: &mut E::Tensor,
        scratch: &mut E::Scratch,
        moments: &mut [E::Moments],
    ) {
        let Some(project) = block.project else {
            return self.engine.average(block.stride, x, to);
        };
        let source = if block.pools() {
            self.engine.average(block.stride, x, pooled);
            &*pooled
        } else {
            x
        };
        let index = layers[project];
        self.block(weights, index, &[source], y.get_mut(project), to, scratch, &mut moments[index]);
    }

    /// From the gradient of the stage's result in `a[0]` to all gradients of the stage's layers; adds the gradient of
    /// its input to `a[0]` of the stage above.
    pub(super) fn residual_backward(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        s: usize,
        gradient: &mut E::Vector,
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
            let Workspace { stages, moments, scratch, input, .. } = ws;
            let Stage { a: [da, _], y, .. } = &mut stages[0];
            self.normed_backward(stem, &y[0], &moments[stem], scratch, da, gradient);
            self.weights_backward(stem, E::image(input), da, scratch, gradient);
        }
    }

    /// From the block's output to its first convolution's output, whose gradient ends in `up`; leaves that of the
    /// skip in `a[0]`.
    fn inner_backward(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        s: usize,
        b: usize,
        gradient: &mut E::Vector,
    ) {
        let (layers, block) = (&self.topology.encoder[s], self.topology.blocks[s][b]);
        let (first, second) = (layers[block.first], layers[block.first + 1]);
        let Workspace { stages, moments, scratch, .. } = ws;
        let Stage { a: [da, dy], up: inner, y, out, .. } = &mut stages[s];
        self.engine.add_skip_backward(
            &self.topology.layers[second],
            &y[block.first + 1],
            &out[place(s, b)],
            &moments[second],
            self.negative_slope,
            scratch,
            da,
            dy,
            gradient,
        );
        let y = &y[block.first];
        self.engine.normalise(Some(y), &moments[first], self.negative_slope, inner);
        self.weights_backward(second, inner, dy, scratch, gradient);
        self.input_backward(weights, second, dy, inner, false);
        self.normed_backward(first, y, &moments[first], scratch, inner, gradient);
    }

    /// First convolution and skip of a stage's first block, into the stage above.
    fn entry_backward(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        s: usize,
        gradient: &mut E::Vector,
    ) {
        let (layers, block) = (&self.topology.encoder[s], self.topology.blocks[s][0]);
        let Workspace { stages, moments, scratch, .. } = ws;
        let (above, stages) = stages.split_at_mut(s);
        let Stage { a: [target, _], out, .. } = &mut above[s - 1];
        let Stage { a: [da, _], up: dy, y, pooled, .. } = &mut stages[0];
        let x = &out[out.len() - 1];
        self.weights_backward(layers[block.first], x, dy, scratch, gradient);
        self.input_backward(weights, layers[block.first], dy, target, true);
        let Some(project) = block.project else {
            return self.engine.spread(block.stride, da, target);
        };
        let index = layers[project];
        self.normed_backward(index, &y[project], &moments[index], scratch, da, gradient);
        if block.pools() {
            self.engine.average(block.stride, x, pooled);
            self.weights_backward(index, pooled, da, scratch, gradient);
            self.input_backward(weights, index, da, pooled, false);
            self.engine.spread(block.stride, pooled, target);
        } else {
            self.weights_backward(index, x, da, scratch, gradient);
            self.input_backward(weights, index, da, target, true);
        }
    }

    fn weights_backward(
        &self,
        layer: usize,
        x: &E::Tensor,
        dy: &E::Tensor,
        scratch: &mut E::Scratch,
        gradient: &mut E::Vector,
    ) {
        let layer = &self.topology.layers[layer];
        self.engine.weights_backward(layer, &[x], dy, scratch, gradient);
    }

    fn input_backward(
        &self,
        weights: &E::Weights,
        layer: usize,
        dy: &E::Tensor,
        dx: &mut E::Tensor,
        add: bool,
    ) {
        let layer = &self.topology.layers[layer];
        self.engine.input_backward(weights, layer, dy, &mut [dx], add);
    }

    /// From the gradient behind a layer's norm (and leaky ReLU) to that of its convolution's output, in place.
    fn normed_backward(
        &self,
        layer: usize,
        y: &E::Tensor,
        moments: &E::Moments,
        scratch: &mut E::Scratch,
        da: &mut E::Tensor,
        gradient: &mut E::Vector,
    ) {
        let slope = self.slope(layer);
        let layer = &self.topology.layers[layer];
        self.engine.norm_backward(layer, y, moments, slope, scratch, da, gradient);
    }
}

/// Where a block's output is kept: the stem's comes first.
fn place(s: usize, b: usize) -> usize {
    b + usize::from(s == 0)
}
