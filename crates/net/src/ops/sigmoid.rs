//! One voxel of the loss over regions: each channel is true or false by itself.

use super::loss::{Slopes, Sums, Voxels};

/// Which regions a class belongs to: 0 or 1 per `[class][region]`.
#[derive(Debug)]
pub(super) struct Members {
    regions: usize,
    table: Vec<f32>,
}

impl Members {
    /// From the classes of each region.
    pub(super) fn new(classes: usize, members: &[Vec<usize>]) -> Self {
        let regions = members.len();
        let mut table = vec![0.0; classes.max(1) * regions];
        for (r, members) in members.iter().enumerate() {
            for &class in members {
                table[class * regions + r] = 1.0;
            }
        }
        Self { regions, table }
    }

    /// The row of a class.
    pub(super) fn of(&self, class: usize) -> &[f32] {
        &self.table[class * self.regions..][..self.regions]
    }
}

/// Logits to probabilities; adds to the sums. With v 0 or 1, the entropy max(z, 0) − z v + ln(1 + e^−|z|) neither
/// overflows nor loses digits, wherever z lies.
pub(super) fn forward(voxels: &mut Voxels<'_>, voxel: usize, truth: &[f32], sums: &mut Sums) {
    for (r, &v) in truth.iter().enumerate() {
        let z = voxels.get(voxel, r);
        let e = (-z.abs()).exp();
        let u = if z >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
        voxels.set(voxel, r, u);
        let sum = &mut sums.channel[r];
        sum[0] += f64::from(u * v);
        sum[1] += f64::from(u);
        sum[2] += f64::from(v);
        sums.entropy += f64::from(z.max(0.0) - z * v + e.ln_1p());
        let count = &mut sums.counts[r];
        match (u > 0.5, v > 0.5) {
            (true, true) => count.tp += 1,
            (true, false) => count.fp += 1,
            (false, true) => count.fn_ += 1,
            (false, false) => {}
        }
    }
}

/// Probabilities to gradients: d/dlogit = u (1 − u) (a·v + b) + e (u − v).
pub(super) fn backward(voxels: &mut Voxels<'_>, voxel: usize, truth: &[f32], slopes: &Slopes<'_>) {
    for (r, (&v, [a, b])) in truth.iter().zip(slopes.dice).enumerate() {
        let u = voxels.get(voxel, r);
        let dice = u * (1.0 - u) * (a * v + b);
        voxels.set(voxel, r, dice + slopes.entropy * (u - v));
    }
}
