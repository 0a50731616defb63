//! Milliseconds per sample on one thread, by transform: `cargo run --release -p augment --example sample_time`.

use artifact::recipe::Augmentation;
use augment::intensity::gamma;
use augment::spatial::{crop, sample_image, sample_label};
use augment::{Draws, Elastic, Settings};
use ndarray::{Array3, ArrayView3};
use std::time::Instant;

fn main() {
    let recipe: toml::Table =
        include_str!("../../plan/recipes/paper.toml").parse().expect("the recipe is TOML");
    let recipe: Augmentation =
        recipe["augmentation"].clone().try_into().expect("the recipe is complete");
    for (patch, case) in [
        ([40, 56, 40], [36, 50, 35]),
        ([128, 128, 128], [180, 220, 190]),
        ([1, 320, 320], [20, 360, 360]),
    ] {
        let image = Array3::from_shape_fn(case, |(z, y, x)| ((z * 7 + y * 3 + x) % 101) as f32);
        let label = image.mapv(|v| i16::from(v > 60.0) + i16::from(v > 80.0));
        let settings = Settings::new(&recipe, patch);
        time(&settings, image.view(), label.view());
    }
}

/// Prints the shortest of five runs of every transform, and their mean weighted by the paper's probabilities.
fn time(settings: &Settings, image: ArrayView3<'_, f32>, label: ArrayView3<'_, i16>) {
    let patch = settings.patch;
    let lower: [i64; 3] = std::array::from_fn(|a| {
        (i64::try_from(image.shape()[a]).unwrap_or(0) - i64::try_from(patch[a]).unwrap_or(0)) / 2
    });
    let affine = Draws { angles: Some([0.2, -0.1, 0.15]), scale: Some(0.9), ..Draws::none() };
    let elastic = Some(Elastic { alpha: 450.0, sigma: 11.0, noise: 1 });
    let warped = Draws { elastic, ..Draws::none() };
    let mut out = Array3::zeros(patch);
    let mut classes = Array3::zeros(patch);
    let mut run = |draws: Option<&Draws>| {
        shortest(|| match draws.and_then(|d| d.warp(settings, lower)) {
            Some(warp) => {
                let axes = settings.frame.axes();
                let (image, label) = (image.permuted_axes(axes), label.permuted_axes(axes));
                sample_image(image, &warp, 3, out.view_mut().permuted_axes(axes));
                sample_label(label, &warp, 1, classes.view_mut().permuted_axes(axes));
            }
            None => {
                crop(image, lower, 0.0, out.view_mut());
                crop(label, lower, -1, classes.view_mut());
            }
        })
    };
    let (plain, affine, elastic) = (run(None), run(Some(&affine)), run(Some(&warped)));
    let gamma = shortest(|| gamma(out.view_mut(), 1.2, true));
    let mean =
        0.8f64.powi(3) * plain + (0.8 - 0.8f64.powi(3)) * affine + 0.2 * elastic + 0.3 * gamma;
    eprintln!(
        "patch {patch:?}: crop {plain:.1} ms, rotation and scaling {affine:.1} ms, elastic {elastic:.1} ms, \
         gamma {gamma:.1} ms; mean of the paper's mixture {mean:.1} ms a sample"
    );
}

fn shortest(mut work: impl FnMut()) -> f64 {
    let mut once = || {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64() * 1e3
    };
    (0..5).map(|_| once()).fold(f64::INFINITY, f64::min)
}
