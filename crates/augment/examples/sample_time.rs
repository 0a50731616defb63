//! Milliseconds of computing per sample on one thread, by transform: `cargo run --release -p augment --example sample_time`.

use artifact::recipe::Augmentation;
use augment::intensity::gamma;
use augment::spatial::{crop, sample_image, sample_label};
use augment::{Draws, Elastic, Settings};
use ndarray::{Array3, ArrayView3};

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
        let middle = case.map(|n| n as f64 / 2.0);
        // Nested balls in voxels scaled to the case.
        let label = Array3::from_shape_fn(case, |(z, y, x)| {
            let v = [z, y, x];
            let r: f64 = (0..3).map(|a| (v[a] as f64 / middle[a] - 1.0).powi(2)).sum();
            i16::from(r < 0.3) + i16::from(r < 0.1)
        });
        let settings = Settings::new(&recipe, patch);
        time(&settings, image.view(), label.view());
    }
}

/// Prints the time of every transform, and their mean weighted by the paper's probabilities.
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
        mean(|| match draws.and_then(|d| d.warp(settings, lower)) {
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
    let gamma = mean(|| gamma(out.view_mut(), 1.2, true));
    let mixture =
        0.8f64.powi(3) * plain + (0.8 - 0.8f64.powi(3)) * affine + 0.2 * elastic + 0.3 * gamma;
    eprintln!(
        "patch {patch:?}: crop {plain:.1} ms, rotation and scaling {affine:.1} ms, elastic {elastic:.1} ms, \
         gamma {gamma:.1} ms; mean of the paper's mixture {mixture:.1} ms a sample"
    );
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
