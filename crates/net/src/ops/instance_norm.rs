//! Instance norm with scale and shift, then leaky ReLU, as one operation; forward and backward.
//!
//! Per sample and channel: h = (y − mean) / √(variance + ε) with the population variance (torch.nn.InstanceNorm3d
//! divides by n, not n − 1), z = γ h + β, a = z for z > 0, else slope · z. Only y and the statistics are kept for the
//! backward pass, `a` is computed again where it is needed.

use crate::cpu::simd::{Body, run};
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane, Layout, Tensor};
use rayon::prelude::*;

/// Sums over one plane: two f64 per channel.
pub(crate) type PlaneSums = [[f64; LANES]; 2];

/// Per sample and block: h = (y − mean) · inverse, z = scale · y + shift.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub mean: Lane,
    /// 1 / √(variance + ε).
    pub inverse: Lane,
    pub gamma: Lane,
    pub beta: Lane,
}

impl Moments {
    pub(crate) const ZERO: Self =
        Self { mean: Lane::ZERO, inverse: Lane::ZERO, gamma: Lane::ZERO, beta: Lane::ZERO };

    /// z = scale · (y − mean) + beta.
    #[inline(always)]
    pub(super) fn scale(&self) -> Lane {
        let mut scale = self.gamma;
        for c in 0..LANES {
            scale.0[c] *= self.inverse.0[c];
        }
        scale
    }
}

/// Rows of one plane, without halo.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    origin: usize,
    pitch: usize,
    pub(super) height: usize,
    width: usize,
}

impl Rows {
    pub(super) fn of(l: &Layout) -> Self {
        let [_, height, width] = l.size;
        Self { origin: l.plane_origin(), pitch: l.row_pitch(), height, width }
    }

    #[inline(always)]
    pub(super) fn row(self, y: usize) -> std::ops::Range<usize> {
        let start = self.origin + y * self.pitch;
        start..start + self.width
    }
}

/// Sum and sum of squares of a plane. Squares are taken about each row's own mean in f32 and moved to 0 in f64, so
/// that a large mean costs no digits.
struct Sums<'a> {
    plane: &'a [Lane],
    rows: Rows,
}

impl Body for Sums<'_> {
    type Output = PlaneSums;
    #[inline(always)]
    fn run(self) -> PlaneSums {
        let mut out = [[0.0; LANES]; 2];
        let width = self.rows.width as f64;
        for y in 0..self.rows.height {
            let row = &self.plane[self.rows.row(y)];
            let mut sum = [0.0f32; LANES];
            for lane in row {
                for c in 0..LANES {
                    sum[c] += lane.0[c];
                }
            }
            let mut mean = [0.0f32; LANES];
            for c in 0..LANES {
                mean[c] = sum[c] / self.rows.width as f32;
            }
            let mut squares = [0.0f32; LANES];
            for lane in row {
                for c in 0..LANES {
                    let d = lane.0[c] - mean[c];
                    squares[c] += d * d;
                }
            }
            for c in 0..LANES {
                let (sum, mean) = (f64::from(sum[c]), f64::from(mean[c]));
                out[0][c] += sum;
                out[1][c] += f64::from(squares[c]) + 2.0 * mean * sum - width * mean * mean;
            }
        }
        out
    }
}

/// Means and variances of every sample and block of `y`. `sums` is scratch, one entry per plane.
pub(crate) fn moments(
    level: SimdLevel,
    y: &Tensor,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    sums: &mut [PlaneSums],
    moments: &mut [Moments],
) {
    let l = y.layout;
    assert_eq!((gamma.len(), beta.len()), (l.channels, l.channels), "scale and shift");
    assert_eq!(moments.len(), l.batch * l.blocks(), "moments");
    let sums = &mut sums[..l.planes()];
    let rows = Rows::of(&l);
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        *sums = run(level, Sums { plane: y.plane(i), rows });
    });
    let voxels = l.voxels() as f64;
    for (i, (moments, planes)) in moments.iter_mut().zip(sums.chunks_exact(l.size[0])).enumerate() {
        let total = add(planes);
        let block = i % l.blocks();
        *moments = Moments::ZERO;
        for c in 0..l.block_channels(block) {
            let mean = total[0][c] / voxels;
            let variance = (total[1][c] / voxels - mean * mean).max(0.0);
            moments.mean.0[c] = mean as f32;
            moments.inverse.0[c] = (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32;
            moments.gamma.0[c] = gamma[block * LANES + c];
            moments.beta.0[c] = beta[block * LANES + c];
        }
    }
}

fn add(planes: &[PlaneSums]) -> PlaneSums {
    let mut total = [[0.0; LANES]; 2];
    for plane in planes {
        for i in 0..2 {
            for c in 0..LANES {
                total[i][c] += plane[i][c];
            }
        }
    }
    total
}

/// a = leaky(norm(y)) for one plane; `y` is `None` when the plane holds y itself.
struct Apply<'a> {
    from: Option<(&'a [Lane], Rows)>,
    to: &'a mut [Lane],
    to_rows: Rows,
    moments: &'a Moments,
    slope: f32,
}

impl Body for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (scale, m) = (self.moments.scale(), *self.moments);
        for y in 0..self.to_rows.height {
            let to = &mut self.to[self.to_rows.row(y)];
            match self.from {
                Some((from, rows)) => {
                    for (a, y) in to.iter_mut().zip(&from[rows.row(y)]) {
                        *a = activate(y, &m, &scale, self.slope);
                    }
                }
                None => {
                    for a in to {
                        *a = activate(a, &m, &scale, self.slope);
                    }
                }
            }
        }
    }
}

/// A function, as a closure would not be compiled for the level of its caller.
#[inline(always)]
fn activate(y: &Lane, moments: &Moments, scale: &Lane, slope: f32) -> Lane {
    let mut a = Lane::ZERO;
    for c in 0..LANES {
        let z = (y.0[c] - moments.mean.0[c]) * scale.0[c] + moments.beta.0[c];
        a.0[c] = if z > 0.0 { z } else { z * slope };
    }
    a
}

/// a = leaky(norm(y)); without `y`, `a` holds y and is overwritten.
pub(crate) fn apply(
    level: SimdLevel,
    y: Option<&Tensor>,
    moments: &[Moments],
    slope: f32,
    a: &mut Tensor,
) {
    let l = a.layout;
    assert_eq!(moments.len(), l.batch * l.blocks(), "moments");
    if let Some(y) = y {
        assert_eq!(y.layout.without_halo(), l.without_halo(), "norm input");
    }
    a.par_planes_mut().for_each(|(i, plane)| {
        let from = y.map(|y| (y.plane(i), Rows::of(&y.layout)));
        let moments = &moments[i / l.size[0]];
        run(level, Apply { from, to: plane, to_rows: Rows::of(&l), moments, slope });
    });
}

/// Σ g and Σ g·h of one plane, g being the gradient behind the leaky ReLU.
struct BackwardSums<'a> {
    y: &'a [Lane],
    y_rows: Rows,
    da: &'a [Lane],
    da_rows: Rows,
    moments: &'a Moments,
    slope: f32,
}

impl Body for BackwardSums<'_> {
    type Output = PlaneSums;
    #[inline(always)]
    fn run(self) -> PlaneSums {
        let Moments { mean, inverse, gamma, beta } = *self.moments;
        let mut out = [[0.0; LANES]; 2];
        for y in 0..self.y_rows.height {
            let (mut sum_g, mut sum_gh) = ([0.0f32; LANES], [0.0f32; LANES]);
            for (y, da) in self.y[self.y_rows.row(y)].iter().zip(&self.da[self.da_rows.row(y)]) {
                for c in 0..LANES {
                    let h = (y.0[c] - mean.0[c]) * inverse.0[c];
                    let z = gamma.0[c] * h + beta.0[c];
                    let g = if z > 0.0 { da.0[c] } else { da.0[c] * self.slope };
                    sum_g[c] += g;
                    sum_gh[c] += g * h;
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

/// dy = γ · inverse · (g − mean(g) − h · mean(g·h)), in place of da.
struct BackwardApply<'a> {
    y: &'a [Lane],
    y_rows: Rows,
    da: &'a mut [Lane],
    da_rows: Rows,
    moments: &'a Moments,
    mean_g: Lane,
    mean_gh: Lane,
    slope: f32,
}

impl Body for BackwardApply<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Moments { mean, inverse, gamma, beta } = *self.moments;
        let scale = self.moments.scale();
        for y in 0..self.y_rows.height {
            let da = &mut self.da[self.da_rows.row(y)];
            for (y, da) in self.y[self.y_rows.row(y)].iter().zip(da) {
                for c in 0..LANES {
                    let h = (y.0[c] - mean.0[c]) * inverse.0[c];
                    let z = gamma.0[c] * h + beta.0[c];
                    let g = if z > 0.0 { da.0[c] } else { da.0[c] * self.slope };
                    da.0[c] = scale.0[c] * (g - self.mean_g.0[c] - h * self.mean_gh.0[c]);
                }
            }
        }
    }
}

/// Turns the gradient `da` of the activation into the gradient of `y`, in place, and writes dγ and dβ.
pub(crate) fn backward(
    level: SimdLevel,
    y: &Tensor,
    moments: &[Moments],
    slope: f32,
    sums: &mut [PlaneSums],
    da: &mut Tensor,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let l = da.layout;
    assert_eq!(y.layout.without_halo(), l.without_halo(), "norm gradient");
    assert_eq!(moments.len(), l.batch * l.blocks(), "moments");
    let (y_rows, da_rows) = (Rows::of(&y.layout), Rows::of(&l));
    let depth = l.size[0];
    let sums = &mut sums[..l.planes()];
    let gradient = &*da;
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let (y, da, moments) = (y.plane(i), gradient.plane(i), &moments[i / depth]);
        *sums = run(level, BackwardSums { y, y_rows, da, da_rows, moments, slope });
    });
    totals(&l, sums, dgamma, dbeta);
    let sums = &*sums;
    da.par_planes_mut().for_each(|(i, da)| {
        let block = i / depth;
        let ([mean_g, mean_gh], moments) = (means(&l, &sums[block * depth]), &moments[block]);
        let y = y.plane(i);
        run(level, BackwardApply { y, y_rows, da, da_rows, moments, mean_g, mean_gh, slope });
    });
}

/// Σ g and Σ g·h of each sample and block: the totals replace the sums of its first plane, and make dγ and dβ.
pub(super) fn totals(l: &Layout, sums: &mut [PlaneSums], dgamma: &mut [f32], dbeta: &mut [f32]) {
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    for (i, planes) in sums.chunks_exact_mut(l.size[0]).enumerate() {
        planes[0] = add(planes);
        let block = i % l.blocks();
        for c in 0..l.block_channels(block) {
            dbeta[block * LANES + c] += planes[0][0][c] as f32;
            dgamma[block * LANES + c] += planes[0][1][c] as f32;
        }
    }
}

/// Totals over the voxels of a sample and block to means.
pub(super) fn means(l: &Layout, totals: &PlaneSums) -> [Lane; 2] {
    let voxels = l.voxels() as f64;
    totals.map(|total| Lane(total.map(|total| (total / voxels) as f32)))
}
