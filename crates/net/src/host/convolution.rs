//! Convolutions and their gradients towards the inputs, between a large grid and a small one as [`crate::geometry`]
//! has them.

use super::format::Format;
use super::grid::{Grid, Tensor, Wide};
use super::linear::{self, Job, Sums, Tap};
use super::packing::Packed;
use super::unit::Unit;
use crate::geometry::Geometry;

/// Where each tap of the large side lies, seen from large voxel `small · stride`.
fn taps(geometry: &Geometry, large: &Grid) -> Vec<Tap> {
    let step = large.pitches();
    (0..geometry.taps())
        .map(|index| {
            let k = geometry.position(index);
            let axis = |a: usize| (k[a] as isize - geometry.pad[a] as isize) * step[a] as isize;
            Tap { offset: (0..3).map(axis).sum(), index }
        })
        .collect()
}

/// small = bias + Σ weight · large.
pub(crate) fn gather<U: Unit, F: Format>(
    geometry: &Geometry,
    large: &[&Tensor],
    weights: &Packed,
    bias: Option<&[Wide]>,
    small: &mut Tensor,
    sums: Option<&mut [Sums]>,
) {
    assert_eq!(geometry.small(large[0].grid.size), small.grid.size, "small size");
    let job = Job {
        inputs: large,
        in_stride: geometry.stride,
        out_stride: [1; 3],
        out_first: [0; 3],
        extent: small.grid.size,
        taps: &taps(geometry, &large[0].grid),
        weights,
        bias,
        accumulate: false,
    };
    linear::run::<U, F>(&job, &mut [small], sums);
}

/// large = bias + Σ weight · small (or added): one call per residue class of the large voxels modulo the stride, each
/// with the taps that reach it.
pub(crate) fn scatter<U: Unit, F: Format>(
    geometry: &Geometry,
    small: &Tensor,
    weights: &Packed,
    bias: Option<&[Wide]>,
    large: &mut [&mut Tensor],
    accumulate: bool,
) {
    assert_eq!(geometry.small(large[0].grid.size), small.grid.size, "small size");
    for class in 0..geometry.stride.iter().product() {
        let [_, sy, sx] = geometry.stride;
        let class = [class / (sy * sx), class / sx % sy, class % sx];
        let (shifts, extent) = geometry.class_taps(class, large[0].grid.size);
        let step = small.grid.pitches();
        let taps: Vec<Tap> = shifts
            .into_iter()
            .map(|(shift, index)| {
                let offset = (0..3).map(|a| shift[a] * step[a] as isize).sum();
                Tap { offset, index }
            })
            .collect();
        let job = Job {
            inputs: &[small],
            in_stride: [1; 3],
            out_stride: geometry.stride,
            out_first: class,
            extent,
            taps: &taps,
            weights,
            bias,
            accumulate,
        };
        linear::run::<U, F>(&job, large, None);
    }
}
