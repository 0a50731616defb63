//! Softmax, Dice and cross-entropy, and their gradient towards the logits.
//!
//! With u = softmax(logits), v = one-hot target and sums over voxels (of the batch or of a sample), per class
//! dc = (2 Σ u v + s) / max(Σ u + Σ v + s, 1e-8); loss = −w_dice · mean(dc) − w_ce · mean over voxels of ln u_target.
//! Voxels are computed in f32, all sums in f64.

use crate::loss::{ClassCounts, LossOptions};
use crate::tensor::{LANES, Lane, Layout, Tensor};
use rayon::prelude::*;

/// Sums of one part of the voxels of one sample.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    /// Σ u v, Σ u, Σ v per class.
    class: Vec<[f64; 3]>,
    counts: Vec<ClassCounts>,
    entropy: f64,
}

/// The terms of one resolution.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Terms {
    pub dice: f64,
    pub cross_entropy: f64,
    pub counts: Vec<ClassCounts>,
}

/// Denominators below this are taken for this.
const SMALLEST_DENOMINATOR: f64 = 1e-8;

/// Parts whose voxels lie one behind the other in every block: planes when the classes fit one block, else samples.
fn part_lanes(l: &Layout) -> usize {
    assert_eq!(l.halo, [0; 3], "logits have no halo");
    if l.blocks() == 1 { l.plane_pitch() } else { l.sample_pitch() }
}

/// Turns logits into probabilities, and returns the sums part by part.
fn softmax(logits: &mut Tensor, target: &[i16]) -> Vec<Sums> {
    let l = logits.layout;
    let (lanes, classes) = (part_lanes(&l), l.channels);
    let voxels = lanes / l.blocks();
    assert_eq!(target.len(), l.batch * l.voxels(), "target");
    let parts = logits.data.par_chunks_mut(lanes).zip(target.par_chunks(voxels));
    parts
        .map(|(part, target)| {
            let mut sums = Sums {
                class: vec![[0.0; 3]; classes],
                counts: vec![ClassCounts::default(); classes],
                entropy: 0.0,
            };
            for (voxel, label) in target.iter().enumerate() {
                softmax_voxel(part, voxel, voxels, usize::try_from(*label).unwrap_or(0), &mut sums);
            }
            sums
        })
        .collect()
}

fn softmax_voxel(part: &mut [Lane], voxel: usize, voxels: usize, label: usize, sums: &mut Sums) {
    let classes = sums.class.len();
    let at = |c: usize| (c / LANES * voxels + voxel, c % LANES);
    let logit = |part: &[Lane], c: usize| part[at(c).0].0[at(c).1];
    let (mut best, mut largest) = (0, logit(part, 0));
    for c in 1..classes {
        let value = logit(part, c);
        if value > largest {
            (best, largest) = (c, value);
        }
    }
    let of_label = logit(part, label) - largest;
    let mut total = 0.0;
    for c in 0..classes {
        let e = (logit(part, c) - largest).exp();
        part[at(c).0].0[at(c).1] = e;
        total += e;
    }
    for c in 0..classes {
        let u = &mut part[at(c).0].0[at(c).1];
        *u /= total;
        sums.class[c][1] += f64::from(*u);
    }
    sums.class[label][0] += f64::from(logit(part, label));
    sums.class[label][2] += 1.0;
    sums.entropy += f64::from(total.ln() - of_label);
    if best == label {
        sums.counts[label].tp += 1;
    } else {
        sums.counts[best].fp += 1;
        sums.counts[label].fn_ += 1;
    }
}

/// Dice sums per group (batch or samples) and class.
fn group_sums(l: &Layout, parts: &[Sums], batch_dice: bool) -> Vec<Vec<[f64; 3]>> {
    let groups = if batch_dice { 1 } else { l.batch };
    let mut out = vec![vec![[0.0; 3]; l.channels]; groups];
    for (group, parts) in out.iter_mut().zip(parts.chunks(parts.len() / groups)) {
        for part in parts {
            for (sum, class) in group.iter_mut().zip(&part.class) {
                for i in 0..3 {
                    sum[i] += class[i];
                }
            }
        }
    }
    out
}

/// The terms; afterwards `logits` holds their gradient times `scale`, or, without `scale`, the probabilities.
///
/// `target` is `[n, z, y, x]`; negative labels count as background; labels are below the number of classes.
pub(crate) fn dice_ce(
    logits: &mut Tensor,
    target: &[i16],
    options: &LossOptions,
    scale: Option<f64>,
) -> Terms {
    let l = logits.layout;
    let parts = softmax(logits, target);
    let groups = group_sums(&l, &parts, options.batch_dice);
    let first = usize::from(!options.dice_background).min(l.channels - 1);
    let fractions = (groups.len() * (l.channels - first)) as f64;
    let smooth = f64::from(options.smooth);
    let mut dice = 0.0;
    // Per group and class: the gradient of the Dice term towards u is a·v + b.
    let mut slopes = vec![vec![[0.0f32; 2]; l.channels]; groups.len()];
    let weight = f64::from(options.dice_weight) * scale.unwrap_or(0.0) / fractions;
    for (sums, slopes) in groups.iter().zip(&mut slopes) {
        for (&[uv, u, v], slope) in sums.iter().zip(slopes.iter_mut()).skip(first) {
            let (above, below) = (2.0 * uv + smooth, u + v + smooth);
            let clipped = below.max(SMALLEST_DENOMINATOR);
            dice -= above / clipped / fractions;
            let b = if below > SMALLEST_DENOMINATOR { above / (clipped * clipped) } else { 0.0 };
            *slope = [(-2.0 * weight / clipped) as f32, (weight * b) as f32];
        }
    }
    let voxels = target.len() as f64;
    let mut counts = vec![ClassCounts::default(); l.channels];
    let mut entropy = 0.0;
    for part in &parts {
        entropy += part.entropy;
        for (sum, count) in counts.iter_mut().zip(&part.counts) {
            sum.tp += count.tp;
            sum.fp += count.fp;
            sum.fn_ += count.fn_;
        }
    }
    if let Some(scale) = scale {
        let entropy_slope = f64::from(options.cross_entropy_weight) * scale / voxels;
        gradient(logits, target, &slopes, entropy_slope as f32);
    }
    Terms { dice, cross_entropy: entropy / voxels, counts }
}

/// Probabilities to gradients: d/dlogit_c = u_c (g_c − Σ u_k g_k) + e (u_c − v_c) with g = a·v + b.
fn gradient(probabilities: &mut Tensor, target: &[i16], slopes: &[Vec<[f32; 2]>], entropy: f32) {
    let l = probabilities.layout;
    let (lanes, classes) = (part_lanes(&l), l.channels);
    let voxels = lanes / l.blocks();
    let parts_per_group = l.len() / lanes / slopes.len();
    let parts = probabilities.data.par_chunks_mut(lanes).zip(target.par_chunks(voxels));
    parts.enumerate().for_each(|(i, (part, target))| {
        let slopes = &slopes[i / parts_per_group];
        for (voxel, label) in target.iter().enumerate() {
            let label = usize::try_from(*label).unwrap_or(0);
            let at = |c: usize| (c / LANES * voxels + voxel, c % LANES);
            let towards_u = |c: usize| slopes[c][1] + if c == label { slopes[c][0] } else { 0.0 };
            let mut mean = 0.0;
            for c in 0..classes {
                mean += part[at(c).0].0[at(c).1] * towards_u(c);
            }
            for c in 0..classes {
                let value = &mut part[at(c).0].0[at(c).1];
                let u = *value;
                let wrong = if c == label { u - 1.0 } else { u };
                *value = u * (towards_u(c) - mean) + entropy * wrong;
            }
        }
    });
}
