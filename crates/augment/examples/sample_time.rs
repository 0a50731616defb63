//! Milliseconds of computing per sample on one thread, by transform, and their mean weighted by the probabilities of a
//! recipe: `cargo run --release -p augment --example sample_time [paper|v2]`.
//!
//! The counterpart for nnU-Net's own transforms is `sample_time.py` beside this file.

use artifact::recipe::Augmentation;
use augment::intensity::{self, contrast, gamma};
use augment::previous::{Morphology, Operation, Removal, change, remove};
use augment::resample::{sample_image, sample_label};
use augment::spatial::{crop, mirror};
use augment::{Draws, Elastic, Noise, Settings, blur, low_resolution};
use ndarray::{Array3, ArrayView3, Axis};

fn main() {
    let name = std::env::args().nth(1).unwrap_or_else(|| "v2".into());
    let text = match name.as_str() {
        "paper" => include_str!("../../plan/recipes/paper.toml"),
        _ => include_str!("../../plan/recipes/v2.toml"),
    };
    let recipe: toml::Table = text.parse().expect("the recipe is TOML");
    let recipe: Augmentation =
        recipe["augmentation"].clone().try_into().expect("the recipe is complete");
    for (patch, case) in [
        ([40, 56, 40], [36, 50, 35]),
        ([128, 128, 128], [180, 220, 190]),
        ([1, 320, 320], [20, 360, 360]),
    ] {
        let image = Array3::from_shape_fn(case, |(z, y, x)| ((z * 7 + y * 3 + x) % 101) as f32);
        let middle = case.map(|n| n as f64 / 2.0);
        // Nested balls in voxels scaled to the case.
        let label = Array3::from_shape_fn(case, |(z, y, x)| {
            let v = [z, y, x];
            let r: f64 = (0..3).map(|a| (v[a] as f64 / middle[a] - 1.0).powi(2)).sum();
            i16::from(r < 0.3) + i16::from(r < 0.1)
        });
        let settings = Settings::new(&recipe, patch);
        eprintln!("recipe {name}, patch {patch:?}:");
        let spatial = spatial(&settings, image.view(), label.view());
        let mean = spatial + intensities(&settings) + flips(&settings);
        eprintln!("  mean of the recipe's mixture: {mean:.1} ms a sample");
        previous(&settings);
    }
}

fn say(what: &str, ms: f64) -> f64 {
    eprintln!("  {what}: {ms:.2} ms");
    ms
}

/// Crop or resampling of one channel and the label; the mean of the recipe's mixture.
fn spatial(settings: &Settings, image: ArrayView3<'_, f32>, label: ArrayView3<'_, i16>) -> f64 {
    let (patch, recipe) = (settings.patch, &settings.recipe);
    let lower: [i64; 3] = std::array::from_fn(|a| {
        (i64::try_from(image.shape()[a]).unwrap_or(0) - i64::try_from(patch[a]).unwrap_or(0)) / 2
    });
    let affine = Draws { angles: Some([0.2, -0.1, 0.15]), scale: Some(0.9), ..Draws::none() };
    let elastic = Some(Elastic { alpha: 450.0, sigma: 11.0, noise: 1 });
    let warped = Draws { elastic, ..Draws::none() };
    let mut out = Array3::zeros(patch);
    let mut classes = Array3::zeros(patch);
    let mut run = |what: &str, draws: &Draws| {
        let ms = mean(|| match draws.warp(settings, lower) {
            Some(warp) => {
                let axes = settings.frame.axes();
                let (image, label) = (image.permuted_axes(axes), label.permuted_axes(axes));
                let out = out.view_mut().permuted_axes(axes);
                sample_image(image, &warp, recipe.image_order, out);
                let classes = classes.view_mut().permuted_axes(axes);
                sample_label(label, &warp, recipe.label_order, classes);
            }
            None => {
                crop(image, lower, 0.0, out.view_mut());
                crop(label, lower, -1, classes.view_mut());
            }
        });
        say(what, ms)
    };
    let plain = run("crop", &Draws::none());
    let affine = run("rotation and scaling", &affine);
    let elastic = run("elastic", &warped);
    let no_affine = (1.0 - recipe.rotation_probability) * (1.0 - recipe.scaling_probability);
    let p = recipe.elastic_probability;
    (1.0 - p) * (no_affine * plain + (1.0 - no_affine) * affine) + p * elastic
}

/// The intensity transforms of one channel.
fn intensities(settings: &Settings) -> f64 {
    let recipe = &settings.recipe;
    let mut x =
        Array3::from_shape_fn(settings.patch, |(z, y, x)| ((z * 7 + y * 3 + x) % 101) as f32);
    let across = settings.frame.across();
    let noise = mean(|| intensity::noise(x.view_mut(), Noise { sigma: 1e-3, seed: 1 }, 0));
    let blur = mean(|| blur::blur(x.view_mut(), [0.5, 0.75, 1.0]));
    let brightness = mean(|| intensity::brightness(x.view_mut(), 1.0));
    let contrast = mean(|| contrast(x.view_mut(), 1.1));
    let low = mean(|| low_resolution::low_resolution(x.view_mut(), 0.75, across));
    let gamma = mean(|| gamma(x.view_mut(), 1.2, recipe.gamma_retain_statistics));
    let gammas = recipe.gamma_probability + recipe.inverted_gamma_probability;
    recipe.noise_probability * say("noise", noise)
        + recipe.blur_probability * recipe.blur_channel_probability * say("blur", blur)
        + recipe.brightness_probability * say("brightness", brightness)
        + recipe.contrast_probability * say("contrast", contrast)
        + recipe.low_resolution_probability
            * recipe.low_resolution_channel_probability
            * say("low resolution", low)
        + gammas * say("gamma", gamma)
}

fn flips(settings: &Settings) -> f64 {
    let mut x = Array3::<f32>::zeros(settings.patch);
    let mut label = Array3::<i16>::zeros(settings.patch);
    let all = mean(|| {
        for axis in 0..3 {
            mirror(&mut x.view_mut(), Axis(axis));
            mirror(&mut label.view_mut(), Axis(axis));
        }
    });
    settings.recipe.mirror_probability * say("mirroring along three axes", all)
}

/// The changes of a previous stage's classes, one label each.
fn previous(settings: &Settings) {
    let half = settings.patch.map(|n| n as f64 / 2.0);
    let ball = |(z, y, x): (usize, usize, usize)| {
        let r: f64 = [z, y, x].iter().zip(half).map(|(&v, h)| (v as f64 / h - 1.0).powi(2)).sum();
        // Shells, and crumbs in between.
        i16::from((r * 5.0) as i64 % 2 == 0 || (z * 31 + y * 17 + x * 7) % 97 == 0)
    };
    let mut classes = Array3::from_shape_fn(settings.patch, ball);
    let close = Morphology { class: 1, operation: Operation::Close, radius: 8 };
    let removal = Removal { class: 1, which: 0.5 };
    let removal = mean(|| remove(&mut classes.view_mut(), removal, 0.15));
    say("previous stage: a component removed", removal);
    let closed = mean(|| change(&mut classes.view_mut(), close));
    say("previous stage: closed with radius 8", closed);
}

/// Mean over as many runs as half a second holds: the clock below may tick in steps of 4 ms.
fn mean(mut work: impl FnMut()) -> f64 {
    let (begun, mut runs) = (cpu_ms(), 0.0);
    loop {
        work();
        runs += 1.0;
        let passed = cpu_ms() - begun;
        if passed > 500.0 {
            return passed / runs;
        }
    }
}

/// Milliseconds that this thread has computed, so that other work on the machine counts little. Linux only.
fn cpu_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.expect("/proc/thread-self/schedstat begins with nanoseconds") / 1e6
}
