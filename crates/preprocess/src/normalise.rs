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
            if low < 0.0 || high > 255.0 {
                return Err(format!(
                    "values from {low} to {high}, expected 0 to 255 (scheme rgb_to_01)"
                ));
            }
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
    let sum = |f: &(dyn Fn(f64) -> f64 + Sync)| -> (u64, f64) {
        let parts: Vec<(u64, f64)> = values
            .par_chunks(PART)
            .enumerate()
            .map(|(p, part)| {
                let inside = part.iter().enumerate().filter(|(i, _)| counts(p * PART + i));
                inside.fold((0, 0.0), |(n, sum), (_, &x)| (n + 1, sum + f(x.into())))
            })
            .collect();
        parts.iter().fold((0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let (n, total) = sum(&|x| x);
    if n == 0 {
        return (0.0, 0.0);
    }
    let mean = total / n as f64;
    let (_, squares) = sum(&|x| (x - mean) * (x - mean));
    (mean, (squares / n as f64).sqrt())
}
