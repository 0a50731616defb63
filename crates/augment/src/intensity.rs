//! Transforms of intensities, one channel at a time.

use crate::blur::blur;
use crate::draws::{Draws, Noise};
use crate::low_resolution::low_resolution;
use crate::settings::Settings;
use ndarray::{ArrayViewMut3, ArrayViewMut4};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

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

/// Adds independent normal values of mean 0; `channel` number `index` has a stream of its own.
pub fn noise(mut channel: ArrayViewMut3<'_, f32>, noise: Noise, index: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(noise.seed);
    rng.set_stream(index as u64);
    let sigma = noise.sigma as f32;
    for x in &mut channel {
        *x += sigma * rng.sample::<f32, _>(StandardNormal);
    }
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
        *x = ((*x - low) / range).powf(exponent) * range + low;
    }
    if let Some((mean, sd)) = before {
        let (new_mean, new_sd) = statistics(values);
        let factor = if new_sd > 0.0 { sd / new_sd } else { 1.0 };
        for x in values {
            *x = ((f64::from(*x) - new_mean) * factor + mean) as f32;
        }
    }
}

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
