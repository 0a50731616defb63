//! Transforms of intensities.

use ndarray::ArrayViewMut3;

/// x′ = ((x − min) / range)^`gamma` · range + min over one channel; with `retain_statistics` the channel's mean and
/// standard deviation are restored afterwards. A channel of one value stays as it is.
pub fn gamma(mut channel: ArrayViewMut3<'_, f32>, gamma: f64, retain_statistics: bool) {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for &x in &channel {
        low = low.min(x);
        high = high.max(x);
    }
    let range = high - low;
    if range.is_nan() || range <= 0.0 {
        return;
    }
    let before = retain_statistics.then(|| statistics(&channel));
    let exponent = gamma as f32;
    channel.mapv_inplace(|x| ((x - low) / range).powf(exponent) * range + low);
    if let Some((mean, sd)) = before {
        let (new_mean, new_sd) = statistics(&channel);
        let factor = if new_sd > 0.0 { sd / new_sd } else { 1.0 };
        channel.mapv_inplace(|x| ((f64::from(x) - new_mean) * factor + mean) as f32);
    }
}

/// Mean and population standard deviation, summed in memory order.
fn statistics(channel: &ArrayViewMut3<'_, f32>) -> (f64, f64) {
    let n = channel.len() as f64;
    let mean = channel.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares: f64 = channel.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    (mean, (squares / n).sqrt())
}
