//! Forward and backward pass, layer by layer.

use super::Passes;
use super::topology::{Role, Topology, loss_weights};
use super::workspace::{Stage, Workspace};
use crate::engine::Engine;
use crate::loss::LossOptions;
use artifact::plan::Network;
use std::mem::take;

impl<E: Engine> Passes<E> {
    /// From `ws.input` to the logits of every head that the workspace has a place for.
    pub(super) fn forward(&self, weights: &E::Weights, ws: &mut Workspace<E>) {
        if self.topology.residual() {
            self.encode_residual(weights, ws);
        } else {
            self.encode_plain(weights, ws);
        }
        for s in (0..self.topology.decoder.len()).rev() {
            self.decode(weights, ws, s);
        }
    }

    fn encode_plain(&self, weights: &E::Weights, ws: &mut Workspace<E>) {
        let t = &self.topology;
        for s in 0..t.encoder.len() {
            for i in 0..t.encoder[s].len() {
                let mut a = take(&mut ws.stages[s].a[i % 2]);
                let mut y = ws.stages[s].y.get_mut(i).map(take);
                let source = match (i, s) {
                    (0, 0) => E::image(&ws.input),
                    (0, _) => &ws.stages[s - 1].a[t.skip(s - 1)],
                    _ => &ws.stages[s].a[(i + 1) % 2],
                };
                let moments = &mut ws.moments[t.encoder[s][i]];
                let (layer, scratch) = (t.encoder[s][i], &mut ws.scratch);
                self.block(weights, layer, &[source], y.as_mut(), &mut a, scratch, moments);
                give_back(&mut ws.stages[s], i, y, i % 2, a);
            }
        }
    }

    /// One decoder step: up, concatenate, convolve, head.
    fn decode(&self, weights: &E::Weights, ws: &mut Workspace<E>, s: usize) {
        let t = &self.topology;
        let mut up = take(&mut ws.stages[s].up);
        let below = ws.stages[s + 1].below(t, s + 1);
        self.engine.up(weights, &t.layers[t.up[s]], below, &mut up);
        ws.stages[s].up = up;
        let convs = t.encoder[s].len();
        for (i, &layer) in t.decoder[s].iter().enumerate() {
            let to = (t.skip(s) + 1 + i) % 2;
            let stage = &mut ws.stages[s];
            let mut a = take(&mut stage.a[to]);
            let mut y = stage.y.get_mut(convs + i).map(take);
            let from = if i == 0 { stage.result(1 - to) } else { &stage.a[1 - to] };
            let both = [&stage.up, from];
            let source = if i == 0 { &both[..] } else { &both[1..] };
            let moments = &mut ws.moments[layer];
            self.block(weights, layer, source, y.as_mut(), &mut a, &mut ws.scratch, moments);
            give_back(stage, convs + i, y, to, a);
        }
        let stage = &mut ws.stages[s];
        if let Some(logits) = &mut stage.logits {
            self.engine.head(weights, &t.layers[t.head[s]], &stage.a[t.last(s)], logits);
        }
    }

    /// Convolution, norm, leaky ReLU. Without `y` the convolution writes to `a` and the norm works in place.
    pub(super) fn block(
        &self,
        weights: &E::Weights,
        layer: usize,
        source: &[&E::Tensor],
        y: Option<&mut E::Tensor>,
        a: &mut E::Tensor,
        scratch: &mut E::Scratch,
        moments: &mut E::Moments,
    ) {
        let slope = self.slope(layer);
        let mut y = y;
        let out = match y.as_deref_mut() {
            Some(y) => y,
            None => &mut *a,
        };
        let layer = &self.topology.layers[layer];
        self.engine.convolve(weights, layer, source, out, scratch, moments);
        self.engine.normalise(y.as_deref(), moments, slope, a);
    }

    /// Of the leaky ReLU behind a layer's norm: on the skip of a residual block there is none, which is a slope of 1.
    pub(super) fn slope(&self, layer: usize) -> f32 {
        let skip = self.topology.layers[layer].role == Role::Skip;
        if skip { 1.0 } else { self.negative_slope }
    }

    /// The losses at the heads; with `gradients` the logits' gradients.
    pub(super) fn losses(
        &self,
        spec: &Network,
        ws: &mut Workspace<E>,
        options: &LossOptions,
        gradients: bool,
    ) {
        for (stage, weight) in ws.stages.iter_mut().zip(loss_weights(spec)) {
            if let Some(logits) = &mut stage.logits {
                self.engine.set_target(&ws.input, logits);
                self.engine.loss(logits, options, gradients.then_some(weight));
            }
        }
    }

    /// From the gradients in the heads' logits to the gradients of all parameters.
    pub(super) fn backward(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        gradient: &mut E::Vector,
    ) {
        let t = &self.topology;
        self.engine.clear(gradient);
        let last = t.decoder.len();
        for s in 0..=last {
            self.enter_stage(weights, ws, s, gradient);
            if s < last {
                self.decoder_backward(weights, ws, s, gradient);
            }
        }
        for s in (0..=last).rev() {
            if t.residual() {
                self.residual_backward(weights, ws, s, gradient);
            } else {
                self.encoder_backward(weights, ws, s, gradient);
            }
        }
    }

    /// Turns the last activation of a stage's decoder into its gradient, which comes from the transposed convolution
    /// above and from the stage's own head.
    fn enter_stage(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        s: usize,
        gradient: &mut E::Vector,
    ) {
        let t = &self.topology;
        let (above, stages) = ws.stages.split_at_mut(s);
        let (stage, scratch) = (&mut stages[0], &mut ws.scratch);
        let engine = &self.engine;
        if let Some(above) = above.last() {
            let (layer, below) = (&t.layers[t.up[s - 1]], stage.below(t, s));
            engine.weights_backward(layer, &[&above.up], below, scratch, gradient);
            engine.bias_backward(layer, &above.up, gradient);
        }
        let a = &mut stage.a[t.last(s)];
        let dy = stage.logits.as_ref().map(E::logits_gradient);
        if let Some(dy) = dy {
            let layer = &t.layers[t.head[s]];
            engine.weights_backward(layer, &[a], dy, scratch, gradient);
            engine.bias_backward(layer, dy, gradient);
        }
        if let Some(above) = above.last() {
            engine.up_backward(weights, &t.layers[t.up[s - 1]], &above.up, a);
        }
        if let Some(dy) = dy {
            let add = !above.is_empty();
            engine.input_backward(weights, &t.layers[t.head[s]], dy, &mut [a], add);
        }
    }

    /// Ends with the gradient of the upsampled tensor in `up` and that of the skip connection in its buffer.
    fn decoder_backward(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        s: usize,
        gradient: &mut E::Vector,
    ) {
        let t = &self.topology;
        let (convs, mut current) = (t.encoder[s].len(), t.last(s));
        for i in (0..t.decoder[s].len()).rev() {
            self.norm_backward(ws, s, convs + i, t.decoder[s][i], current, gradient);
            // Conv i's input: the encoder's result, or the decoder's previous activation. If no copy was kept, it is
            // made again.
            let kept = i == 0 && t.residual();
            if !kept {
                let made_by = if i == 0 { t.encoder[s][convs - 1] } else { t.decoder[s][i - 1] };
                self.activate(ws, s, convs + i - 1, made_by, 1 - current);
            }
            let Stage { a, up, out, .. } = &mut ws.stages[s];
            let [a0, a1] = a;
            let (dy, da) = if current == 0 { (a0, a1) } else { (a1, a0) };
            let layer = &t.layers[t.decoder[s][i]];
            let input = out.last().filter(|_| kept).unwrap_or(da);
            let both = [&*up, input];
            let views = if i == 0 { &both[..] } else { &both[1..] };
            self.engine.weights_backward(layer, views, dy, &mut ws.scratch, gradient);
            let mut both = [up, da];
            let views = if i == 0 { &mut both[..] } else { &mut both[1..] };
            self.engine.input_backward(weights, layer, dy, views, false);
            current = 1 - current;
        }
    }

    /// From the gradient of the skip connection down to the stage's first convolution, and into the stage above.
    fn encoder_backward(
        &self,
        weights: &E::Weights,
        ws: &mut Workspace<E>,
        s: usize,
        gradient: &mut E::Vector,
    ) {
        let t = &self.topology;
        let mut current = t.skip(s);
        for i in (0..t.encoder[s].len()).rev() {
            let index = t.encoder[s][i];
            let (engine, layer) = (&self.engine, &t.layers[index]);
            self.norm_backward(ws, s, i, index, current, gradient);
            if i == 0 && s == 0 {
                let dy = &ws.stages[0].a[current];
                engine.weights_backward(
                    layer,
                    &[E::image(&ws.input)],
                    dy,
                    &mut ws.scratch,
                    gradient,
                );
            } else if i == 0 {
                // The skip buffer above holds its gradient by now; its activation is made again beside it.
                let (skip, convs) = (t.skip(s - 1), t.encoder[s - 1].len());
                self.activate(ws, s - 1, convs - 1, t.encoder[s - 1][convs - 1], 1 - skip);
                let (above, stages) = ws.stages.split_at_mut(s);
                let above = &mut above[s - 1];
                let (dy, input) = (&stages[0].a[current], &above.a[1 - skip]);
                engine.weights_backward(layer, &[input], dy, &mut ws.scratch, gradient);
                let target = &mut above.a[skip];
                engine.input_backward(weights, layer, dy, &mut [target], true);
            } else {
                self.activate(ws, s, i - 1, t.encoder[s][i - 1], 1 - current);
                let stage = &mut ws.stages[s];
                let mut input = take(&mut stage.a[1 - current]);
                let dy = &stage.a[current];
                engine.weights_backward(layer, &[&input], dy, &mut ws.scratch, gradient);
                engine.input_backward(weights, layer, dy, &mut [&mut input], false);
                stage.a[1 - current] = input;
                current = 1 - current;
            }
        }
    }

    /// Makes the activation of convolution output `y` of a stage again.
    fn activate(&self, ws: &mut Workspace<E>, s: usize, y: usize, layer: usize, buffer: usize) {
        let stage = &mut ws.stages[s];
        let a = &mut stage.a[buffer];
        let moments = &ws.moments[layer];
        self.engine.normalise(Some(&stage.y[y]), moments, self.negative_slope, a);
    }

    /// From the gradient of an activation to that of the convolution output, in place. The convolution's bias has no
    /// gradient: the norm takes any constant away again.
    fn norm_backward(
        &self,
        ws: &mut Workspace<E>,
        s: usize,
        y: usize,
        layer: usize,
        buffer: usize,
        gradient: &mut E::Vector,
    ) {
        let stage = &mut ws.stages[s];
        self.engine.norm_backward(
            &self.topology.layers[layer],
            &stage.y[y],
            &ws.moments[layer],
            self.negative_slope,
            &mut ws.scratch,
            &mut stage.a[buffer],
            gradient,
        );
    }
}

/// Puts tensors that were taken out of a stage back.
fn give_back<E: Engine>(
    stage: &mut Stage<E>,
    y_index: usize,
    y: Option<E::Tensor>,
    a_index: usize,
    a: E::Tensor,
) {
    stage.a[a_index] = a;
    if let Some(y) = y {
        stage.y[y_index] = y;
    }
}

impl<E: Engine> Stage<E> {
    /// What the transposed convolution out of stage `s` reads: the decoder's last activation, at the deepest stage the
    /// encoder's result.
    fn below(&self, t: &Topology, s: usize) -> &E::Tensor {
        if s < t.decoder.len() { &self.a[t.last(s)] } else { self.result(t.skip(s)) }
    }
}
