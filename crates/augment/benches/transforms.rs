//! Each transform on a patch of 128³ voxels from a case of 205³, one thread: `cargo bench -p augment`.

use augment::intensity::{brightness, contrast, gamma, noise};
use augment::previous::{Morphology, Operation, Removal, change, remove};
use augment::resample::{sample_image, sample_label};
use augment::spatial::{Warp, crop, mirror, rotation};
use augment::{Elastic, Noise, blur, low_resolution};
use divan::Bencher;
use ndarray::Array3;

const CASE: [usize; 3] = [205; 3];
const PATCH: [usize; 3] = [128; 3];

fn main() {
    divan::main();
}

fn image(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| ((z * 7 + y * 3 + x) % 101) as f32 / 25.0 - 2.0)
}

/// Nested lumpy bodies of classes 1 and 2.
fn label() -> Array3<i16> {
    let unit = |v: usize| v as f64 / 102.0 - 1.0;
    Array3::from_shape_fn(CASE, |(z, y, x)| {
        let (z, y, x) = (unit(z), unit(y), unit(x));
        let radius = z * z + y * y + x * x + 0.05 * ((z * 17.0).sin() + (y * 23.0).cos());
        i16::from(radius < 0.3) + i16::from(radius < 0.1)
    })
}

/// A rotation with scaling about the case's middle.
fn warp() -> Warp {
    Warp {
        patch: PATCH,
        centre: CASE.map(|n| 0.5 * (n as f64 - 1.0)),
        matrix: rotation([0.3, -0.2, 0.25]).map(|row| row.map(|v| 0.9 * v)),
        displacement: None,
        planes: false,
    }
}

fn elastic_warp() -> Warp {
    let elastic = Elastic { alpha: 450.0, sigma: 11.0, noise: 1 };
    Warp { displacement: Some(elastic.displacement(PATCH, false)), ..warp() }
}

/// An image read through a map, by spline order.
#[divan::bench(args = [1, 3])]
fn spatial_image(bencher: Bencher<'_, '_>, order: u8) {
    let (case, warp, mut out) = (image(CASE), warp(), Array3::zeros(PATCH));
    bencher.bench_local(|| sample_image(case.view(), &warp, order, out.view_mut()));
}

#[divan::bench]
fn spatial_label(bencher: Bencher<'_, '_>) {
    let (case, warp, mut out) = (label(), warp(), Array3::zeros(PATCH));
    bencher.bench_local(|| sample_label(case.view(), &warp, 1, out.view_mut()));
}

#[divan::bench]
fn spatial_image_elastic(bencher: Bencher<'_, '_>) {
    let (case, warp, mut out) = (image(CASE), elastic_warp(), Array3::zeros(PATCH));
    bencher.bench_local(|| sample_image(case.view(), &warp, 1, out.view_mut()));
}

#[divan::bench(sample_count = 10)]
fn displacement(bencher: Bencher<'_, '_>) {
    let elastic = Elastic { alpha: 450.0, sigma: 11.0, noise: 1 };
    bencher.bench_local(|| elastic.displacement(PATCH, false));
}

#[divan::bench(name = "crop")]
fn plain_crop(bencher: Bencher<'_, '_>) {
    let (case, mut out) = (image(CASE), Array3::zeros(PATCH));
    bencher.bench_local(|| crop(case.view(), [40, 38, 35], 0.0, out.view_mut()));
}

#[divan::bench(name = "noise")]
fn add_noise(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| noise(x.view_mut(), Noise { sigma: 1e-3, seed: 1 }, 0));
}

#[divan::bench(name = "blur")]
fn gaussian_blur(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| blur::blur(x.view_mut(), [0.6, 0.75, 0.9]));
}

#[divan::bench(name = "brightness")]
fn change_brightness(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| brightness(x.view_mut(), 1.0));
}

#[divan::bench(name = "contrast")]
fn change_contrast(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| contrast(x.view_mut(), 1.1));
}

#[divan::bench(name = "low_resolution")]
fn lower_resolution(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| low_resolution::low_resolution(x.view_mut(), 0.75, None));
}

#[divan::bench(name = "gamma")]
fn change_gamma(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| gamma(x.view_mut(), 1.2, true));
}

#[divan::bench]
fn mirror_all_axes(bencher: Bencher<'_, '_>) {
    let mut x = image(PATCH);
    bencher.bench_local(|| mirror(x.view_mut(), [true; 3]));
}

/// Shells of class 1, and crumbs in between.
fn previous() -> Array3<i16> {
    let unit = |v: usize| v as f64 / 64.0 - 1.0;
    Array3::from_shape_fn(PATCH, |(z, y, x)| {
        let radius = unit(z).powi(2) + unit(y).powi(2) + unit(x).powi(2);
        i16::from((radius * 5.0) as i64 % 2 == 0 || (z * 31 + y * 17 + x * 7) % 97 == 0)
    })
}

#[divan::bench]
fn previous_stage_closed(bencher: Bencher<'_, '_>) {
    let mut classes = previous();
    let close = Morphology { class: 1, operation: Operation::Close, radius: 8 };
    bencher.bench_local(|| change(&mut classes.view_mut(), close));
}

#[divan::bench]
fn previous_stage_component_removed(bencher: Bencher<'_, '_>) {
    let mut classes = previous();
    let removal = Removal { class: 1, which: 0.5 };
    bencher.bench_local(|| remove(&mut classes.view_mut(), removal, 0.15));
}
