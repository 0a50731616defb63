//! Average pooling whose kernel is its stride, and its gradient.

use super::norm::{Planes, Writable, rows};
use super::simd;
use super::tensor::{Chunk, Grid, Tensor};
use std::arch::x86_64::*;

fn check(large: &Grid, small: &Grid, stride: [usize; 3]) {
    let size = [0, 1, 2].map(|a| small.size[a] * stride[a]);
    assert_eq!(Grid { size, halo: large.halo, ..*small }, *large, "pooled grid");
}

/// # Safety
/// The unit is available; `count` voxels are there behind each of `from`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn average_row<const P: usize>(
    from: &[*const Chunk],
    step: usize,
    width: usize,
    share: f32,
    to: *mut Chunk,
) {
    // SAFETY: by the contract.
    unsafe {
        let share = _mm512_set1_ps(share);
        for x in 0..width {
            let mut sum = simd::zero();
            for row in from {
                for i in 0..step {
                    let v = simd::load::<P>(row.add((x * step + i) * P));
                    sum = [_mm512_add_ps(sum[0], v[0]), _mm512_add_ps(sum[1], v[1])];
                }
            }
            let mean = sum.map(|s| _mm512_mul_ps(s, share));
            simd::store::<P>(mean, to.add(x * P));
        }
    }
}

/// small = mean of the `stride` voxels of large that it covers.
pub(crate) fn average<const P: usize>(stride: [usize; 3], large: &Tensor, small: &mut Tensor) {
    check(&large.grid, &small.grid, stride);
    let (planes, l) = (Planes::of(&[small], P), Planes::of(&[large], P));
    let size = small.grid.size;
    let share = 1.0 / stride.iter().product::<usize>() as f32;
    let out = Writable::of(small);
    planes.each(|i| {
        let to = { out }.0.rows::<P>(planes, i);
        let first = planes.block(i) * large.grid.size[0] + i % size[0] * stride[0];
        for y in 0..size[1] {
            let mut from = Vec::with_capacity(stride[0] * stride[1]);
            for z in 0..stride[0] {
                let plane = rows::<P>(large, l, first + z);
                from.extend(
                    (0..stride[1])
                        .map(|v| plane.base.wrapping_add((y * stride[1] + v) * plane.pitch)),
                );
            }
            // SAFETY: tensors of a precision exist where the unit is available; `check` asserted the shapes; each plane
            // belongs to one task.
            unsafe {
                let to = to.base.add(y * to.pitch);
                average_row::<P>(&from, stride[2], size[2], share, to);
            }
        }
    });
}

/// # Safety
/// As [`average_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn spread_row<const P: usize>(
    from: *const Chunk,
    step: usize,
    width: usize,
    share: f32,
    to: *mut Chunk,
) {
    // SAFETY: by the contract.
    unsafe {
        let share = _mm512_set1_ps(share);
        for x in 0..width {
            let v = simd::load::<P>(from.add(x / step * P));
            let at = to.add(x * P);
            let old = simd::load::<P>(at);
            let sum = [0, 1].map(|i| _mm512_fmadd_ps(v[i], share, old[i]));
            simd::store::<P>(sum, at);
        }
    }
}

/// large += the gradient of [`average`].
pub(crate) fn spread<const P: usize>(stride: [usize; 3], small: &Tensor, large: &mut Tensor) {
    check(&large.grid, &small.grid, stride);
    let (planes, s) = (Planes::of(&[large], P), Planes::of(&[small], P));
    let size = large.grid.size;
    let share = 1.0 / stride.iter().product::<usize>() as f32;
    let out = Writable::of(large);
    planes.each(|i| {
        let to = { out }.0.rows::<P>(planes, i);
        let plane = planes.block(i) * small.grid.size[0] + i % size[0] / stride[0];
        let from = rows::<P>(small, s, plane);
        for y in 0..size[1] {
            // SAFETY: as in `average`.
            unsafe {
                let from = from.base.add(y / stride[1] * from.pitch);
                spread_row::<P>(from, stride[2], size[2], share, to.base.add(y * to.pitch));
            }
        }
    });
}
