//! The definitions, as nested loops in f64 over `[n, c, z, y, x]`: what the kernels are held against.

pub(crate) mod cases;
mod tests;

use ndarray::{Array4, Array5, Axis};

pub(crate) type Grid = Array5<f64>;

/// Kernel, stride, padding per axis; weights `[out, in, z, y, x]`.
pub(crate) fn convolution(
    x: &Grid,
    w: &Grid,
    bias: &[f64],
    stride: [usize; 3],
    pad: [usize; 3],
) -> Grid {
    let (n, _, d, h, wd) = x.dim();
    let (out, _, kz, ky, kx) = w.dim();
    let size = |len: usize, k: usize, a: usize| (len + 2 * pad[a] - k) / stride[a] + 1;
    let mut y = Grid::zeros((n, out, size(d, kz, 0), size(h, ky, 1), size(wd, kx, 2)));
    for ((n, o, z, v, u), value) in y.indexed_iter_mut() {
        *value = bias[o];
        for ((c, a, b, e), weight) in w.index_axis(Axis(0), o).indexed_iter() {
            let at = [z * stride[0] + a, v * stride[1] + b, u * stride[2] + e];
            if (0..3).any(|i| at[i] < pad[i]) {
                continue;
            }
            let position = [n, c, at[0] - pad[0], at[1] - pad[1], at[2] - pad[2]];
            *value += weight * x.get(position).copied().unwrap_or(0.0);
        }
    }
    y
}

/// Gradients of [`convolution`] towards x, w and bias.
pub(crate) fn convolution_backward(
    x: &Grid,
    w: &Grid,
    dy: &Grid,
    stride: [usize; 3],
    pad: [usize; 3],
) -> (Grid, Grid, Vec<f64>) {
    let (mut dx, mut dw, mut db) =
        (Grid::zeros(x.dim()), Grid::zeros(w.dim()), vec![0.0; w.dim().0]);
    for ((n, o, z, v, u), g) in dy.indexed_iter() {
        db[o] += g;
        for ((c, a, b, e), weight) in w.index_axis(Axis(0), o).indexed_iter() {
            let at = [z * stride[0] + a, v * stride[1] + b, u * stride[2] + e];
            if (0..3).any(|i| at[i] < pad[i]) {
                continue;
            }
            let position = [n, c, at[0] - pad[0], at[1] - pad[1], at[2] - pad[2]];
            if let Some(value) = x.get(position) {
                dw[[o, c, a, b, e]] += g * value;
                dx[position] += g * weight;
            }
        }
    }
    (dx, dw, db)
}

/// Transposed convolution with kernel = stride; weights `[in, out, z, y, x]`.
pub(crate) fn transposed(x: &Grid, w: &Grid, bias: &[f64], stride: [usize; 3]) -> Grid {
    let (n, _, d, h, wd) = x.dim();
    let out = w.dim().1;
    let mut y = Grid::zeros((n, out, d * stride[0], h * stride[1], wd * stride[2]));
    for ((_, o, ..), value) in y.indexed_iter_mut() {
        *value = bias[o];
    }
    for ((n, c, z, v, u), value) in x.indexed_iter() {
        for ((wc, o, a, b, e), weight) in w.indexed_iter() {
            if wc == c {
                y[[n, o, z * stride[0] + a, v * stride[1] + b, u * stride[2] + e]] +=
                    weight * value;
            }
        }
    }
    y
}

/// Gradients of [`transposed`] towards x, w and bias.
pub(crate) fn transposed_backward(
    x: &Grid,
    w: &Grid,
    dy: &Grid,
    stride: [usize; 3],
) -> (Grid, Grid, Vec<f64>) {
    let (mut dx, mut dw, mut db) =
        (Grid::zeros(x.dim()), Grid::zeros(w.dim()), vec![0.0; w.dim().1]);
    for ((_, o, ..), g) in dy.indexed_iter() {
        db[o] += g;
    }
    for ((n, c, z, v, u), value) in x.indexed_iter() {
        for ((wc, o, a, b, e), weight) in w.indexed_iter() {
            if wc == c {
                let g = dy[[n, o, z * stride[0] + a, v * stride[1] + b, u * stride[2] + e]];
                dw[[c, o, a, b, e]] += g * value;
                dx[[n, c, z, v, u]] += g * weight;
            }
        }
    }
    (dx, dw, db)
}

/// Instance norm (population variance), scale and shift, leaky ReLU.
pub(crate) fn norm_relu(x: &Grid, gamma: &[f64], beta: &[f64], epsilon: f64, slope: f64) -> Grid {
    let mut y = x.clone();
    for mut sample in y.outer_iter_mut() {
        for (c, mut channel) in sample.outer_iter_mut().enumerate() {
            let n = channel.len() as f64;
            let mean = channel.sum() / n;
            let variance = channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            channel.mapv_inplace(|v| {
                let z = gamma[c] * (v - mean) / (variance + epsilon).sqrt() + beta[c];
                if z > 0.0 { z } else { slope * z }
            });
        }
    }
    y
}

/// Gradients of [`norm_relu`] towards x, gamma and beta, by the chain rule through mean and variance.
pub(crate) fn norm_relu_backward(
    x: &Grid,
    gamma: &[f64],
    beta: &[f64],
    epsilon: f64,
    slope: f64,
    dy: &Grid,
) -> (Grid, Vec<f64>, Vec<f64>) {
    let channels = x.dim().1;
    let (mut dx, mut dgamma, mut dbeta) =
        (Grid::zeros(x.dim()), vec![0.0; channels], vec![0.0; channels]);
    for n in 0..x.dim().0 {
        for c in 0..channels {
            let pick = |g: &Grid| {
                g.slice(ndarray::s![n, c, .., .., ..]).iter().copied().collect::<Vec<f64>>()
            };
            let (values, gradients) = (pick(x), pick(dy));
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let sd = (variance + epsilon).sqrt();
            let hat: Vec<f64> = values.iter().map(|v| (v - mean) / sd).collect();
            let g: Vec<f64> = (hat.iter().zip(&gradients))
                .map(|(h, g)| if gamma[c] * h + beta[c] > 0.0 { *g } else { slope * g })
                .collect();
            let (sum_g, sum_gh) =
                (g.iter().sum::<f64>(), g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>());
            dgamma[c] += sum_gh;
            dbeta[c] += sum_g;
            let mut target = dx.slice_mut(ndarray::s![n, c, .., .., ..]);
            for ((d, g), h) in target.iter_mut().zip(&g).zip(&hat) {
                *d = gamma[c] / sd * (g - sum_g / count - h * sum_gh / count);
            }
        }
    }
    (dx, dgamma, dbeta)
}

/// What the loss weighs, and what the labels mean: without regions, softmax over classes.
#[derive(Debug, Clone)]
pub(crate) struct LossRule {
    pub dice: f64,
    pub cross_entropy: f64,
    pub smooth: f64,
    pub background: bool,
    pub batch: bool,
    pub regions: Option<Vec<Vec<usize>>>,
    pub ignore: Option<usize>,
}

impl LossRule {
    /// Whether channel `c` is true where the label is `t`.
    fn truth(&self, t: usize, c: usize) -> bool {
        self.regions.as_ref().map_or(t == c, |regions| regions[c].contains(&t))
    }

    /// Probabilities of one voxel.
    fn probabilities(&self, z: &[f64]) -> Vec<f64> {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        let one = |z: &f64| match self.regions {
            Some(_) => 1.0 / (1.0 + (-z).exp()),
            None => z.exp() / sum,
        };
        z.iter().map(one).collect()
    }
}

/// Dice and cross-entropy: (total, dice, cross-entropy).
pub(crate) fn loss(logits: &Grid, target: &Array4<usize>, rule: &LossRule) -> (f64, f64, f64) {
    let (n, channels, ..) = logits.dim();
    let mut sums = vec![vec![[0.0; 3]; channels]; n];
    let (mut entropy, mut annotated) = (0.0, 0.0f64);
    for ((n, z, y, x), &t) in target.indexed_iter() {
        if Some(t) == rule.ignore {
            continue;
        }
        annotated += 1.0;
        let at: Vec<f64> = (0..channels).map(|c| logits[[n, c, z, y, x]]).collect();
        let u = rule.probabilities(&at);
        for c in 0..channels {
            let v = if rule.truth(t, c) { 1.0 } else { 0.0 };
            for (sum, part) in sums[n][c].iter_mut().zip([u[c] * v, u[c], v]) {
                *sum += part;
            }
            entropy -= v * u[c].ln();
            if rule.regions.is_some() {
                entropy -= (1.0 - v) * (1.0 - u[c]).ln();
            }
        }
    }
    let per_voxel = if rule.regions.is_some() && rule.ignore.is_none() { channels } else { 1 };
    if annotated > 0.0 {
        entropy /= annotated * per_voxel as f64;
    }
    let first = usize::from(!rule.background && rule.regions.is_none());
    let groups: Vec<Vec<usize>> =
        if rule.batch { vec![(0..n).collect()] } else { (0..n).map(|i| vec![i]).collect() };
    let mut dice = 0.0;
    for group in &groups {
        for c in first..channels {
            let sum = |i: usize| group.iter().map(|&n| sums[n][c][i]).sum::<f64>();
            dice -= (2.0 * sum(0) + rule.smooth) / (sum(1) + sum(2) + rule.smooth).max(1e-8);
        }
    }
    dice /= (groups.len() * (channels - first)) as f64;
    (rule.dice * dice + rule.cross_entropy * entropy, dice, entropy)
}
