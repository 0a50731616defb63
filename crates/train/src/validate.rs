//! Full prediction of a fold's validation cases on the preprocessed grid.
//!
//! The score on the original grid is `nnu-infer` and `nnu-postprocess evaluate`; this one costs no resampling and
//! belongs to the model.

use crate::Inputs;
use artifact::case::OpenCase;
use artifact::previous::{self, OpenPrevious};
use ndarray::{Array3, Array4, ArrayView3, ArrayView4, Axis};
use net::UNet;
use net::sliding_window::{self, Activation, Window};
use stage::{Error, Run};

/// Mean Dice over the fold's validation cases per foreground class or region; NaN for those that occur in no case.
///
/// # Errors
/// If the network refuses an input, or a signal asked to stop.
pub fn validate(run: &Run, net: &mut UNet, inputs: &Inputs) -> Result<Vec<f64>, Error> {
    let (plan, cases) = (&inputs.plan, &inputs.validation);
    let progress = run.progress("validation cases", cases.len());
    let (classes, regions) = (plan.labels.len(), plan.region_classes());
    let mut sums = vec![(0.0, 0u32); plan.targets().len()];
    for (index, case) in cases.iter().enumerate() {
        let label = case.label().ok_or_else(|| {
            Error::input(format!("case {} has no label", case.record.body.case.id))
        })?;
        let seen = inputs.validation_previous.get(index);
        let probabilities = predict(run, net, inputs, case, seen)?;
        for (sum, dice) in sums.iter_mut().zip(dice(probabilities.view(), label, classes, &regions))
        {
            if !dice.is_nan() {
                *sum = (sum.0 + dice, sum.1 + 1);
            }
        }
        progress.add(1);
    }
    Ok(sums.iter().map(|&(sum, n)| if n == 0 { f64::NAN } else { sum / f64::from(n) }).collect())
}

/// Probabilities `[class or region, z, y, x]` of one case.
fn predict(
    run: &Run,
    net: &mut UNet,
    inputs: &Inputs,
    case: &OpenCase,
    seen: Option<&OpenPrevious>,
) -> Result<Array4<f32>, Error> {
    let plan = &inputs.plan;
    let (rules, never) = (&plan.recipe.inference, &plan.recipe.augmentation.never_mirror);
    let axes = plan.recipe.mirrored_in_prediction();
    let window = Window {
        patch: inputs.configuration.patch_shape,
        step: rules.step,
        gaussian_sigma: rules.gaussian_sigma,
        mirror_axes: case.record.body.original.mirror_axes(axes, never),
        averaged: rules.averaged,
        activation: Activation::of(plan),
        tile_batch: 1,
    };
    let both = seen.map(|seen| previous::input(case.image(), seen.classes(), plan.labels.len()));
    let image = both.as_ref().map_or_else(|| case.image(), |both| both.view());
    // The trained state lies in the last epoch's checkpoint: the same command predicts again.
    let mut tick = |_| match run.stop_requested() {
        true => Err(Error::stopped("while predicting the validation cases")
            .hint("the same command continues from here")),
        false => Ok(()),
    };
    sliding_window::predict_volume(net, image, &window, &mut tick)
}

/// `[class, z, y, x]` → class index; the first of equal values wins.
fn argmax(probabilities: ArrayView4<'_, f32>) -> Array3<i16> {
    let mut best = probabilities.index_axis(Axis(0), 0).to_owned();
    let mut class = Array3::<i16>::zeros(best.dim());
    for (k, plane) in (0i16..).zip(probabilities.outer_iter()).skip(1) {
        ndarray::Zip::from(&mut best).and(&mut class).and(plane).for_each(|best, class, &p| {
            if p > *best {
                (*best, *class) = (p, k);
            }
        });
    }
    class
}

/// Dice of each foreground class or region; NaN where it is in neither. Labels below 0 count as background, ignored
/// voxels don't count.
fn dice(
    probabilities: ArrayView4<'_, f32>,
    label: ArrayView3<'_, i16>,
    classes: usize,
    regions: &[Vec<usize>],
) -> Vec<f64> {
    let class = |l: i16| usize::try_from(l).unwrap_or(0);
    if regions.is_empty() {
        let mut counts = vec![[0u64; 3]; classes];
        for (&p, &l) in
            argmax(probabilities).iter().zip(label).filter(|(_, l)| class(**l) < classes)
        {
            let (p, l) = (class(p), class(l));
            counts[p][0] += 1;
            counts[l][1] += 1;
            counts[l][2] += u64::from(p == l);
        }
        return counts[1..].iter().map(score).collect();
    }
    let region = |(members, probability): (&Vec<usize>, ArrayView3<'_, f32>)| {
        let mut counts = [0u64; 3];
        for (&p, &l) in probability.iter().zip(label).filter(|(_, l)| class(**l) < classes) {
            let (found, there) = (p > 0.5, members.contains(&class(l)));
            counts[0] += u64::from(found);
            counts[1] += u64::from(there);
            counts[2] += u64::from(found && there);
        }
        score(&counts)
    };
    regions.iter().zip(probabilities.outer_iter()).map(region).collect()
}

fn score(&[predicted, reference, both]: &[u64; 3]) -> f64 {
    match predicted + reference {
        0 => f64::NAN,
        sum => 2.0 * both as f64 / sum as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// `[class, 1, 1, voxel]` that puts these classes first.
    fn sure(classes: usize, found: &[usize]) -> Array4<f32> {
        Array4::from_shape_fn((classes, 1, 1, found.len()), |(c, _, _, x)| {
            f32::from(u8::from(found[x] == c))
        })
    }

    fn near(found: &[f64], expected: &[f64]) {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15);
        assert!(near && found.len() == expected.len(), "{found:?}");
    }

    #[test]
    fn dice_counts_each_class_and_treats_outside_as_background() {
        let predicted = sure(4, &[0, 1, 1, 2, 0, 2]);
        // The last voxel is ignored: class 4 of 4.
        let label = array![[[-1i16, 1, 0, 2, 2, 4]]];
        let found = dice(predicted.view(), label.view(), 4, &[]);
        near(&found[..2], &[2.0 / 3.0, 2.0 / 3.0]);
        assert!(found[2].is_nan());
    }

    #[test]
    fn regions_are_scored_one_by_one() {
        let p = array![[[[0.9f32, 0.6, 0.5, 0.1]]], [[[0.2, 0.7, 0.9, 0.9]]]];
        let label = array![[[1i16, 2, 2, 0]]];
        near(&dice(p.view(), label.view(), 3, &[vec![1, 2], vec![2]]), &[0.8, 0.8]);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        let p = array![[[[0.4f32, 0.2]]], [[[0.4, 0.3]]], [[[0.2, 0.5]]]];
        assert_eq!(argmax(p.view()), array![[[0i16, 2]]]);
    }
}
