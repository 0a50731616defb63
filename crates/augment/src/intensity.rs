//! Transforms of intensities, one channel at a time.

use crate::blur::blur;
use crate::counter::{self, split_logarithm};
use crate::draws::{Draws, Noise};
use crate::low_resolution::low_resolution;
use crate::settings::Settings;
use ndarray::{ArrayViewMut3, ArrayViewMut4};

/// All that fire, on `image` `[channel, z, y, x]`, in the order of nnU-Net's list: noise, blur, brightness, contrast, low
/// resolution, gamma of the negated image, gamma.
pub fn apply(draws: &Draws, settings: &Settings, image: &mut ArrayViewMut4<'_, f32>) {
    let retain = settings.recipe.gamma_retain_statistics;
    for (c, mut channel) in image.outer_iter_mut().enumerate() {
        if let Some(n) = draws.noise {
            noise(channel.view_mut(), n, c);
        }
        if let Some(widths) = draws.blur.as_ref().and_then(|b| b[c]) {
            blur(channel.view_mut(), widths);
        }
        if let Some(factors) = &draws.brightness {
            brightness(channel.view_mut(), factors[c]);
        }
        if let Some(factors) = &draws.contrast {
            contrast(channel.view_mut(), factors[c]);
        }
        if let Some(zoom) = draws.low_resolution.as_ref().and_then(|l| l[c]) {
            low_resolution(channel.view_mut(), zoom, settings.frame.across());
        }
        if let Some(exponents) = &draws.inverted_gamma {
            channel.mapv_inplace(|x| -x);
            gamma(channel.view_mut(), exponents[c], retain);
            channel.mapv_inplace(|x| -x);
        }
        if let Some(exponents) = &draws.gamma {
            gamma(channel.view_mut(), exponents[c], retain);
        }
    }
}

/// Adds independent normal values of mean 0, others for each `index` of a channel.
pub fn noise(mut channel: ArrayViewMut3<'_, f32>, noise: Noise, index: usize) {
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    counter::add_normal(values, noise.sigma as f32, noise.seed, index);
}

/// Multiplies one channel.
pub fn brightness(mut channel: ArrayViewMut3<'_, f32>, factor: f64) {
    let factor = factor as f32;
    channel.mapv_inplace(|x| factor * x);
}

/// x′ = (x − mean) · `factor` + mean over one channel, bounded by its old extrema.
pub fn contrast(mut channel: ArrayViewMut3<'_, f32>, factor: f64) {
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    let (low, high) = extrema(values);
    let (mean, factor) = (mean(values) as f32, factor as f32);
    for x in values {
        *x = ((*x - mean) * factor + mean).clamp(low, high);
    }
}

/// x′ = ((x − min) / range)^`gamma` · range + min over one channel; with `retain_statistics` the channel's mean and
/// standard deviation are restored afterwards. A channel of one value stays as it is.
pub fn gamma(mut channel: ArrayViewMut3<'_, f32>, gamma: f64, retain_statistics: bool) {
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    let (low, high) = extrema(values);
    let range = high - low;
    if range.is_nan() || range <= 0.0 {
        return;
    }
    let before = retain_statistics.then(|| statistics(values));
    let exponent = gamma as f32;
    for x in values.iter_mut() {
        *x = power((*x - low) / range, exponent) * range + low;
    }
    if let Some((mean, sd)) = before {
        let (new_mean, new_sd) = statistics(values);
        let factor = if new_sd > 0.0 { sd / new_sd } else { 1.0 };
        for x in values {
            *x = ((f64::from(*x) - new_mean) * factor + mean) as f32;
        }
    }
}

/// `x`^`exponent` for `x` in 0..=1, within 5e-7; branchless, so that many are computed at once.
///
/// log₂ from [`split_logarithm`], 2^y from the whole part of y and a polynomial.
#[inline]
fn power(x: f32, exponent: f32) -> f32 {
    // Below the smallest normal number the result counts as 0.
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    // The mantissa between √½ and √2.
    let (whole, rest) = split_logarithm(bits);
    let y = exponent * (whole + LOG2_E * rest);
    // 2^y = 2^n · 2^f, f in −½..½; adding and subtracting 1.5 · 2²³ rounds.
    let y = y.max(-126.0);
    let rounded = y + ROUND;
    let n = rounded - ROUND;
    let f = (y - n) * LN_2;
    let fraction = 1.0
        + f * (1.0
            + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0)))));
    // The whole number stands in the lowest bits of the sum.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let result = fraction * scale;
    if x < f32::MIN_POSITIVE { 0.0 } else { result }
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN_2: f32 = std::f32::consts::LN_2;
const ROUND: f32 = 12_582_912.0;

/// Values that are summed side by side, in a fixed order whatever the machine.
const LANES: usize = 16;

fn extrema(values: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            low[i] = if chunk[i] < low[i] { chunk[i] } else { low[i] };
            high[i] = if chunk[i] > high[i] { chunk[i] } else { high[i] };
        }
    }
    let low = low.into_iter().chain(rest.iter().copied()).fold(f32::INFINITY, f32::min);
    let high = high.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max);
    (low, high)
}

/// Sum of a function of the values, in f64.
fn sum(values: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|&x| of(f64::from(x))).sum();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += of(f64::from(chunk[i]));
        }
    }
    sums.into_iter().sum::<f64>() + rest
}

fn mean(values: &[f32]) -> f64 {
    sum(values, |x| x) / values.len() as f64
}

/// Mean and population standard deviation.
fn statistics(values: &[f32]) -> (f64, f64) {
    let mean = mean(values);
    (mean, (sum(values, |x| (x - mean) * (x - mean)) / values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::power;

    #[test]
    fn powers_are_powers() {
        let mut worst = 0.0f64;
        for exponent in [0.5f32, 0.7, 0.93, 1.0, 1.31, 1.5, 2.7] {
            for i in 0..=200_000 {
                let x = (i as f32 / 200_000.0).powi(2);
                let exact = f64::from(x).powf(f64::from(exponent));
                worst = worst.max((f64::from(power(x, exponent)) - exact).abs());
            }
        }
        assert!(worst < 5e-7, "{worst:e}");
        assert_eq!((power(0.0, 0.7), power(1.0, 0.7)), (0.0, 1.0));
    }
}
