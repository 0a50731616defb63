//! `cargo bench -p preprocess`: resampling of a volume along all axes, of a label map, and where one axis is coarse.

use artifact::recipe::LabelVote;
use divan::Bencher;
use divan::counter::ItemsCount;
use ndarray::Array3;
use preprocess::resample::{LabelRules, new_shape, resample, resample_label};

/// Voxels along z, y, x, and millimetres before and after.
struct Grid {
    shape: [usize; 3],
    from_mm: [f64; 3],
    to_mm: [f64; 3],
}

const ISOTROPIC: Grid = Grid { shape: [150, 512, 512], from_mm: [1.0, 0.7, 0.7], to_mm: [0.8; 3] };
/// Ratio 7: each plane by a spline, the nearest plane between them.
const COARSE: Grid =
    Grid { shape: [60, 512, 512], from_mm: [5.0, 0.7, 0.7], to_mm: [2.5, 0.8, 0.8] };

fn main() {
    divan::main();
}

fn image(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| {
        ((z * 7919 + y * 104_729 + x * 1_299_709) % 1009) as f32
    })
}

/// Recipe `v2`'s.
const VOTE: LabelRules = LabelRules {
    order: 1,
    coarse_order: 0,
    vote: LabelVote::LargestWeight,
    anisotropy_threshold: 3.0,
};

/// Shells around a point.
fn label(shape: [usize; 3]) -> Array3<i16> {
    Array3::from_shape_fn(shape, |(z, y, x)| {
        let at = [z * 3, y, x].map(|v| v as f64 - 240.0);
        let radius = at.iter().map(|v| v * v).sum::<f64>().sqrt();
        [3i16, 2, 1, 0][((radius / 60.0) as usize).min(3)]
    })
}

fn bench_image(bencher: Bencher<'_, '_>, grid: &Grid) {
    let (x, shape) = (image(grid.shape), new_shape(grid.shape, grid.from_mm, grid.to_mm));
    let voxels = ItemsCount::new(shape.iter().product::<usize>());
    let run = || resample(x.view(), grid.from_mm, grid.to_mm, shape, 3, 0, 3.0);
    bencher.counter(voxels).bench_local(run);
}

fn bench_label(bencher: Bencher<'_, '_>, grid: &Grid) {
    let (x, shape) = (label(grid.shape), new_shape(grid.shape, grid.from_mm, grid.to_mm));
    let voxels = ItemsCount::new(shape.iter().product::<usize>());
    let run = || resample_label(x.view(), grid.from_mm, grid.to_mm, shape, VOTE);
    bencher.counter(voxels).bench_local(run);
}

#[divan::bench(sample_count = 10)]
fn image_order_3(bencher: Bencher<'_, '_>) {
    bench_image(bencher, &ISOTROPIC);
}

#[divan::bench(sample_count = 10)]
fn image_order_3_in_planes(bencher: Bencher<'_, '_>) {
    bench_image(bencher, &COARSE);
}

#[divan::bench(sample_count = 10)]
fn label_map_order_1(bencher: Bencher<'_, '_>) {
    bench_label(bencher, &ISOTROPIC);
}

#[divan::bench(sample_count = 10)]
fn label_map_order_1_in_planes(bencher: Bencher<'_, '_>) {
    bench_label(bencher, &COARSE);
}
