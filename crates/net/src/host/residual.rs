//! The end of a residual block: instance norm, plus the skip, then leaky ReLU; forward and backward. The formulas are
//! those of [`super::norm`], but that the sign before the ReLU is told by what came out of it.

use super::format::Format;
use super::grid::{BLOCK, Chunk, Tensor, Wide};
use super::linear::Sums;
use super::norm::{Lanes, Moments, Planes, Rows, Writable, add_to, rows, totals, wide};
use super::vector::{Vector, compiled};
use rayon::prelude::*;

compiled! {
    /// Rows of `size` (height, width) voxels are there. So for all planes here.
    unsafe fn add_plane<V, F: Format>(
        y: Rows<*const Chunk>,
        skip: Rows<*const Chunk>,
        to: Rows<*mut Chunk>,
        size: [usize; 2],
        moments: &Moments,
        slope: f32,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let (m, slope) = (Lanes::<V>::of(moments), V::splat(&raw const slope));
            for row in 0..size[0] {
                let (y, skip) = (y.base.add(row * y.pitch), skip.base.add(row * skip.pitch));
                let to = to.base.add(row * to.pitch);
                for x in 0..size[1] {
                    let at = x * F::CHUNKS;
                    let (mut v, s) = (F::load::<V>(y.add(at)), F::load::<V>(skip.add(at)));
                    for i in 0..2 {
                        let z = m.scaled(v[i], i).add(s[i]);
                        v[i] = z.leaky(z, slope);
                    }
                    F::store(v, to.add(at));
                }
            }
        }
    }
}

/// a = leaky(norm(y) + skip); without `skip`, `a` holds the skip and is overwritten.
pub(crate) fn add<V: Vector, F: Format>(
    y: &Tensor,
    moments: &[Moments],
    skip: Option<&Tensor>,
    slope: f32,
    a: &mut Tensor,
) {
    let planes = Planes::of::<F>(&[a, y, skip.unwrap_or(a)]);
    let size = [a.grid.size[1], a.grid.size[2]];
    assert_eq!(moments.len(), a.grid.batch * a.grid.blocks(), "moments");
    let out = Writable::of(a);
    planes.each(|i| {
        let to = out.rows::<F>(planes, i);
        let skip = match skip {
            Some(skip) => rows::<F>(skip, planes, i),
            None => Rows { base: to.base.cast_const(), pitch: to.pitch },
        };
        let (y, moments) = (rows::<F>(y, planes, i), &moments[planes.block(i)]);
        // SAFETY: an engine has only units that the CPU has; `Planes::of` asserted the shapes; each plane belongs to one
        // task.
        unsafe { add_plane::<V, F>(y, skip, to, size, moments, slope) };
    });
}

compiled! {
    /// Σ g and Σ g·h of one plane, g being the gradient behind the leaky ReLU, whose sign `a` tells.
    unsafe fn backward_sums<V, F: Format>(
        y: Rows<*const Chunk>,
        a: Rows<*const Chunk>,
        da: Rows<*const Chunk>,
        size: [usize; 2],
        moments: &Moments,
        slope: f32,
    ) -> Sums {
        let mut out = [[0.0; BLOCK]; 2];
        // SAFETY: by the contract.
        unsafe {
            let (m, slope) = (Lanes::<V>::of(moments), V::splat(&raw const slope));
            for row in 0..size[0] {
                let (y, a) = (y.base.add(row * y.pitch), a.base.add(row * a.pitch));
                let da = da.base.add(row * da.pitch);
                let (mut sum_g, mut sum_gh) = ([V::zero(); 2], [V::zero(); 2]);
                for x in 0..size[1] {
                    let at = x * F::CHUNKS;
                    let (y, a) = (F::load::<V>(y.add(at)), F::load::<V>(a.add(at)));
                    let d = F::load::<V>(da.add(at));
                    for i in 0..2 {
                        let (h, g) = (m.normed(y[i], i), d[i].leaky(a[i], slope));
                        sum_g[i] = sum_g[i].add(g);
                        sum_gh[i] = sum_gh[i].mul_add(g, h);
                    }
                }
                add_to(&mut out[0], sum_g);
                add_to(&mut out[1], sum_gh);
            }
        }
        out
    }
}

compiled! {
    /// g in place of da, and dy.
    unsafe fn backward_plane<V, F: Format>(
        from: [Rows<*const Chunk>; 2],
        to: [Rows<*mut Chunk>; 2],
        size: [usize; 2],
        moments: &Moments,
        means: &[Wide; 2],
        slope: f32,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let (m, slope) = (Lanes::<V>::of(moments), V::splat(&raw const slope));
            let means = [wide::<V>(&means[0]), wide::<V>(&means[1])];
            let ([y, a], [da, dy]) = (from, to);
            for row in 0..size[0] {
                let (y, a) = (y.base.add(row * y.pitch), a.base.add(row * a.pitch));
                let (da, dy) = (da.base.add(row * da.pitch), dy.base.add(row * dy.pitch));
                for x in 0..size[1] {
                    let at = x * F::CHUNKS;
                    let (mut v, a) = (F::load::<V>(y.add(at)), F::load::<V>(a.add(at)));
                    let mut d = F::load::<V>(da.add(at));
                    for i in 0..2 {
                        let (h, g) = (m.normed(v[i], i), d[i].leaky(a[i], slope));
                        (d[i], v[i]) = (g, m.backward(g, h, &means, i));
                    }
                    F::store(d, da.add(at));
                    F::store(v, dy.add(at));
                }
            }
        }
    }
}

/// Turns the gradient `da` of the activation `a` into that of the skip, in place, and writes the gradient of `y` to
/// `dy`, and dγ and dβ.
pub(crate) fn add_backward<V: Vector, F: Format>(
    y: &Tensor,
    a: &Tensor,
    moments: &[Moments],
    slope: f32,
    sums: &mut [Sums],
    da: &mut Tensor,
    dy: &mut Tensor,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let planes = Planes::of::<F>(&[a, y, da, dy]);
    let grid = a.grid;
    let size = [grid.size[1], grid.size[2]];
    assert_eq!(moments.len(), grid.batch * grid.blocks(), "moments");
    let sums = &mut sums[..planes.count()];
    let gradient = &*da;
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let [y, a, da] = [y, a, gradient].map(|t| rows::<F>(t, planes, i));
        // SAFETY: as in `add`; nothing but `sums` is written.
        *sums = unsafe { backward_sums::<V, F>(y, a, da, size, &moments[planes.block(i)], slope) };
    });
    let means = totals(&grid, sums, dgamma, dbeta);
    let out = [Writable::of(da), Writable::of(dy)];
    planes.each(|i| {
        let from = [y, a].map(|t| rows::<F>(t, planes, i));
        let to = out.map(|t| t.rows::<F>(planes, i));
        let block = planes.block(i);
        // SAFETY: as in `add`.
        unsafe { backward_plane::<V, F>(from, to, size, &moments[block], &means[block], slope) };
    });
}
