//! Forward and backward pass, layer by layer.

use super::topology::{Role, Topology};
use super::workspace::{Stage, Workspace};
use super::{Engine, Weights};

use crate::ops::instance_norm;
use crate::ops::linear::{bias_gradient, gather, outer, scatter};
use crate::tensor::Tensor;
use std::mem::take;

impl Engine {
    /// From `ws.input` to the logits of every head that the workspace has a place for.
    pub(super) fn forward(&self, weights: &Weights, ws: &mut Workspace) {
        if self.topology.residual() {
            self.encode_residual(weights, ws);
        } else {
            self.encode_plain(weights, ws);
        }
        for s in (0..self.topology.decoder.len()).rev() {
            self.decode(weights, ws, s);
        }
    }

    fn encode_plain(&self, weights: &Weights, ws: &mut Workspace) {
        let t = &self.topology;
        for s in 0..t.encoder.len() {
            for i in 0..t.encoder[s].len() {
                let mut a = take(&mut ws.stages[s].a[i % 2]);
                let mut y = ws.stages[s].y.get_mut(i).map(take);
                let source = match (i, s) {
                    (0, 0) => &ws.input,
                    (0, _) => &ws.stages[s - 1].a[t.skip(s - 1)],
                    _ => &ws.stages[s].a[(i + 1) % 2],
                };
                let sums = &mut ws.sums;
                let moments = &mut ws.moments[t.encoder[s][i]];
                self.block(weights, t.encoder[s][i], &[source], y.as_mut(), &mut a, sums, moments);
                give_back(&mut ws.stages[s], i, y, i % 2, a);
            }
        }
    }

    /// One decoder step: up, concatenate, convolve, head.
    fn decode(&self, weights: &Weights, ws: &mut Workspace, s: usize) {
        let t = &self.topology;
        let mut up = take(&mut ws.stages[s].up);
        let below = ws.stages[s + 1].below(t, s + 1);
        let (layer, packed) = (&t.layers[t.up[s]], &weights.forward[t.up[s]]);
        let bias = Some(&weights.bias[t.up[s]][..]);
        scatter(self.level, &layer.geometry, below, packed, bias, &mut [&mut up], false);
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
            self.block(weights, layer, source, y.as_mut(), &mut a, &mut ws.sums, moments);
            give_back(stage, convs + i, y, to, a);
        }
        let stage = &mut ws.stages[s];
        if let Some(logits) = &mut stage.logits {
            let (layer, packed) = (&t.layers[t.head[s]], &weights.forward[t.head[s]]);
            let (a, bias) = (&stage.a[t.last(s)], Some(&weights.bias[t.head[s]][..]));
            gather(self.level, &layer.geometry, &[a], packed, bias, logits, false);
        }
    }

    /// Convolution, norm, leaky ReLU. Without `y` the convolution writes to `a` and the norm works in place.
    pub(super) fn block(
        &self,
        weights: &Weights,
        layer: usize,
        source: &[&Tensor],
        y: Option<&mut Tensor>,
        a: &mut Tensor,
        sums: &mut [instance_norm::PlaneSums],
        moments: &mut [instance_norm::Moments],
    ) {
        let slope = self.slope(layer);
        let mut y = y;
        let out = match y.as_deref_mut() {
            Some(y) => y,
            None => &mut *a,
        };
        self.convolve(weights, layer, source, out, sums, moments);
        instance_norm::apply(self.level, y.as_deref(), moments, slope, a);
    }

    /// Of the leaky ReLU behind a layer's norm: on the skip of a residual block there is none, which is a slope of 1.
    pub(super) fn slope(&self, layer: usize) -> f32 {
        let skip = self.topology.layers[layer].role == Role::Skip;
        if skip { 1.0 } else { self.negative_slope }
    }

    /// Convolution, and the statistics of its output.
    pub(super) fn convolve(
        &self,
        weights: &Weights,
        layer: usize,
        source: &[&Tensor],
        out: &mut Tensor,
        sums: &mut [instance_norm::PlaneSums],
        moments: &mut [instance_norm::Moments],
    ) {
        let (l, packed) = (&self.topology.layers[layer], &weights.forward[layer]);
        let bias = (!l.bias.is_empty()).then_some(&weights.bias[layer][..]);
        let (gamma, beta) = (&weights.values[l.gamma.clone()], &weights.values[l.beta.clone()]);
        gather(self.level, &l.geometry, source, packed, bias, out, false);
        instance_norm::moments(self.level, out, gamma, beta, self.norm_epsilon, sums, moments);
    }

    /// From the gradients in the heads' logits to the gradients of all parameters.
    pub(super) fn backward(&self, weights: &Weights, ws: &mut Workspace, gradient: &mut [f32]) {
        let t = &self.topology;
        gradient.fill(0.0);
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
    fn enter_stage(&self, weights: &Weights, ws: &mut Workspace, s: usize, gradient: &mut [f32]) {
        let t = &self.topology;
        let (above, stages) = ws.stages.split_at_mut(s);
        let (stage, scratch) = (&mut stages[0], &mut ws.scratch);
        if let Some(above) = above.last() {
            let (layer, below) = (&t.layers[t.up[s - 1]], stage.below(t, s));
            let weight = &mut gradient[layer.weight.clone()];
            outer(self.level, &layer.geometry, &[&above.up], below, scratch, weight);
            bias_gradient(&above.up, &mut gradient[layer.bias.clone()]);
        }
        let a = &mut stage.a[t.last(s)];
        let logits = stage.logits.as_ref();
        if let Some(logits) = logits {
            let layer = &t.layers[t.head[s]];
            let weight = &mut gradient[layer.weight.clone()];
            outer(self.level, &layer.geometry, &[a], logits, scratch, weight);
            bias_gradient(logits, &mut gradient[layer.bias.clone()]);
        }
        if let Some(above) = above.last() {
            let (layer, packed) = (&t.layers[t.up[s - 1]], &weights.backward[t.up[s - 1]]);
            gather(self.level, &layer.geometry, &[&above.up], packed, None, a, false);
        }
        if let Some(logits) = logits {
            let (layer, packed) = (&t.layers[t.head[s]], &weights.backward[t.head[s]]);
            let add = !above.is_empty();
            scatter(self.level, &layer.geometry, logits, packed, None, &mut [a], add);
        }
    }

    /// Ends with the gradient of the upsampled tensor in `up` and that of the skip connection in its buffer.
    fn decoder_backward(
        &self,
        weights: &Weights,
        ws: &mut Workspace,
        s: usize,
        gradient: &mut [f32],
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
            let (layer, packed) = (&t.layers[t.decoder[s][i]], &weights.backward[t.decoder[s][i]]);
            let weight = &mut gradient[layer.weight.clone()];
            let input = out.last().filter(|_| kept).unwrap_or(da);
            let both = [&*up, input];
            let views = if i == 0 { &both[..] } else { &both[1..] };
            outer(self.level, &layer.geometry, views, dy, &mut ws.scratch, weight);
            let mut both = [up, da];
            let views = if i == 0 { &mut both[..] } else { &mut both[1..] };
            scatter(self.level, &layer.geometry, dy, packed, None, views, false);
            current = 1 - current;
        }
    }

    /// From the gradient of the skip connection down to the stage's first convolution, and into the stage above.
    fn encoder_backward(
        &self,
        weights: &Weights,
        ws: &mut Workspace,
        s: usize,
        gradient: &mut [f32],
    ) {
        let t = &self.topology;
        let mut current = t.skip(s);
        for i in (0..t.encoder[s].len()).rev() {
            let index = t.encoder[s][i];
            let (layer, packed) = (&t.layers[index], &weights.backward[index]);
            self.norm_backward(ws, s, i, index, current, gradient);
            let weight = &mut gradient[layer.weight.clone()];
            if i == 0 && s == 0 {
                let dy = &ws.stages[0].a[current];
                outer(self.level, &layer.geometry, &[&ws.input], dy, &mut ws.scratch, weight);
            } else if i == 0 {
                // The skip buffer above holds its gradient by now; its activation is made again beside it.
                let (skip, convs) = (t.skip(s - 1), t.encoder[s - 1].len());
                self.activate(ws, s - 1, convs - 1, t.encoder[s - 1][convs - 1], 1 - skip);
                let (above, stages) = ws.stages.split_at_mut(s);
                let above = &mut above[s - 1];
                let (dy, input) = (&stages[0].a[current], &above.a[1 - skip]);
                outer(self.level, &layer.geometry, &[input], dy, &mut ws.scratch, weight);
                let target = &mut above.a[skip];
                scatter(self.level, &layer.geometry, dy, packed, None, &mut [target], true);
            } else {
                self.activate(ws, s, i - 1, t.encoder[s][i - 1], 1 - current);
                let stage = &mut ws.stages[s];
                let mut input = take(&mut stage.a[1 - current]);
                let dy = &stage.a[current];
                outer(self.level, &layer.geometry, &[&input], dy, &mut ws.scratch, weight);
                scatter(self.level, &layer.geometry, dy, packed, None, &mut [&mut input], false);
                stage.a[1 - current] = input;
                current = 1 - current;
            }
        }
    }

    /// Makes the activation of convolution output `y` of a stage again.
    fn activate(&self, ws: &mut Workspace, s: usize, y: usize, layer: usize, buffer: usize) {
        let stage = &mut ws.stages[s];
        let a = &mut stage.a[buffer];
        let moments = &ws.moments[layer];
        instance_norm::apply(self.level, Some(&stage.y[y]), moments, self.negative_slope, a);
    }

    /// From the gradient of an activation to that of the convolution output, in place. The convolution's bias has no
    /// gradient: the norm takes any constant away again.
    fn norm_backward(
        &self,
        ws: &mut Workspace,
        s: usize,
        y: usize,
        layer: usize,
        buffer: usize,
        gradient: &mut [f32],
    ) {
        let stage = &mut ws.stages[s];
        let (l, moments) = (&self.topology.layers[layer], &ws.moments[layer]);
        let (gammas, betas) = gradient[l.gamma.start..l.beta.end].split_at_mut(l.gamma.len());
        instance_norm::backward(
            self.level,
            &stage.y[y],
            moments,
            self.negative_slope,
            &mut ws.sums,
            &mut stage.a[buffer],
            gammas,
            betas,
        );
    }
}

/// Puts tensors that were taken out of a stage back.
fn give_back(stage: &mut Stage, y_index: usize, y: Option<Tensor>, a_index: usize, a: Tensor) {
    stage.a[a_index] = a;
    if let Some(y) = y {
        stage.y[y_index] = y;
    }
}

impl Stage {
    /// What the transposed convolution out of stage `s` reads: the decoder's last activation, at the deepest stage the
    /// encoder's result.
    fn below(&self, t: &Topology, s: usize) -> &Tensor {
        if s < t.decoder.len() { &self.a[t.last(s)] } else { self.result(t.skip(s)) }
    }
}
