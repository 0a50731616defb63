//! Transforms of intensities, one channel at a time.

use crate::blur::blur;
use crate::counter::{self, split_logarithm};
use crate::draws::{Draws, Noise};
use crate::low_resolution::low_resolution;
use crate::settings::Settings;
use crate::simd::{self, Body, Level};
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
            inverted_gamma(channel.view_mut(), exponents[c], retain);
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
    simd::run(Contrast { values, factor: factor as f32 });
}

struct Contrast<'a> {
    values: &'a mut [f32],
    factor: f32,
}

impl Body for Contrast<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: Level) {
        let Survey { low, high, mean, .. } = survey(self.values, 1.0);
        let (mean, factor) = (mean as f32, self.factor);
        for x in self.values {
            *x = ((*x - mean) * factor + mean).clamp(low, high);
        }
    }
}

/// x′ = ((x − min) / range)^`gamma` · range + min over one channel; with `retain_statistics` the channel's mean and
/// standard deviation are restored afterwards. A channel of one value stays as it is.
pub fn gamma(mut channel: ArrayViewMut3<'_, f32>, gamma: f64, retain_statistics: bool) {
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    simd::run(Gamma { values, sign: 1.0, exponent: gamma as f32, retain_statistics });
}

/// [`gamma`] of the negated channel, negated.
pub fn inverted_gamma(mut channel: ArrayViewMut3<'_, f32>, gamma: f64, retain_statistics: bool) {
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    simd::run(Gamma { values, sign: -1.0, exponent: gamma as f32, retain_statistics });
}

/// A gamma of `sign` times the values.
struct Gamma<'a> {
    values: &'a mut [f32],
    sign: f32,
    exponent: f32,
    retain_statistics: bool,
}

impl Body for Gamma<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: Level) {
        let Self { values, sign, exponent, retain_statistics } = self;
        let Survey { low, high, mean, sd } = survey(values, sign);
        let range = high - low;
        if range.is_nan() || range <= 0.0 {
            return;
        }
        let changed = |x: f32| power((sign * x - low) / range, exponent) * range + low;
        if !retain_statistics {
            values.iter_mut().for_each(|x| *x = sign * changed(*x));
            return;
        }
        let mut moments = Moments::about(mean);
        let mut chunks = values.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for x in chunk.iter_mut() {
                *x = changed(*x);
            }
            moments.add(chunk);
        }
        let rest = chunks.into_remainder();
        rest.iter_mut().for_each(|x| *x = changed(*x));
        moments.add_rest(rest);
        let (new_mean, new_sd) = moments.mean_and_deviation();
        let factor = if new_sd > 0.0 { sd / new_sd } else { 1.0 };
        for x in values {
            *x = sign * ((f64::from(*x) - new_mean) * factor + mean) as f32;
        }
    }
}

/// `x`^`exponent` for `x` in 0..=1, within 5e-7; branchless, so that many are computed at once.
///
/// log₂ from [`split_logarithm`], 2^y from the whole part of y and a polynomial.
#[inline(always)]
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

/// Values that are summed side by side, in a fixed order whatever the machine. So many that compilers make loops over
/// vectors of it, not a mass of single values.
const LANES: usize = 64;

/// What values are like.
struct Survey {
    low: f32,
    high: f32,
    mean: f64,
    /// Population standard deviation.
    sd: f64,
}

/// Of `sign` times the values, in one pass.
#[inline(always)]
fn survey(values: &[f32], sign: f32) -> Survey {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    // Near the mean, so that squares don't cancel each other.
    let mut moments = Moments::about(values.first().map_or(0.0, |&x| f64::from(sign * x)));
    let chunks = values.chunks_exact(LANES);
    let rest: Vec<f32> = chunks.remainder().iter().map(|x| sign * x).collect();
    for chunk in chunks {
        let mut turned = [0.0; LANES];
        for i in 0..LANES {
            turned[i] = sign * chunk[i];
            low[i] = if turned[i] < low[i] { turned[i] } else { low[i] };
            high[i] = if turned[i] > high[i] { turned[i] } else { high[i] };
        }
        moments.add(&turned);
    }
    moments.add_rest(&rest);
    let low = low.into_iter().chain(rest.iter().copied()).fold(f32::INFINITY, f32::min);
    let high = high.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max);
    let (mean, sd) = moments.mean_and_deviation();
    Survey { low, high, mean, sd }
}

/// Sums of values and of their squares, in f64, about a number that is not far from the mean compared with the deviation.
struct Moments {
    about: f64,
    sums: [f64; LANES],
    squares: [f64; LANES],
    count: usize,
}

impl Moments {
    #[inline(always)]
    fn about(about: f64) -> Self {
        Self { about, sums: [0.0; LANES], squares: [0.0; LANES], count: 0 }
    }

    /// Adds [`LANES`] values.
    #[inline(always)]
    fn add(&mut self, values: &[f32]) {
        for i in 0..LANES {
            let d = f64::from(values[i]) - self.about;
            self.sums[i] += d;
            self.squares[i] += d * d;
        }
        self.count += LANES;
    }

    /// Adds fewer.
    #[inline(always)]
    fn add_rest(&mut self, values: &[f32]) {
        for (i, &x) in values.iter().enumerate() {
            let d = f64::from(x) - self.about;
            self.sums[i] += d;
            self.squares[i] += d * d;
        }
        self.count += values.len();
    }

    /// Mean and population standard deviation.
    #[inline(always)]
    fn mean_and_deviation(&self) -> (f64, f64) {
        let n = self.count as f64;
        let mean = self.sums.iter().sum::<f64>() / n;
        let variance = self.squares.iter().sum::<f64>() / n - mean * mean;
        (self.about + mean, variance.max(0.0).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::{power, survey};

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

    #[test]
    fn a_survey_is_its_definition() {
        // Far from 0 compared with the deviation, and no multiple of the values that are summed together.
        for n in [1, 63, 64, 12_345] {
            let values: Vec<f32> =
                (0..n).map(|i| 1000.0 + (i * 7919 % 1013) as f32 / 997.0).collect();
            for sign in [1.0, -1.0] {
                let turned: Vec<f64> = values.iter().map(|&x| f64::from(sign * x)).collect();
                let mean = turned.iter().sum::<f64>() / n as f64;
                let variance = turned.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
                let found = survey(&values, sign);
                // n roundings of sums of numbers up to 1000 n, divided by n, on either side.
                let tolerance = 2.0 * n as f64 * 1000.0 * f64::EPSILON;
                assert!((found.mean - mean).abs() <= tolerance, "{} {mean}", found.mean);
                // The values lie within 1.02 of the first: 2 n roundings of squares of at most that.
                let tolerance = 2.0 * n as f64 * 1.1 * f64::EPSILON + 2.0 * tolerance;
                assert!(
                    (found.sd.powi(2) - variance).abs() <= tolerance,
                    "{} {variance}",
                    found.sd
                );
                let extrema = [f64::from(found.low), f64::from(found.high)];
                let fold = |of: fn(f64, f64) -> f64| turned.iter().copied().reduce(of).unwrap();
                assert_eq!(extrema, [fold(f64::min), fold(f64::max)]);
            }
        }
    }
}
