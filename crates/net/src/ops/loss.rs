//! Dice and cross-entropy, and their gradient towards the logits.
//!
//! With u = softmax or sigmoid of the logits, v = target (0 or 1) and sums over annotated voxels (of the batch or of a
//! sample), per channel dc = (2 Σ u v + s) / max(Σ u + Σ v + s, 1e-8); loss = −w_dice · mean(dc) + w_ce · entropy.
//! Voxels are computed in f32, all sums in f64. What is particular to classes and to regions lies in [`super::softmax`]
//! and [`super::sigmoid`].

use super::{sigmoid, softmax};
use crate::loss::{ClassCounts, LossOptions, Outputs};
use crate::tensor::{LANES, Lane, Layout, Tensor};
use rayon::prelude::*;

/// Sums of one part of the voxels of one sample.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    /// Σ u v, Σ u, Σ v per channel.
    pub channel: Vec<[f64; 3]>,
    pub counts: Vec<ClassCounts>,
    pub entropy: f64,
    pub annotated: u64,
}

/// The terms of one resolution.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Terms {
    pub dice: f64,
    pub cross_entropy: f64,
    pub counts: Vec<ClassCounts>,
}

/// The channels of one voxel in a part of a tensor.
pub(super) struct Voxels<'a> {
    pub part: &'a mut [Lane],
    /// Voxels in the part.
    pub count: usize,
}

impl Voxels<'_> {
    #[inline(always)]
    pub(super) fn get(&self, voxel: usize, channel: usize) -> f32 {
        self.part[channel / LANES * self.count + voxel].0[channel % LANES]
    }

    #[inline(always)]
    pub(super) fn set(&mut self, voxel: usize, channel: usize, value: f32) {
        self.part[channel / LANES * self.count + voxel].0[channel % LANES] = value;
    }
}

/// How the loss changes with u of a channel: a·v + b for the Dice; and the factor of the cross-entropy.
pub(super) struct Slopes<'a> {
    pub dice: &'a [[f32; 2]],
    pub entropy: f32,
}

/// What a label says, by kind of output.
enum Rule {
    Classes,
    Regions(sigmoid::Members),
}

/// Denominators below this are taken for this.
const SMALLEST_DENOMINATOR: f64 = 1e-8;

/// Parts whose voxels lie one behind the other in every block: planes when the channels fit one block, else samples.
fn part_lanes(l: &Layout) -> usize {
    assert_eq!(l.halo, [0; 3], "logits have no halo");
    if l.blocks() == 1 { l.plane_pitch() } else { l.sample_pitch() }
}

/// Turns logits into probabilities, 0 where ignored, and returns the sums part by part.
fn probabilities(
    logits: &mut Tensor,
    target: &[i16],
    ignore: Option<i16>,
    rule: &Rule,
) -> Vec<Sums> {
    let l = logits.layout;
    let (lanes, channels) = (part_lanes(&l), l.channels);
    let count = lanes / l.blocks();
    assert_eq!(target.len(), l.batch * l.voxels(), "target");
    let parts = logits.data.par_chunks_mut(lanes).zip(target.par_chunks(count));
    parts
        .map(|(part, target)| {
            let mut voxels = Voxels { part, count };
            let mut sums = Sums {
                channel: vec![[0.0; 3]; channels],
                counts: vec![ClassCounts::default(); channels],
                entropy: 0.0,
                annotated: 0,
            };
            for (voxel, &label) in target.iter().enumerate() {
                if Some(label) == ignore {
                    (0..channels).for_each(|c| voxels.set(voxel, c, 0.0));
                    continue;
                }
                sums.annotated += 1;
                let class = usize::try_from(label).unwrap_or(0);
                match rule {
                    Rule::Classes => softmax::forward(&mut voxels, voxel, class, &mut sums),
                    Rule::Regions(members) => {
                        sigmoid::forward(&mut voxels, voxel, members.of(class), &mut sums);
                    }
                }
            }
            sums
        })
        .collect()
}

/// Dice sums per group (batch or samples) and channel.
fn group_sums(l: &Layout, parts: &[Sums], batch_dice: bool) -> Vec<Vec<[f64; 3]>> {
    let groups = if batch_dice { 1 } else { l.batch };
    let mut out = vec![vec![[0.0; 3]; l.channels]; groups];
    for (group, parts) in out.iter_mut().zip(parts.chunks(parts.len() / groups)) {
        for part in parts {
            for (sum, channel) in group.iter_mut().zip(&part.channel) {
                for i in 0..3 {
                    sum[i] += channel[i];
                }
            }
        }
    }
    out
}

/// The Dice term from channel `first` on, and its slopes per group and channel times `weight`.
fn dice(
    groups: &[Vec<[f64; 3]>],
    first: usize,
    smooth: f64,
    weight: f64,
) -> (f64, Vec<Vec<[f32; 2]>>) {
    let channels = groups[0].len();
    let fractions = (groups.len() * (channels - first)) as f64;
    let mut term = 0.0;
    let mut slopes = vec![vec![[0.0f32; 2]; channels]; groups.len()];
    for (sums, slopes) in groups.iter().zip(&mut slopes) {
        for (&[uv, u, v], slope) in sums.iter().zip(slopes.iter_mut()).skip(first) {
            let (above, below) = (2.0 * uv + smooth, u + v + smooth);
            let clipped = below.max(SMALLEST_DENOMINATOR);
            term -= above / clipped / fractions;
            let b = if below > SMALLEST_DENOMINATOR { above / (clipped * clipped) } else { 0.0 };
            let weight = weight / fractions;
            *slope = [(-2.0 * weight / clipped) as f32, (weight * b) as f32];
        }
    }
    (term, slopes)
}

/// What the summed entropy is divided by; see [`crate::Loss::cross_entropy`].
fn divisor(rule: &Rule, ignore: Option<i16>, annotated: u64, channels: usize) -> f64 {
    let voxels = annotated as f64;
    match (rule, ignore) {
        (Rule::Regions(_), None) => voxels * channels as f64,
        // Without an annotated voxel the sum is 0; any divisor will do.
        _ => voxels.max(1.0),
    }
}

/// The terms; afterwards `logits` holds their gradient times `scale`, or, without `scale`, the probabilities.
///
/// `target` is `[n, z, y, x]`; negative labels count as background; labels are below the number of classes, or the
/// ignore label.
pub(crate) fn loss(
    logits: &mut Tensor,
    target: &[i16],
    options: &LossOptions,
    scale: Option<f64>,
) -> Terms {
    let l = logits.layout;
    let ignore = options.targets.ignore;
    let (rule, first) = match &options.targets.outputs {
        Outputs::Classes => (Rule::Classes, usize::from(!options.dice_background)),
        Outputs::Regions { classes, members } => {
            assert_eq!(members.len(), l.channels, "regions");
            (Rule::Regions(sigmoid::Members::new(*classes, members)), 0)
        }
    };
    let parts = probabilities(logits, target, ignore, &rule);
    let groups = group_sums(&l, &parts, options.batch_dice);
    let weight = f64::from(options.dice_weight) * scale.unwrap_or(0.0);
    let (dice, slopes) =
        dice(&groups, first.min(l.channels - 1), f64::from(options.smooth), weight);
    let mut counts = vec![ClassCounts::default(); l.channels];
    let (mut entropy, mut annotated) = (0.0, 0);
    for part in &parts {
        entropy += part.entropy;
        annotated += part.annotated;
        for (sum, count) in counts.iter_mut().zip(&part.counts) {
            sum.tp += count.tp;
            sum.fp += count.fp;
            sum.fn_ += count.fn_;
        }
    }
    let divisor = divisor(&rule, ignore, annotated, l.channels);
    if let Some(scale) = scale {
        let entropy_slope = f64::from(options.cross_entropy_weight) * scale / divisor;
        gradient(logits, target, ignore, &rule, &slopes, entropy_slope as f32);
    }
    Terms { dice, cross_entropy: entropy / divisor, counts }
}

/// Probabilities to gradients; ignored voxels are 0 already.
fn gradient(
    probabilities: &mut Tensor,
    target: &[i16],
    ignore: Option<i16>,
    rule: &Rule,
    slopes: &[Vec<[f32; 2]>],
    entropy: f32,
) {
    let l = probabilities.layout;
    let (lanes, channels) = (part_lanes(&l), l.channels);
    let count = lanes / l.blocks();
    let parts_per_group = l.len() / lanes / slopes.len();
    let parts = probabilities.data.par_chunks_mut(lanes).zip(target.par_chunks(count));
    parts.enumerate().for_each(|(i, (part, target))| {
        let mut voxels = Voxels { part, count };
        let slopes = Slopes { dice: &slopes[i / parts_per_group][..channels], entropy };
        for (voxel, &label) in target.iter().enumerate() {
            if Some(label) == ignore {
                continue;
            }
            let class = usize::try_from(label).unwrap_or(0);
            match rule {
                Rule::Classes => softmax::backward(&mut voxels, voxel, class, &slopes),
                Rule::Regions(members) => {
                    sigmoid::backward(&mut voxels, voxel, members.of(class), &slopes);
                }
            }
        }
    });
}
