//! Full prediction of a fold's validation cases on the preprocessed grid.
//!
//! The score on the original grid is `nnu-infer` and `nnu-postprocess evaluate`; this one costs no resampling and
//! belongs to the model.

use artifact::case::OpenCase;
use artifact::plan::Plan;
use ndarray::{Array3, ArrayView3, ArrayView4, Axis};
use net::UNet;
use net::sliding_window::{self, Activation, Window};
use stage::{Error, Run};

/// Mean Dice per foreground class over the cases; NaN for classes that occur in none.
///
/// # Errors
/// If the network refuses an input, or a signal asked to stop.
pub fn validate(
    run: &Run,
    net: &mut UNet,
    plan: &Plan,
    patch: [usize; 3],
    cases: &[OpenCase],
) -> Result<Vec<f64>, Error> {
    let classes = plan.labels.len();
    let window = Window {
        patch,
        step: plan.recipe.inference.step,
        gaussian_sigma: plan.recipe.inference.gaussian_sigma,
        mirror_axes: if plan.recipe.inference.mirroring {
            plan.recipe.augmentation.mirror_axes.iter().copied().filter(|&a| patch[a] > 1).collect()
        } else {
            Vec::new()
        },
        averaged: plan.recipe.inference.averaged,
        activation: Activation::of(plan),
        tile_batch: 1,
    };
    let progress = run.progress("validation cases", cases.len());
    let mut sums = vec![(0.0, 0u32); classes - 1];
    for case in cases {
        let label = case.label().ok_or_else(|| {
            Error::input(format!("case {} has no label", case.record.body.case.id))
        })?;
        let mut forward = |x: ndarray::ArrayView5<'_, f32>,
                           out: ndarray::ArrayViewMut5<'_, f32>| {
            net.forward_into(x, out).map_err(|e| Error::failed(e.to_string()))
        };
        // The trained state lies in the last epoch's checkpoint: the same command predicts again.
        let mut tick = |_| match run.stop_requested() {
            true => Err(Error::stopped("while predicting the validation cases")
                .hint("the same command continues from here")),
            false => Ok(()),
        };
        let probabilities =
            sliding_window::predict(case.image(), classes, &window, &mut forward, &mut tick)?;
        for (sum, dice) in
            sums.iter_mut().zip(dice(argmax(probabilities.view()).view(), label, classes))
        {
            if !dice.is_nan() {
                *sum = (sum.0 + dice, sum.1 + 1);
            }
        }
        progress.add(1);
    }
    Ok(sums.iter().map(|&(sum, n)| if n == 0 { f64::NAN } else { sum / f64::from(n) }).collect())
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

/// Dice of each foreground class; NaN where it is in neither. Labels below 0 count as background.
fn dice(predicted: ArrayView3<'_, i16>, label: ArrayView3<'_, i16>, classes: usize) -> Vec<f64> {
    let mut counts = vec![[0u64; 3]; classes];
    for (&p, &l) in predicted.iter().zip(label) {
        let (p, l) = (usize::try_from(p).unwrap_or(0), usize::try_from(l).unwrap_or(0));
        counts[p][0] += 1;
        counts[l][1] += 1;
        if p == l {
            counts[p][2] += 1;
        }
    }
    let dice = |&[predicted, reference, both]: &[u64; 3]| match predicted + reference {
        0 => f64::NAN,
        sum => 2.0 * both as f64 / sum as f64,
    };
    counts[1..].iter().map(dice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn dice_counts_each_class_and_treats_outside_as_background() {
        let predicted = array![[[0i16, 1, 1, 2, 0]]];
        let label = array![[[-1i16, 1, 0, 2, 2]]];
        let found = dice(predicted.view(), label.view(), 4);
        assert!(
            (found[0] - 2.0 / 3.0).abs() < 1e-15 && (found[1] - 2.0 / 3.0).abs() < 1e-15,
            "{found:?}"
        );
        assert!(found[2].is_nan());
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        let p = array![[[[0.4f32, 0.2]]], [[[0.4, 0.3]]], [[[0.2, 0.5]]]];
        assert_eq!(argmax(p.view()), array![[[0i16, 2]]]);
    }
}
