//! Dice and cross-entropy, and their gradient towards the logits.
//!
//! With u = softmax or sigmoid of the logits, v = target (0 or 1) and sums over annotated voxels (of the batch or of a
//! sample), per channel dc = (2 Σ u v + s) / max(Σ u + Σ v + s, 1e-8); loss = −w_dice · mean(dc) + w_ce · entropy.
//! Voxels are computed in f32, sixteen at a time; sums over more than some thousand in f64. What is particular to
//! classes and to regions lies in [`super::softmax`] and [`super::sigmoid`].

use super::lanes::{Lanes, LogSum, WIDTH};
use super::{sigmoid, softmax};
use crate::device::SimdLevel;
use crate::host::level::{Body, run};
use crate::loss::{ClassCounts, LossOptions, Outputs};
use rayon::prelude::*;

/// Samples, channels, voxels.
pub(crate) type Shape = [usize; 3];

/// Σ u v and Σ u of one channel, per lane.
#[derive(Debug, Clone, Default)]
pub(super) struct ChannelSums {
    pub uv: Lanes,
    pub u: Lanes,
}

/// Sums of one part of the voxels of one sample.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    pub channel: Vec<ChannelSums>,
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

/// Up to sixteen voxels of a part, channel by channel.
pub(super) struct Voxels<'a, 'b> {
    planes: &'a mut [&'b mut [f32]],
    at: usize,
    count: usize,
}

impl Voxels<'_, '_> {
    #[inline(always)]
    pub(super) fn channels(&self) -> usize {
        self.planes.len()
    }

    /// Zeros behind the last voxel.
    #[inline(always)]
    pub(super) fn get(&self, channel: usize) -> Lanes {
        let from = &self.planes[channel][self.at..self.at + self.count];
        match from.try_into() {
            Ok(lanes) => lanes,
            Err(_) => {
                let mut lanes = [0.0; WIDTH];
                lanes[..from.len()].copy_from_slice(from);
                lanes
            }
        }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, channel: usize, values: &Lanes) {
        let to = &mut self.planes[channel][self.at..self.at + self.count];
        to.copy_from_slice(&values[..to.len()]);
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

/// Voxels of a part: enough for a task, few enough for sums in f32.
const PART: usize = 4096;

/// The channels of each part of the voxels, sample by sample.
fn parts(values: &mut [f32], [_, channels, voxels]: Shape) -> Vec<Vec<&mut [f32]>> {
    let mut list = Vec::new();
    for sample in values.chunks_mut(channels * voxels) {
        let mut planes: Vec<_> = sample.chunks_mut(voxels).map(|p| p.chunks_mut(PART)).collect();
        for _ in 0..voxels.div_ceil(PART) {
            list.push(planes.iter_mut().filter_map(Iterator::next).collect());
        }
    }
    list
}

/// The labels of each part.
fn part_labels(target: &[i16], voxels: usize) -> Vec<&[i16]> {
    target.chunks(voxels).flat_map(|sample| sample.chunks(PART)).collect()
}

/// Classes of up to sixteen voxels: negative labels are background; −1 where ignored, and behind the last voxel.
#[inline(always)]
fn classes(labels: &[i16], ignore: Option<i16>) -> [i32; WIDTH] {
    let mut out = [-1; WIDTH];
    let ignore = ignore.map_or(i32::MIN, i32::from);
    for (class, &label) in out.iter_mut().zip(labels) {
        let label = i32::from(label);
        *class = if label == ignore { -1 } else { label.max(0) };
    }
    out
}

/// Turns the logits of a part into probabilities, 0 where ignored, and sums up.
struct Forward<'a, 'b> {
    planes: &'a mut [&'b mut [f32]],
    target: &'a [i16],
    ignore: Option<i16>,
    rule: &'a Rule,
}

impl Body for Forward<'_, '_> {
    type Output = Sums;
    #[inline(always)]
    fn run(self) -> Sums {
        let channels = self.planes.len();
        let mut sums = Sums {
            channel: vec![ChannelSums::default(); channels],
            counts: vec![ClassCounts::default(); channels],
            entropy: 0.0,
            annotated: 0,
        };
        let mut logarithms = LogSum::new();
        for (i, labels) in self.target.chunks(WIDTH).enumerate() {
            let (at, count) = (i * WIDTH, labels.len());
            let labels = classes(labels, self.ignore);
            let mut voxels = Voxels { planes: &mut *self.planes, at, count };
            match self.rule {
                Rule::Classes => {
                    softmax::forward(&mut voxels, &labels, &mut sums, &mut logarithms);
                }
                Rule::Regions(members) => {
                    sigmoid::forward(&mut voxels, &labels, members, &mut sums, &mut logarithms);
                }
            }
        }
        sums.entropy += logarithms.total();
        sums
    }
}

/// Turns the probabilities of a part into gradients.
struct Backward<'a, 'b> {
    planes: &'a mut [&'b mut [f32]],
    target: &'a [i16],
    ignore: Option<i16>,
    rule: &'a Rule,
    slopes: Slopes<'a>,
}

impl Body for Backward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (i, labels) in self.target.chunks(WIDTH).enumerate() {
            let (at, count) = (i * WIDTH, labels.len());
            let labels = classes(labels, self.ignore);
            let mut voxels = Voxels { planes: &mut *self.planes, at, count };
            match self.rule {
                Rule::Classes => softmax::backward(&mut voxels, &labels, &self.slopes),
                Rule::Regions(members) => {
                    sigmoid::backward(&mut voxels, &labels, members, &self.slopes);
                }
            }
        }
    }
}

/// Dice sums per group (batch or samples) and channel.
fn group_sums(shape: Shape, parts: &[Sums], batch_dice: bool) -> Vec<Vec<[f64; 3]>> {
    let [batch, channels, _] = shape;
    let groups = if batch_dice { 1 } else { batch };
    let mut out = vec![vec![[0.0; 3]; channels]; groups];
    let total = |lanes: &Lanes| lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
    for (group, parts) in out.iter_mut().zip(parts.chunks(parts.len() / groups)) {
        for part in parts {
            for ((sum, channel), count) in group.iter_mut().zip(&part.channel).zip(&part.counts) {
                sum[0] += total(&channel.uv);
                sum[1] += total(&channel.u);
                sum[2] += (count.tp + count.fn_) as f64;
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

/// The terms; afterwards `logits` (`[sample][channel][voxel]`) holds their gradient times `scale`, or, without `scale`, the
/// probabilities.
///
/// `target` is `[sample][voxel]`; negative labels count as background; labels are below the number of classes, or the
/// ignore label.
pub(crate) fn loss(
    level: SimdLevel,
    logits: &mut [f32],
    shape: Shape,
    target: &[i16],
    options: &LossOptions,
    scale: Option<f64>,
) -> Terms {
    let [batch, channels, voxels] = shape;
    assert_eq!((logits.len(), target.len()), (batch * channels * voxels, batch * voxels), "loss");
    let ignore = options.targets.ignore;
    let (rule, first) = match &options.targets.outputs {
        Outputs::Classes => (Rule::Classes, usize::from(!options.dice_background)),
        Outputs::Regions { classes, members } => {
            assert_eq!(members.len(), channels, "regions");
            (Rule::Regions(sigmoid::Members::new(*classes, members)), 0)
        }
    };
    let rule = &rule;
    let (mut parts, labels) = (parts(logits, shape), part_labels(target, voxels));
    let both = parts.par_iter_mut().zip(&labels);
    let sums: Vec<Sums> =
        both.map(|(planes, target)| run(level, Forward { planes, target, ignore, rule })).collect();
    let groups = group_sums(shape, &sums, options.batch_dice);
    let weight = f64::from(options.dice_weight) * scale.unwrap_or(0.0);
    let (dice, slopes) = dice(&groups, first.min(channels - 1), f64::from(options.smooth), weight);
    let mut counts = vec![ClassCounts::default(); channels];
    let (mut entropy, mut annotated) = (0.0, 0);
    for part in &sums {
        entropy += part.entropy;
        annotated += part.annotated;
        for (sum, count) in counts.iter_mut().zip(&part.counts) {
            sum.tp += count.tp;
            sum.fp += count.fp;
            sum.fn_ += count.fn_;
        }
    }
    let divisor = divisor(rule, ignore, annotated, channels);
    if let Some(scale) = scale {
        let entropy = (f64::from(options.cross_entropy_weight) * scale / divisor) as f32;
        let per_group = parts.len() / slopes.len();
        let both = parts.par_iter_mut().zip(&labels).enumerate();
        both.for_each(|(i, (planes, target))| {
            let slopes = Slopes { dice: &slopes[i / per_group], entropy };
            run(level, Backward { planes, target, ignore, rule, slopes });
        });
    }
    Terms { dice, cross_entropy: entropy / divisor, counts }
}

/// Labels `[n, z, y, x]` at a coarser resolution: the voxel at each coarse voxel's centre, the upper one of two (torch's
/// `nearest-exact`).
pub(crate) fn nearest(
    from: &[i16],
    size: [usize; 3],
    batch: usize,
    small: [usize; 3],
    to: &mut Vec<i16>,
) {
    let ([d, h, w], [sd, sh, sw]) = (size, small);
    let centre = |i: usize, small: usize, large: usize| (2 * i + 1) * large / (2 * small);
    to.resize(batch * sd * sh * sw, 0);
    to.par_chunks_mut(sh * sw).enumerate().for_each(|(plane, out)| {
        let z = plane / sd * d + centre(plane % sd, sd, d);
        for (i, value) in out.iter_mut().enumerate() {
            let (y, x) = (centre(i / sw, sh, h), centre(i % sw, sw, w));
            *value = from[(z * h + y) * w + x];
        }
    });
}
