//! Sixteen voxels of the loss over classes: exactly one channel is true.

use super::lanes::{Lanes, LogSum, WIDTH, exp};
use super::loss::{Slopes, Sums, Voxels};

/// Logits to probabilities, 0 where ignored; adds to the sums. `labels` are classes, or −1 where ignored.
#[inline(always)]
pub(super) fn forward(
    voxels: &mut Voxels<'_, '_>,
    labels: &[i32; WIDTH],
    sums: &mut Sums,
    logarithms: &mut LogSum,
) {
    let classes = voxels.channels();
    let mut largest = voxels.get(0);
    let mut best = [0i32; WIDTH];
    let mut of_label: Lanes = [0.0; WIDTH];
    for c in 0..classes {
        let x = voxels.get(c);
        for i in 0..WIDTH {
            if x[i] > largest[i] {
                (largest[i], best[i]) = (x[i], c as i32);
            }
            if labels[i] == c as i32 {
                of_label[i] = x[i];
            }
        }
    }
    let mut total: Lanes = [0.0; WIDTH];
    for c in 0..classes {
        let mut x = voxels.get(c);
        for i in 0..WIDTH {
            x[i] -= largest[i];
        }
        let e = exp(&x);
        for i in 0..WIDTH {
            total[i] += e[i];
        }
        voxels.set(c, &e);
    }
    let mut share: Lanes = [0.0; WIDTH];
    let mut normaliser = [1.0f64; WIDTH];
    let mut entropy = [0.0f32; WIDTH];
    for i in 0..WIDTH {
        if labels[i] >= 0 {
            share[i] = 1.0 / total[i];
            normaliser[i] = f64::from(total[i]);
            entropy[i] = largest[i] - of_label[i];
        }
    }
    logarithms.add(&normaliser);
    sums.entropy += entropy.iter().map(|v| f64::from(*v)).sum::<f64>();
    for c in 0..classes {
        let mut u = voxels.get(c);
        let mut hit: Lanes = [0.0; WIDTH];
        for i in 0..WIDTH {
            u[i] *= share[i];
            if labels[i] == c as i32 {
                hit[i] = u[i];
            }
        }
        voxels.set(c, &u);
        let sum = &mut sums.channel[c];
        for i in 0..WIDTH {
            sum.uv[i] += hit[i];
            sum.u[i] += u[i];
        }
    }
    for i in 0..WIDTH {
        if labels[i] < 0 {
            continue;
        }
        let (best, label) = (best[i] as usize, labels[i] as usize);
        sums.annotated += 1;
        if best == label {
            sums.counts[label].tp += 1;
        } else {
            sums.counts[best].fp += 1;
            sums.counts[label].fn_ += 1;
        }
    }
}

/// Probabilities to gradients: d/dlogit_c = u_c (g_c − Σ u_k g_k) + e (u_c − v_c) with g = a·v + b.
#[inline(always)]
pub(super) fn backward(voxels: &mut Voxels<'_, '_>, labels: &[i32; WIDTH], slopes: &Slopes<'_>) {
    let classes = voxels.channels();
    let mut mean: Lanes = [0.0; WIDTH];
    for c in 0..classes {
        let (u, [a, b]) = (voxels.get(c), slopes.dice[c]);
        for i in 0..WIDTH {
            mean[i] += u[i] * if labels[i] == c as i32 { a + b } else { b };
        }
    }
    for c in 0..classes {
        let (u, [a, b]) = (voxels.get(c), slopes.dice[c]);
        let mut out: Lanes = [0.0; WIDTH];
        for i in 0..WIDTH {
            let (towards, wrong) =
                if labels[i] == c as i32 { (a + b, u[i] - 1.0) } else { (b, u[i]) };
            // Where ignored, u is 0 and no class is the label.
            out[i] = u[i] * (towards - mean[i]) + slopes.entropy * wrong;
        }
        voxels.set(c, &out);
    }
}
