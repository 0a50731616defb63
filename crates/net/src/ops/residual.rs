//! The end of a residual block, as one operation: instance norm, plus the skip, then leaky ReLU; forward and backward.
//!
//! a = leaky(γ h + β + s) with h = (y − mean) / √(variance + ε). As the slope is positive, a has the sign of what went
//! into the ReLU, so that the backward pass needs a, y and the statistics.

use super::instance_norm::{Moments, PlaneSums, Rows, means, totals};
use crate::cpu::simd::{Body, run};
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane, Tensor};
use rayon::prelude::*;

/// One plane of the sum; `skip` is `None` when `to` holds it.
struct Add<'a> {
    y: &'a [Lane],
    y_rows: Rows,
    skip: Option<(&'a [Lane], Rows)>,
    to: &'a mut [Lane],
    to_rows: Rows,
    moments: &'a Moments,
    slope: f32,
}

impl Body for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (scale, m) = (self.moments.scale(), *self.moments);
        for y in 0..self.to_rows.height {
            let to = &mut self.to[self.to_rows.row(y)];
            let from = &self.y[self.y_rows.row(y)];
            match self.skip {
                Some((skip, rows)) => {
                    for ((a, y), s) in to.iter_mut().zip(from).zip(&skip[rows.row(y)]) {
                        *a = sum(y, s, &m, &scale, self.slope);
                    }
                }
                None => {
                    for (a, y) in to.iter_mut().zip(from) {
                        *a = sum(y, a, &m, &scale, self.slope);
                    }
                }
            }
        }
    }
}

/// A function, as a closure would not be compiled for the level of its caller.
#[inline(always)]
fn sum(y: &Lane, skip: &Lane, moments: &Moments, scale: &Lane, slope: f32) -> Lane {
    let mut a = Lane::ZERO;
    for c in 0..LANES {
        let z = (y.0[c] - moments.mean.0[c]) * scale.0[c] + moments.beta.0[c] + skip.0[c];
        a.0[c] = if z > 0.0 { z } else { z * slope };
    }
    a
}

/// a = leaky(norm(y) + skip); without `skip`, `a` holds the skip and is overwritten.
pub(crate) fn add(
    level: SimdLevel,
    y: &Tensor,
    moments: &[Moments],
    skip: Option<&Tensor>,
    slope: f32,
    a: &mut Tensor,
) {
    let l = a.layout;
    assert_eq!(moments.len(), l.batch * l.blocks(), "moments");
    assert_eq!(y.layout.without_halo(), l.without_halo(), "end of a block");
    if let Some(skip) = skip {
        assert_eq!(skip.layout.without_halo(), l.without_halo(), "skip");
    }
    let (y_rows, to_rows) = (Rows::of(&y.layout), Rows::of(&l));
    a.par_planes_mut().for_each(|(i, to)| {
        let skip = skip.map(|skip| (skip.plane(i), Rows::of(&skip.layout)));
        let (y, moments) = (y.plane(i), &moments[i / l.size[0]]);
        run(level, Add { y, y_rows, skip, to, to_rows, moments, slope });
    });
}

/// Σ g and Σ g·h of one plane, g being the gradient behind the leaky ReLU.
struct BackwardSums<'a> {
    y: &'a [Lane],
    y_rows: Rows,
    a: &'a [Lane],
    da: &'a [Lane],
    rows: Rows,
    moments: &'a Moments,
    slope: f32,
}

impl Body for BackwardSums<'_> {
    type Output = PlaneSums;
    #[inline(always)]
    fn run(self) -> PlaneSums {
        let Moments { mean, inverse, .. } = *self.moments;
        let mut out = [[0.0; LANES]; 2];
        for y in 0..self.rows.height {
            let row = self.rows.row(y);
            let (mut sum_g, mut sum_gh) = ([0.0f32; LANES], [0.0f32; LANES]);
            let gradients = self.a[row.clone()].iter().zip(&self.da[row]);
            for (y, (a, da)) in self.y[self.y_rows.row(y)].iter().zip(gradients) {
                for c in 0..LANES {
                    let g = if a.0[c] > 0.0 { da.0[c] } else { da.0[c] * self.slope };
                    sum_g[c] += g;
                    sum_gh[c] += g * ((y.0[c] - mean.0[c]) * inverse.0[c]);
                }
            }
            for c in 0..LANES {
                out[0][c] += f64::from(sum_g[c]);
                out[1][c] += f64::from(sum_gh[c]);
            }
        }
        out
    }
}

/// g in place of da, and dy = γ · inverse · (g − mean(g) − h · mean(g·h)).
struct BackwardApply<'a> {
    y: &'a [Lane],
    y_rows: Rows,
    a: &'a [Lane],
    da: &'a mut [Lane],
    dy: &'a mut [Lane],
    rows: Rows,
    moments: &'a Moments,
    means: [Lane; 2],
    slope: f32,
}

impl Body for BackwardApply<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Moments { mean, inverse, .. } = *self.moments;
        let (scale, [mean_g, mean_gh]) = (self.moments.scale(), self.means);
        for y in 0..self.rows.height {
            let row = self.rows.row(y);
            let from = self.y[self.y_rows.row(y)].iter().zip(&self.a[row.clone()]);
            let to = self.da[row.clone()].iter_mut().zip(&mut self.dy[row]);
            for ((y, a), (da, dy)) in from.zip(to) {
                for c in 0..LANES {
                    let h = (y.0[c] - mean.0[c]) * inverse.0[c];
                    let g = if a.0[c] > 0.0 { da.0[c] } else { da.0[c] * self.slope };
                    da.0[c] = g;
                    dy.0[c] = scale.0[c] * (g - mean_g.0[c] - h * mean_gh.0[c]);
                }
            }
        }
    }
}

/// Turns the gradient `da` of the activation `a` into that of the skip, in place, and writes the gradient of `y` to
/// `dy`, and dγ and dβ. `a`, `da` and `dy` share a layout.
pub(crate) fn add_backward(
    level: SimdLevel,
    y: &Tensor,
    a: &Tensor,
    moments: &[Moments],
    slope: f32,
    sums: &mut [PlaneSums],
    da: &mut Tensor,
    dy: &mut Tensor,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let l = da.layout;
    assert_eq!((a.layout, dy.layout), (l, l), "gradients of a block's end");
    assert_eq!(y.layout.without_halo(), l.without_halo(), "gradient of a block's end");
    assert_eq!(moments.len(), l.batch * l.blocks(), "moments");
    let (y_rows, rows, depth) = (Rows::of(&y.layout), Rows::of(&l), l.size[0]);
    let sums = &mut sums[..l.planes()];
    let gradient = &*da;
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let (y, a, da, moments) = (y.plane(i), a.plane(i), gradient.plane(i), &moments[i / depth]);
        *sums = run(level, BackwardSums { y, y_rows, a, da, rows, moments, slope });
    });
    totals(&l, sums, dgamma, dbeta);
    let sums = &*sums;
    let pitch = l.plane_pitch();
    let planes = da.data.par_chunks_mut(pitch).zip(dy.data.par_chunks_mut(pitch)).enumerate();
    planes.for_each(|(stored, (da, dy))| {
        let Some(i) = l.inner_plane(stored) else { return };
        let (moments, means) = (&moments[i / depth], means(&l, &sums[i / depth * depth]));
        let (y, a) = (y.plane(i), a.plane(i));
        run(level, BackwardApply { y, y_rows, a, da, dy, rows, moments, means, slope });
    });
}
