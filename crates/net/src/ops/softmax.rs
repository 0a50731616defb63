//! One voxel of the loss over classes: exactly one channel is true.

use super::loss::{Slopes, Sums, Voxels};

/// Logits to probabilities; adds to the sums.
pub(super) fn forward(voxels: &mut Voxels<'_>, voxel: usize, label: usize, sums: &mut Sums) {
    let classes = sums.channel.len();
    let (mut best, mut largest) = (0, voxels.get(voxel, 0));
    for c in 1..classes {
        let value = voxels.get(voxel, c);
        if value > largest {
            (best, largest) = (c, value);
        }
    }
    let of_label = voxels.get(voxel, label) - largest;
    let mut total = 0.0;
    for c in 0..classes {
        let e = (voxels.get(voxel, c) - largest).exp();
        voxels.set(voxel, c, e);
        total += e;
    }
    for c in 0..classes {
        let u = voxels.get(voxel, c) / total;
        voxels.set(voxel, c, u);
        sums.channel[c][1] += f64::from(u);
    }
    sums.channel[label][0] += f64::from(voxels.get(voxel, label));
    sums.channel[label][2] += 1.0;
    sums.entropy += f64::from(total.ln() - of_label);
    if best == label {
        sums.counts[label].tp += 1;
    } else {
        sums.counts[best].fp += 1;
        sums.counts[label].fn_ += 1;
    }
}

/// Probabilities to gradients: d/dlogit_c = u_c (g_c − Σ u_k g_k) + e (u_c − v_c) with g = a·v + b.
pub(super) fn backward(voxels: &mut Voxels<'_>, voxel: usize, label: usize, slopes: &Slopes<'_>) {
    let towards_u = |c: usize| slopes.dice[c][1] + if c == label { slopes.dice[c][0] } else { 0.0 };
    let classes = slopes.dice.len();
    let mut mean = 0.0;
    for c in 0..classes {
        mean += voxels.get(voxel, c) * towards_u(c);
    }
    for c in 0..classes {
        let u = voxels.get(voxel, c);
        let wrong = if c == label { u - 1.0 } else { u };
        voxels.set(voxel, c, u * (towards_u(c) - mean) + slopes.entropy * wrong);
    }
}
