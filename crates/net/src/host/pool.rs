//! Average pooling whose kernel is its stride, and its gradient.

use super::format::Format;
use super::grid::{Chunk, Grid, Tensor};
use super::norm::{Planes, Writable, rows};
use super::vector::{Vector, compiled};

fn check(large: &Grid, small: &Grid, stride: [usize; 3]) {
    let size = [0, 1, 2].map(|a| small.size[a] * stride[a]);
    assert_eq!(Grid { size, halo: large.halo, ..*small }, *large, "pooled grid");
}

compiled! {
    /// `step` times `width` voxels are there behind each of `from`.
    unsafe fn average_row<V, F: Format>(
        from: &[*const Chunk],
        step: usize,
        width: usize,
        share: f32,
        to: *mut Chunk,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let share = V::splat(&raw const share);
            for x in 0..width {
                let mut sum = [V::zero(); 2];
                for row in from {
                    for i in 0..step {
                        let v = F::load::<V>(row.add((x * step + i) * F::CHUNKS));
                        sum = [sum[0].add(v[0]), sum[1].add(v[1])];
                    }
                }
                F::store([sum[0].mul(share), sum[1].mul(share)], to.add(x * F::CHUNKS));
            }
        }
    }
}

/// small = mean of the `stride` voxels of large that it covers.
pub(crate) fn average<V: Vector, F: Format>(
    stride: [usize; 3],
    large: &Tensor,
    small: &mut Tensor,
) {
    check(&large.grid, &small.grid, stride);
    let (planes, l) = (Planes::of::<F>(&[small]), Planes::of::<F>(&[large]));
    let size = small.grid.size;
    let share = 1.0 / stride.iter().product::<usize>() as f32;
    let out = Writable::of(small);
    planes.each(|i| {
        let to = out.rows::<F>(planes, i);
        let first = planes.block(i) * large.grid.size[0] + i % size[0] * stride[0];
        for y in 0..size[1] {
            let mut from = Vec::with_capacity(stride[0] * stride[1]);
            for z in 0..stride[0] {
                let plane = rows::<F>(large, l, first + z);
                from.extend(
                    (0..stride[1])
                        .map(|v| plane.base.wrapping_add((y * stride[1] + v) * plane.pitch)),
                );
            }
            // SAFETY: an engine has only units that the CPU has; `check` asserted the shapes; each plane
            // belongs to one task.
            unsafe {
                let to = to.base.add(y * to.pitch);
                average_row::<V, F>(&from, stride[2], size[2], share, to);
            }
        }
    });
}

compiled! {
    /// `width` voxels are there behind `to`.
    unsafe fn spread_row<V, F: Format>(
        from: *const Chunk,
        step: usize,
        width: usize,
        share: f32,
        to: *mut Chunk,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let share = V::splat(&raw const share);
            for x in 0..width {
                let v = F::load::<V>(from.add(x / step * F::CHUNKS));
                let at = to.add(x * F::CHUNKS);
                let old = F::load::<V>(at);
                F::store([old[0].mul_add(v[0], share), old[1].mul_add(v[1], share)], at);
            }
        }
    }
}

/// large += the gradient of [`average`].
pub(crate) fn spread<V: Vector, F: Format>(stride: [usize; 3], small: &Tensor, large: &mut Tensor) {
    check(&large.grid, &small.grid, stride);
    let (planes, s) = (Planes::of::<F>(&[large]), Planes::of::<F>(&[small]));
    let size = large.grid.size;
    let share = 1.0 / stride.iter().product::<usize>() as f32;
    let out = Writable::of(large);
    planes.each(|i| {
        let to = out.rows::<F>(planes, i);
        let plane = planes.block(i) * small.grid.size[0] + i % size[0] / stride[0];
        let from = rows::<F>(small, s, plane);
        for y in 0..size[1] {
            // SAFETY: as in `average`.
            unsafe {
                let from = from.base.add(y / stride[1] * from.pitch);
                spread_row::<V, F>(from, stride[2], size[2], share, to.base.add(y * to.pitch));
            }
        }
    });
}
