//! The end of a residual block: instance norm, plus the skip, then leaky ReLU; forward and backward. The formulas are
//! those of [`crate::ops::residual`].

use super::linear::Sums;
use super::norm::{Lanes, Moments, Planes, Rows, Writable, leaky, negative, rows, totals};
use super::simd;
use super::tensor::{BLOCK, Chunk, Tensor, Wide};
use rayon::prelude::*;
use std::arch::x86_64::*;

/// # Safety
/// The unit is available; rows of `size` (height, width) voxels are there. So for all planes here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn add_plane<const P: usize>(
    y: Rows<*const Chunk>,
    skip: Rows<*const Chunk>,
    to: Rows<*mut Chunk>,
    size: [usize; 2],
    moments: &Moments,
    slope: f32,
) {
    // SAFETY: by the contract.
    unsafe {
        let (m, slope) = (Lanes::of(moments), _mm512_set1_ps(slope));
        for row in 0..size[0] {
            let (y, skip) = (y.base.add(row * y.pitch), skip.base.add(row * skip.pitch));
            let to = to.base.add(row * to.pitch);
            for x in 0..size[1] {
                let (y, s) = (simd::load::<P>(y.add(x * P)), simd::load::<P>(skip.add(x * P)));
                let mut a = y;
                for i in 0..2 {
                    let z = _mm512_fmadd_ps(_mm512_sub_ps(y[i], m.mean[i]), m.scale[i], m.beta[i]);
                    a[i] = leaky(_mm512_add_ps(z, s[i]), slope);
                }
                simd::store::<P>(a, to.add(x * P));
            }
        }
    }
}

/// a = leaky(norm(y) + skip); without `skip`, `a` holds the skip and is overwritten.
pub(crate) fn add<const P: usize>(
    y: &Tensor,
    moments: &[Moments],
    skip: Option<&Tensor>,
    slope: f32,
    a: &mut Tensor,
) {
    let planes = Planes::of(&[a, y, skip.unwrap_or(a)], P);
    let size = [a.grid.size[1], a.grid.size[2]];
    assert_eq!(moments.len(), a.grid.batch * a.grid.blocks(), "moments");
    let out = Writable::of(a);
    planes.each(|i| {
        let to = { out }.0.rows::<P>(planes, i);
        let skip = match skip {
            Some(skip) => rows::<P>(skip, planes, i),
            None => Rows { base: to.base.cast_const(), pitch: to.pitch },
        };
        let (y, moments) = (rows::<P>(y, planes, i), &moments[planes.block(i)]);
        // SAFETY: tensors of a precision exist where the unit is available; `Planes::of` asserted the shapes; each plane
        // belongs to one task.
        unsafe { add_plane::<P>(y, skip, to, size, moments, slope) };
    });
}

/// Σ g and Σ g·h of one plane, g being the gradient behind the leaky ReLU, whose sign `a` tells.
///
/// # Safety
/// See [`add_plane`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn backward_sums<const P: usize>(
    [y, a, da]: [Rows<*const Chunk>; 3],
    size: [usize; 2],
    moments: &Moments,
    slope: f32,
) -> Sums {
    let mut out = [[0.0; BLOCK]; 2];
    // SAFETY: by the contract.
    unsafe {
        let (m, slope) = (Lanes::of(moments), _mm512_set1_ps(slope));
        for row in 0..size[0] {
            let [y, a, da] = [y, a, da].map(|r| r.base.wrapping_add(row * r.pitch));
            let (mut sum_g, mut sum_gh) = (simd::zero(), simd::zero());
            for x in 0..size[1] {
                let [y, a, d] = [y, a, da].map(|r| simd::load::<P>(r.add(x * P)));
                for i in 0..2 {
                    let h = _mm512_mul_ps(_mm512_sub_ps(y[i], m.mean[i]), m.inverse[i]);
                    let g = _mm512_mask_mul_ps(d[i], negative(a[i]), d[i], slope);
                    sum_g[i] = _mm512_add_ps(sum_g[i], g);
                    sum_gh[i] = _mm512_fmadd_ps(g, h, sum_gh[i]);
                }
            }
            simd::add_to(&mut out[0], sum_g);
            simd::add_to(&mut out[1], sum_gh);
        }
    }
    out
}

/// g in place of da, and dy = γ · inverse · (g − mean(g) − h · mean(g·h)).
///
/// # Safety
/// See [`add_plane`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn backward_plane<const P: usize>(
    [y, a]: [Rows<*const Chunk>; 2],
    [da, dy]: [Rows<*mut Chunk>; 2],
    size: [usize; 2],
    moments: &Moments,
    means: &[Wide; 2],
    slope: f32,
) {
    // SAFETY: by the contract.
    unsafe {
        let (m, slope) = (Lanes::of(moments), _mm512_set1_ps(slope));
        let (mean_g, mean_gh) = (simd::wide(&means[0]), simd::wide(&means[1]));
        for row in 0..size[0] {
            let [y, a] = [y, a].map(|r| r.base.wrapping_add(row * r.pitch));
            let [da, dy] = [da, dy].map(|r| r.base.wrapping_add(row * r.pitch));
            for x in 0..size[1] {
                let [v, a] = [y, a].map(|r| simd::load::<P>(r.add(x * P)));
                let d = simd::load::<P>(da.add(x * P));
                let (mut g, mut out) = (d, d);
                for i in 0..2 {
                    let h = _mm512_mul_ps(_mm512_sub_ps(v[i], m.mean[i]), m.inverse[i]);
                    g[i] = _mm512_mask_mul_ps(d[i], negative(a[i]), d[i], slope);
                    let rest = _mm512_fnmadd_ps(h, mean_gh[i], _mm512_sub_ps(g[i], mean_g[i]));
                    out[i] = _mm512_mul_ps(m.scale[i], rest);
                }
                simd::store::<P>(g, da.add(x * P));
                simd::store::<P>(out, dy.add(x * P));
            }
        }
    }
}

/// Turns the gradient `da` of the activation `a` into that of the skip, in place, and writes the gradient of `y` to
/// `dy`, and dγ and dβ.
pub(crate) fn add_backward<const P: usize>(
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
    let planes = Planes::of(&[a, y, da, dy], P);
    let grid = a.grid;
    let size = [grid.size[1], grid.size[2]];
    assert_eq!(moments.len(), grid.batch * grid.blocks(), "moments");
    let sums = &mut sums[..planes.count()];
    let gradient = &*da;
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let from = [y, a, gradient].map(|t| rows::<P>(t, planes, i));
        // SAFETY: as in `add`; nothing but `sums` is written.
        *sums = unsafe { backward_sums::<P>(from, size, &moments[planes.block(i)], slope) };
    });
    let means = totals(&grid, sums, dgamma, dbeta);
    let out = [Writable::of(da), Writable::of(dy)];
    planes.each(|i| {
        let from = [y, a].map(|t| rows::<P>(t, planes, i));
        let to = { out }.map(|t| t.0.rows::<P>(planes, i));
        let block = planes.block(i);
        // SAFETY: as in `add`.
        unsafe { backward_plane::<P>(from, to, size, &moments[block], &means[block], slope) };
    });
}
