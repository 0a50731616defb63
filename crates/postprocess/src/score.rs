//! Overlap of a predicted label map with the reference: counts first, scores from the counts.
//!
//! Dice = 2TP / (2TP + FP + FN), IoU = TP / (TP + FP + FN), both NaN where the class or region is in neither map. A mean
//! is over the values that are numbers, and NaN if there is none; this goes for the mean over classes too, so that a
//! class which no case has doesn't hide the others. Voxels with the ignore label in the reference are in no count.

use crate::scheme::{Scheme, Targets};
use artifact::Label;
use artifact::summary::{CaseScores, ClassScores, Mean, Summary};
use ndarray::ArrayView3;
use std::collections::{BTreeMap, BTreeSet};

/// Largest value that a label map may hold; labels are i16 in preprocessed cases.
const LARGEST_VALUE: usize = i16::MAX as usize;

/// Voxels of one class or region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// In the prediction.
    pub predicted: u64,
    /// In the reference.
    pub reference: u64,
    /// In both.
    pub both: u64,
}

impl Overlap {
    /// 2TP / (2TP + FP + FN).
    pub fn dice(self) -> f64 {
        2.0 * self.both as f64 / (self.predicted + self.reference) as f64
    }

    /// TP / (TP + FP + FN).
    pub fn iou(self) -> f64 {
        self.both as f64 / (self.predicted + self.reference - self.both) as f64
    }
}

/// How often each pair of numbers stands in the same voxel of prediction and reference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Voxels by (predicted, reference).
    pub pairs: BTreeMap<(i32, i32), u64>,
}

/// Which of the two maps a fault is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The prediction.
    Prediction,
    /// The reference.
    Reference,
}

impl Counts {
    /// Compares two label maps `[z, y, x]` of the same shape in one pass.
    ///
    /// # Errors
    /// The map and its first value that isn't a whole number from 0 to 32767.
    ///
    /// # Panics
    /// If the shapes differ; callers compare the geometries, which gives the better message.
    pub fn of(
        predicted: ArrayView3<'_, f32>,
        reference: ArrayView3<'_, f32>,
    ) -> Result<Self, (Side, f32)> {
        let mut counts = Self::default();
        counts.add(predicted, reference, |p, r| {
            let predicted = index(p).ok_or((Side::Prediction, p))?;
            Ok((predicted, index(r).ok_or((Side::Reference, r))?))
        })?;
        Ok(counts)
    }

    /// Compares two label maps of bytes `[z, y, x]`, C order, of the same shape. Voxels are looked at many at a time: most
    /// of them are like their neighbours.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn of_bytes(predicted: ArrayView3<'_, u8>, reference: ArrayView3<'_, u8>) -> Self {
        const TOGETHER: usize = 64;
        assert_eq!(predicted.dim(), reference.dim(), "label maps of different shapes");
        let [predicted, reference] = [&predicted, &reference]
            .map(|map| map.as_slice().expect("a volume of bytes is in standard layout"));
        let mut counts = vec![0u64; 1 << 16];
        let at = |p: u8, r: u8| usize::from(p) << 8 | usize::from(r);
        let (ps, rs) = (predicted.chunks_exact(TOGETHER), reference.chunks_exact(TOGETHER));
        for (&p, &r) in ps.remainder().iter().zip(rs.remainder()) {
            counts[at(p, r)] += 1;
        }
        for (p, r) in ps.zip(rs) {
            let differ = |values: &[u8]| values.iter().fold(0, |all, v| all | (v ^ values[0]));
            if differ(p) | differ(r) == 0 {
                counts[at(p[0], r[0])] += TOGETHER as u64;
                continue;
            }
            for (&p, &r) in p.iter().zip(r) {
                counts[at(p, r)] += 1;
            }
        }
        let occurring = counts.into_iter().enumerate().filter(|(_, n)| *n > 0);
        let pairs = occurring.map(|(at, n)| (((at >> 8) as i32, (at & 255) as i32), n));
        Self { pairs: pairs.collect() }
    }

    /// Adds voxels of class indices `[z, y, x]`, such as a slab of a volume.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn add_classes(&mut self, predicted: ArrayView3<'_, i16>, reference: ArrayView3<'_, i16>) {
        let pair = |p: i16, r: i16| Ok::<_, ()>((i32::from(p), i32::from(r)));
        let Ok(()) = self.add(predicted, reference, pair) else { return };
    }

    /// Equal neighbours are counted together: the map is asked once per change, not once per voxel.
    fn add<T: Copy + PartialEq, E>(
        &mut self,
        predicted: ArrayView3<'_, T>,
        reference: ArrayView3<'_, T>,
        pair: impl Fn(T, T) -> Result<(i32, i32), E>,
    ) -> Result<(), E> {
        assert_eq!(predicted.dim(), reference.dim(), "label maps of different shapes");
        let mut run: Option<(T, T, u64)> = None;
        for (&p, &r) in predicted.iter().zip(reference) {
            match &mut run {
                Some((a, b, n)) if *a == p && *b == r => *n += 1,
                _ => {
                    if let Some((a, b, n)) = run.replace((p, r, 1)) {
                        *self.pairs.entry(pair(a, b)?).or_insert(0) += n;
                    }
                }
            }
        }
        if let Some((a, b, n)) = run {
            *self.pairs.entry(pair(a, b)?).or_insert(0) += n;
        }
        Ok(())
    }

    /// The map and the value, if one of them holds a value that isn't a label; the reference may hold the ignore label.
    pub fn undeclared(&self, scheme: &Scheme) -> Option<(Side, i32)> {
        let known = |value: i32| scheme.labels.iter().any(|l| l.value == value);
        let ignored = |value: i32| scheme.ignore.as_ref().is_some_and(|l| l.value == value);
        self.pairs.keys().find_map(|&(p, r)| {
            if !known(r) && !ignored(r) {
                return Some((Side::Reference, r));
            }
            (!known(p)).then_some((Side::Prediction, p))
        })
    }

    /// Voxels that count.
    pub fn voxels(&self, targets: &Targets) -> u64 {
        self.counting(targets).map(|(_, n)| n).sum()
    }

    /// Overlap of every target.
    pub fn overlaps(&self, targets: &Targets) -> Vec<Overlap> {
        let mut at: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (target, members) in targets.members.iter().enumerate() {
            for &member in members {
                at.entry(member).or_default().push(target);
            }
        }
        let none = Vec::new();
        let of = |number: &i32| at.get(number).unwrap_or(&none);
        let mut overlaps = vec![Overlap::default(); targets.len()];
        for ((p, r), n) in self.counting(targets) {
            for &target in of(&p) {
                overlaps[target].predicted += n;
                overlaps[target].both += if of(&r).contains(&target) { n } else { 0 };
            }
            for &target in of(&r) {
                overlaps[target].reference += n;
            }
        }
        overlaps
    }

    fn counting(&self, targets: &Targets) -> impl Iterator<Item = ((i32, i32), u64)> {
        let counts = self.pairs.iter().map(|(&pair, &n)| (pair, n));
        counts.filter(|((_, r), _)| targets.ignore != Some(*r))
    }

    /// Scores of every foreground class or region; a voxel has `voxel_ml`.
    pub fn scores(&self, scheme: &Scheme, voxel_ml: f64) -> Vec<ClassScores> {
        let targets = scheme.by_value();
        let voxels = self.voxels(&targets);
        let overlaps = self.overlaps(&targets);
        let score = |(label, overlap): (&str, Overlap)| {
            let Overlap { predicted, reference, both } = overlap;
            ClassScores {
                label: label.into(),
                dice: overlap.dice(),
                iou: overlap.iou(),
                true_positives: both,
                false_positives: predicted - both,
                false_negatives: reference - both,
                true_negatives: voxels + both - predicted - reference,
                predicted_ml: predicted as f64 * voxel_ml,
                reference_ml: reference as f64 * voxel_ml,
            }
        };
        scheme.names().into_iter().zip(overlaps).map(score).collect()
    }
}

/// Volume of a voxel.
pub fn voxel_ml(spacing_mm: [f64; 3]) -> f64 {
    spacing_mm.iter().product::<f64>() / 1000.0
}

/// A label value as a number.
fn index(value: f32) -> Option<i32> {
    // `as` saturates and makes 0 of NaN, neither of which equals the value then.
    let whole = value as usize;
    (whole as f32 == value && whole <= LARGEST_VALUE).then_some(whole as i32)
}

/// Labels named after the values that occur, where neither a plan nor a record tells their names.
pub fn labels_found<'a>(cases: impl IntoIterator<Item = &'a Counts>) -> Vec<Label> {
    let numbers = cases.into_iter().flat_map(|c| c.pairs.keys()).flat_map(|&(p, r)| [p, r]);
    let values: BTreeSet<i32> = numbers.chain([0]).collect();
    let name = |value: i32| if value == 0 { "background".into() } else { value.to_string() };
    values.into_iter().map(|value| Label { name: name(value), value }).collect()
}

/// The summary of cases, sorted by id.
pub fn summarise(scheme: &Scheme, mut cases: Vec<(String, Vec<ClassScores>)>) -> Summary {
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    let cases: Vec<CaseScores> =
        cases.into_iter().map(|(case, classes)| CaseScores { case, classes }).collect();
    let mean_by_class = |value: fn(&ClassScores) -> f64| -> Vec<f64> {
        (0..scheme.names().len())
            .map(|class| mean(cases.iter().map(|c| value(&c.classes[class]))))
            .collect()
    };
    let (dice, iou) = (mean_by_class(|c| c.dice), mean_by_class(|c| c.iou));
    let means = Mean {
        foreground_dice: mean(dice.iter().copied()),
        foreground_iou: mean(iou.iter().copied()),
        dice,
        iou,
    };
    let Scheme { labels, regions, ignore } = scheme.clone();
    Summary { mean: means, labels, regions, ignore, cases }
}

/// Mean Dice of every target over cases, each given by its overlaps.
pub fn mean_dice<'a>(
    targets: usize,
    cases: impl IntoIterator<Item = &'a Vec<Overlap>> + Clone,
) -> Vec<f64> {
    let of = |target: usize| mean(cases.clone().into_iter().map(|case| case[target].dice()));
    (0..targets).map(of).collect()
}

/// Mean of the values that are numbers; NaN if there is none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let numbers = values.into_iter().filter(|v| !v.is_nan());
    let (sum, count) = numbers.fold((0.0, 0u64), |(sum, count), v| (sum + v, count + 1));
    sum / count as f64
}
