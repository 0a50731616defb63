//! Intensity normalisation of one channel, in place. Statistics and arithmetic in f64, in a fixed order of summation.

use artifact::plan::{Intensity, Normalisation};
use rayon::prelude::*;

/// A standard deviation or range is never taken as smaller.
const SMALLEST_DIVISOR: f64 = 1e-8;

/// Voxels per partial sum. Partial sums are added in order, so the result is the same with any number of threads.
const PART: usize = 1 << 14;

/// Normalises the voxels of a channel; `inside`, one per voxel, is true where [`Normalisation::ZScoreMasked`] counts.
///
/// # Errors
/// If [`Normalisation::RgbTo01`] meets values outside 0..=255: one line, found and expected.
pub fn normalise(
    values: &mut [f32],
    scheme: Normalisation,
    intensity: &Intensity,
    inside: Option<&[bool]>,
) -> Result<(), String> {
    match scheme {
        Normalisation::None => {}
        Normalisation::Ct => {
            let (low, high) = (intensity.percentile_00_5, intensity.percentile_99_5);
            let sd = intensity.sd.max(SMALLEST_DIVISOR);
            each(values, |x| (x.max(low).min(high) - intensity.mean) / sd);
        }
        Normalisation::ZScore => {
            let (mean, sd) = moments(values, |_| true);
            let sd = sd.max(SMALLEST_DIVISOR);
            each(values, |x| (x - mean) / sd);
        }
        Normalisation::ZScoreMasked => {
            let inside = inside.ok_or("masked normalisation needs a mask")?;
            masked_z_score(values, inside);
        }
        Normalisation::RescaleTo01 => {
            let (low, high) = range(values);
            let width = (high - low).max(SMALLEST_DIVISOR);
            each(values, |x| (x - low) / width);
        }
        Normalisation::RgbTo01 => {
            let (low, high) = range(values);
            scheme.check_range(low as f32, high as f32)?;
            each(values, |x| x / 255.0);
        }
    }
    Ok(())
}

fn masked_z_score(values: &mut [f32], inside: &[bool]) {
    let (mean, sd) = moments(values, |i| inside[i]);
    let sd = sd.max(SMALLEST_DIVISOR);
    values.par_chunks_mut(PART).zip(inside.par_chunks(PART)).for_each(|(values, inside)| {
        for (x, &counts) in values.iter_mut().zip(inside) {
            *x = if counts { ((f64::from(*x) - mean) / sd) as f32 } else { 0.0 };
        }
    });
}

fn each(values: &mut [f32], f: impl Fn(f64) -> f64 + Sync) {
    values.par_chunks_mut(PART).for_each(|part| {
        part.iter_mut().for_each(|x| *x = f(f64::from(*x)) as f32);
    });
}

fn range(values: &[f32]) -> (f64, f64) {
    let (low, high) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    (low.into(), high.into())
}

/// Mean and population standard deviation of the voxels whose index counts; (0, 0) of none.
fn moments(values: &[f32], counts: impl Fn(usize) -> bool + Sync) -> (f64, f64) {
    // Equal values have no rounding errors, which a deviation of 0 would make visible: nothing divides by 10⁻⁸ but 0.
    if let Some(value) = only_value(values, &counts) {
        return (value.into(), 0.0);
    }
    let (n, total) = sum(values, &counts, |x| x);
    if n == 0 {
        return (0.0, 0.0);
    }
    let mean = total / n as f64;
    let (_, squares) = sum(values, &counts, |x| (x - mean) * (x - mean));
    (mean, (squares / n as f64).sqrt())
}

/// The value of all voxels that count, if they have only one.
fn only_value(values: &[f32], counts: &(impl Fn(usize) -> bool + Sync)) -> Option<f32> {
    let first = (0..values.len()).find(|&index| counts(index))?;
    let mut others = (first + 1..values.len()).filter(|&index| counts(index));
    others.all(|index| values[index] == values[first]).then_some(values[first])
}

/// How many voxels count, and the sum of `f` over them.
fn sum(
    values: &[f32],
    counts: &(impl Fn(usize) -> bool + Sync),
    f: impl Fn(f64) -> f64 + Sync,
) -> (u64, f64) {
    // Additions to one sum wait for each other: so many go on side by side.
    const SIDE: usize = 16;
    let part = |(index, part): (usize, &[f32])| {
        let (mut n, mut sums) = ([0u32; SIDE], [0.0; SIDE]);
        for (group, values) in part.chunks(SIDE).enumerate() {
            let first = index * PART + group * SIDE;
            for (i, &x) in values.iter().enumerate() {
                let counts = counts(first + i);
                n[i] += u32::from(counts);
                sums[i] += if counts { f(x.into()) } else { 0.0 };
            }
        }
        (n.iter().copied().map(u64::from).sum(), sums.iter().sum())
    };
    let parts: Vec<(u64, f64)> = values.par_chunks(PART).enumerate().map(part).collect();
    parts.iter().fold((0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENSITY: Intensity = Intensity {
        mean: 10.0,
        sd: 0.0,
        min: 0.0,
        median: 10.0,
        max: 20.0,
        percentile_00_5: 5.0,
        percentile_99_5: 15.0,
    };

    fn normalised(values: &[f32], scheme: Normalisation, inside: Option<&[bool]>) -> Vec<f32> {
        let mut values = values.to_vec();
        normalise(&mut values, scheme, &INTENSITY, inside).unwrap();
        values
    }

    #[test]
    fn a_constant_image_becomes_zero_not_nan() {
        for scheme in [Normalisation::ZScore, Normalisation::RescaleTo01] {
            assert_eq!(normalised(&[7.0; 5], scheme, None), [0.0; 5]);
        }
        assert_eq!(normalised(&[7.0; 2], Normalisation::ZScoreMasked, Some(&[false; 2])), [0.0; 2]);
        // Sums of these round, by much more than 10⁻⁸ for the second.
        for value in [0.1, 1e6 + 0.1, -3e38, 16_777_215.0] {
            let image = vec![value; 5 * PART + 3];
            for scheme in [Normalisation::ZScore, Normalisation::RescaleTo01] {
                assert!(normalised(&image, scheme, None).iter().all(|&v| v == 0.0), "{value}");
            }
            // Constant within the mask, with other values outside.
            let inside: Vec<bool> = (0..image.len()).map(|i| i % 7 != 0).collect();
            let image: Vec<f32> = inside.iter().map(|&i| if i { value } else { 5.0 }).collect();
            let out = normalised(&image, Normalisation::ZScoreMasked, Some(&inside));
            assert!(out.iter().all(|&v| v == 0.0), "{value}");
        }
    }

    #[test]
    fn statistics_do_not_depend_on_how_sums_are_split() {
        // Alternating 1e6 and 1e6 + 2 over several parts: mean 1e6 + 1, sd 1, all exact.
        let values: Vec<f32> = (0..5 * PART + 2).map(|i| 1e6 + 2.0 * (i % 2) as f32).collect();
        let out = normalised(&values, Normalisation::ZScore, None);
        assert!(out.iter().enumerate().all(|(i, &v)| v == if i % 2 == 0 { -1.0 } else { 1.0 }));
    }

    #[test]
    fn a_vanishing_sd_divides_by_1e_8() {
        let out = normalised(&[0.0, 10.0, 20.0], Normalisation::Ct, None);
        assert_eq!(out, [-5e8, 0.0, 5e8]);
    }

    #[test]
    fn colours_beyond_255_are_refused() {
        let mut values = [0.0, 256.0];
        let error = normalise(&mut values, Normalisation::RgbTo01, &INTENSITY, None).unwrap_err();
        assert_eq!(error, "values from 0 to 256, expected 0 to 255 (scheme rgb_to01)");
        assert_eq!(normalised(&[0.0, 255.0], Normalisation::RgbTo01, None), [0.0, 1.0]);
    }
}
