//! Times the resampling of a 150×512×512 volume from 1×0.7×0.7 mm to 0.8 mm: cubic image, label map of four labels.
//!
//! `cargo run --release -p preprocess --example resample_speed`; `resample_speed.py` beside it times scikit-image.
#![expect(clippy::print_stdout, reason = "the figures are what this is run for")]

use ndarray::Array3;
use preprocess::resample;
use std::time::Instant;

const SHAPE: [usize; 3] = [150, 512, 512];
const FROM: [f64; 3] = [1.0, 0.7, 0.7];
const TO: [f64; 3] = [0.8, 0.8, 0.8];

fn main() {
    let wave = |i: usize, n: usize| (i as f32 / n as f32 * 20.0).sin();
    let image = Array3::from_shape_fn(SHAPE, |(z, y, x)| {
        let noise = (z * 7919 + y * 104_729 + x * 1_299_709) % 1009;
        300.0 * wave(z, 150) * wave(y, 512) * wave(x, 512) + noise as f32
    });
    let label = Array3::from_shape_fn(SHAPE, |(z, y, x)| {
        let at = [z * 3, y, x].map(|v| v as f64 - 240.0);
        let radius = at.iter().map(|v| v * v).sum::<f64>().sqrt();
        [3i16, 2, 1, 0][((radius / 60.0) as usize).min(3)]
    });
    let shape = resample::new_shape(SHAPE, FROM, TO);
    for _ in 0..3 {
        let begun = Instant::now();
        let out = resample::resample(image.view(), FROM, TO, shape, 3, 0, 3.0);
        let image_s = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let map = resample::resample_label(label.view(), FROM, TO, shape, 1, 0, 3.0);
        let label_s = begun.elapsed().as_secs_f64();
        println!("{SHAPE:?} -> {:?}: image {image_s:.3} s, label {label_s:.3} s", map.dim());
        assert_eq!(out.dim(), map.dim());
    }
}
