//! Connected components and counts of label maps of 128 × 192 × 192 voxels: `cargo bench -p postprocess`.

use divan::Bencher;
use ndarray::Array3;
use postprocess::components::{Components, Connectivity};
use postprocess::score::Counts;

const SHAPE: (usize, usize, usize) = (128, 192, 192);

fn main() {
    divan::main();
}

/// Nested lumpy bodies of classes 1 to 3, which `shift` moves; beside them separate voxels with a rate of 2 %.
fn map(shift: f64) -> Array3<i16> {
    Array3::from_shape_fn(SHAPE, |(z, y, x)| {
        let unit = |v: usize, n: usize| (v as f64 + shift) / n as f64 * 2.0 - 1.0;
        let (z, y, x) = (unit(z, SHAPE.0), unit(y, SHAPE.1), unit(x, SHAPE.2));
        let lumps = 0.1 * ((z * 17.0).sin() + (y * 23.0).cos() + (x * 19.0).sin());
        let radius = z * z + y * y + x * x + lumps;
        let speck =
            ((z * 7919.0 + y * 104_729.0 + x * 1_299_709.0).sin() * 1e4).fract().abs() < 0.02;
        [0.1, 0.3, 0.6]
            .iter()
            .map(|&limit| i16::from(radius < limit))
            .sum::<i16>()
            .max(speck.into())
    })
}

#[divan::bench]
fn components_of_a_mask(bencher: Bencher<'_, '_>) {
    let map = map(0.5);
    bencher.bench(|| Components::of(map.view(), Connectivity::Corners, |&v| v > 0).count());
}

#[divan::bench]
fn components_of_all_classes(bencher: Bencher<'_, '_>) {
    let map = map(0.5);
    bencher.bench(|| Components::of_classes(map.view(), Connectivity::Corners).count());
}

#[divan::bench]
fn numbers_of_components(bencher: Bencher<'_, '_>) {
    let map = map(0.5);
    let components = Components::of(map.view(), Connectivity::Corners, |&v| v > 0);
    bencher.bench(|| components.numbered());
}

#[divan::bench]
fn dice(bencher: Bencher<'_, '_>) {
    let (predicted, reference) = (map(0.5), map(2.0));
    bencher.bench(|| {
        let mut counts = Counts::default();
        counts.add_classes(predicted.view(), reference.view());
        counts
    });
}
