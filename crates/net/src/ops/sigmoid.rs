//! Sixteen voxels of the loss over regions: each channel is true or false by itself.

use super::lanes::{Lanes, LogSum, WIDTH, exp};
use super::loss::{Slopes, Sums, Voxels};

/// Which regions a class belongs to: 0 or 1 per `[region][class]`.
#[derive(Debug)]
pub(super) struct Members {
    classes: usize,
    table: Vec<f32>,
}

impl Members {
    /// From the classes of each region.
    pub(super) fn new(classes: usize, members: &[Vec<usize>]) -> Self {
        let classes = classes.max(1);
        let mut table = vec![0.0; classes * members.len()];
        for (r, members) in members.iter().enumerate() {
            for &class in members {
                table[r * classes + class] = 1.0;
            }
        }
        Self { classes, table }
    }

    /// Where region `r` is true; 0 where ignored.
    #[inline(always)]
    fn truth(&self, r: usize, labels: &[i32; WIDTH]) -> Lanes {
        let row = &self.table[r * self.classes..][..self.classes];
        let mut v = [0.0; WIDTH];
        for i in 0..WIDTH {
            if labels[i] >= 0 {
                v[i] = row[labels[i] as usize];
            }
        }
        v
    }
}

/// Logits to probabilities, 0 where ignored; adds to the sums. With v 0 or 1, the entropy max(z, 0) − z v + ln(1 + e^−|z|)
/// neither overflows nor loses digits, wherever z lies.
#[inline(always)]
pub(super) fn forward(
    voxels: &mut Voxels<'_, '_>,
    labels: &[i32; WIDTH],
    members: &Members,
    sums: &mut Sums,
    logarithms: &mut LogSum,
) {
    sums.annotated += labels.iter().filter(|label| **label >= 0).count() as u64;
    for r in 0..voxels.channels() {
        let (z, v) = (voxels.get(r), members.truth(r, labels));
        let mut below: Lanes = [0.0; WIDTH];
        for i in 0..WIDTH {
            below[i] = -z[i].abs();
        }
        let e = exp(&below);
        let (mut u, mut entropy): (Lanes, Lanes) = ([0.0; WIDTH], [0.0; WIDTH]);
        let mut factors = [1.0f64; WIDTH];
        for i in 0..WIDTH {
            if labels[i] >= 0 {
                let share = 1.0 / (1.0 + e[i]);
                u[i] = if z[i] >= 0.0 { share } else { e[i] * share };
                entropy[i] = z[i].max(0.0) - z[i] * v[i];
                factors[i] = 1.0 + f64::from(e[i]);
            }
        }
        voxels.set(r, &u);
        logarithms.add(&factors);
        sums.entropy += entropy.iter().map(|v| f64::from(*v)).sum::<f64>();
        let (sum, count) = (&mut sums.channel[r], &mut sums.counts[r]);
        for i in 0..WIDTH {
            sum.uv[i] += u[i] * v[i];
            sum.u[i] += u[i];
        }
        for i in 0..WIDTH {
            let (found, there) = (u[i] > 0.5, v[i] > 0.5);
            count.tp += u64::from(found && there);
            count.fp += u64::from(found && !there && labels[i] >= 0);
            count.fn_ += u64::from(!found && there);
        }
    }
}

/// Probabilities to gradients: d/dlogit = u (1 − u) (a·v + b) + e (u − v).
#[inline(always)]
pub(super) fn backward(
    voxels: &mut Voxels<'_, '_>,
    labels: &[i32; WIDTH],
    members: &Members,
    slopes: &Slopes<'_>,
) {
    for r in 0..voxels.channels() {
        let (u, v, [a, b]) = (voxels.get(r), members.truth(r, labels), slopes.dice[r]);
        let mut out: Lanes = [0.0; WIDTH];
        for i in 0..WIDTH {
            // Where ignored, u and v are 0.
            out[i] = u[i] * (1.0 - u[i]) * (a * v[i] + b) + slopes.entropy * (u[i] - v[i]);
        }
        voxels.set(r, &out);
    }
}
