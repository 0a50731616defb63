//! Instance norm with scale and shift, then leaky ReLU; forward and backward. The formulas are those of
//! [`crate::ops::instance_norm`]; the sums of the forward pass come from the convolution.

use super::linear::Sums;
use super::simd::{self, Pair};
use super::tensor::{BLOCK, Chunk, Grid, Tensor, Wide};
use crate::cpu::Shared;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Per sample and block: h = (y − mean) · inverse, z = γ h + β.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub mean: Wide,
    /// 1 / √(variance + ε).
    pub inverse: Wide,
    pub gamma: Wide,
    pub beta: Wide,
}

impl Moments {
    pub(crate) const ZERO: Self =
        Self { mean: Wide::ZERO, inverse: Wide::ZERO, gamma: Wide::ZERO, beta: Wide::ZERO };
}

/// Moments `[sample][block]` from the sums `[block][sample][unit]`.
pub(crate) fn moments(
    grid: &Grid,
    sums: &[Sums],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    moments: &mut [Moments],
) {
    let (batch, blocks) = (grid.batch, grid.blocks());
    assert_eq!((gamma.len(), beta.len()), (grid.channels, grid.channels), "scale and shift");
    assert_eq!(moments.len(), batch * blocks, "moments");
    let units = sums.len() / (batch * blocks);
    let voxels = grid.voxels() as f64;
    for (i, sums) in sums.chunks_exact(units).enumerate() {
        let (block, sample) = (i / batch, i % batch);
        let total = add(sums);
        let m = &mut moments[sample * blocks + block];
        *m = Moments::ZERO;
        for c in 0..BLOCK.min(grid.channels - block * BLOCK) {
            let mean = total[0][c] / voxels;
            let variance = (total[1][c] / voxels - mean * mean).max(0.0);
            m.mean.0[c] = mean as f32;
            m.inverse.0[c] = (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32;
            m.gamma.0[c] = gamma[block * BLOCK + c];
            m.beta.0[c] = beta[block * BLOCK + c];
        }
    }
}

fn add(sums: &[Sums]) -> Sums {
    let mut total = [[0.0; BLOCK]; 2];
    for part in sums {
        for i in 0..2 {
            for c in 0..BLOCK {
                total[i][c] += part[i][c];
            }
        }
    }
    total
}

/// The planes of all samples and blocks of tensors that differ in their halos at most.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    pub grid: Grid,
}

impl Planes {
    /// After asserting that `others` have the same voxels.
    pub(super) fn of(tensors: &[&Tensor], parts: usize) -> Self {
        let grid = tensors[0].grid;
        for t in tensors {
            let same = Grid { halo: grid.halo, ..t.grid };
            assert_eq!(same, grid, "tensors of one shape");
            assert_eq!(t.data.len(), t.grid.len() * parts, "tensor of another precision");
        }
        Self { grid }
    }

    pub(super) fn count(self) -> usize {
        self.grid.batch * self.grid.blocks() * self.grid.size[0]
    }

    /// The sample and block of plane `i`.
    pub(super) fn block(self, i: usize) -> usize {
        i / self.grid.size[0]
    }

    /// Where plane `i` of a tensor on `grid` starts, in positions.
    pub(super) fn start(self, i: usize, grid: &Grid) -> usize {
        let (block, z) = (self.block(i), i % grid.size[0]);
        grid.origin(block / grid.blocks(), block % grid.blocks()) + z * grid.pitches()[0]
    }

    /// Runs `work` on every plane, in parallel.
    pub(super) fn each(self, work: impl Fn(usize) + Send + Sync) {
        (0..self.count()).into_par_iter().for_each(work);
    }
}

/// Rows of a plane: base and row pitch in chunks.
#[derive(Clone, Copy)]
pub(super) struct Rows<C> {
    pub base: C,
    pub pitch: usize,
}

pub(super) fn rows<const P: usize>(t: &Tensor, planes: Planes, i: usize) -> Rows<*const Chunk> {
    let at = planes.start(i, &t.grid) * P;
    Rows { base: &raw const t.data[at], pitch: t.grid.pitches()[1] * P }
}

/// A tensor whose planes are written by parallel tasks, each its own.
#[derive(Clone, Copy)]
pub(super) struct Writable {
    data: *mut Chunk,
    grid: Grid,
}

impl Writable {
    pub(super) fn of(t: &mut Tensor) -> Shared<Self> {
        Shared(Self { data: t.data.as_mut_ptr(), grid: t.grid })
    }

    pub(super) fn rows<const P: usize>(self, planes: Planes, i: usize) -> Rows<*mut Chunk> {
        let at = planes.start(i, &self.grid) * P;
        Rows { base: self.data.wrapping_add(at), pitch: self.grid.pitches()[1] * P }
    }
}

/// A norm's numbers in registers.
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    pub mean: Pair,
    pub inverse: Pair,
    pub gamma: Pair,
    pub beta: Pair,
    /// γ · inverse.
    pub scale: Pair,
}

impl Lanes {
    /// # Safety
    /// As [`simd::load`].
    #[inline(always)]
    pub(super) unsafe fn of(m: &Moments) -> Self {
        // SAFETY: passed on.
        unsafe {
            let (gamma, inverse) = (simd::wide(&m.gamma), simd::wide(&m.inverse));
            let scale = [_mm512_mul_ps(gamma[0], inverse[0]), _mm512_mul_ps(gamma[1], inverse[1])];
            Self { mean: simd::wide(&m.mean), inverse, gamma, beta: simd::wide(&m.beta), scale }
        }
    }
}

/// z for z > 0, else slope · z.
///
/// # Safety
/// As [`simd::load`].
#[inline(always)]
pub(super) unsafe fn leaky(z: __m512, slope: __m512) -> __m512 {
    // SAFETY: passed on.
    unsafe { _mm512_mask_mul_ps(z, negative(z), z, slope) }
}

/// Where not z > 0.
#[inline(always)]
pub(super) unsafe fn negative(z: __m512) -> __mmask16 {
    // SAFETY: the caller has AVX-512.
    unsafe { _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(z, _mm512_setzero_ps()) }
}

/// # Safety
/// As [`simd::load`]; rows of `size` (height, width) voxels are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn apply_plane<const P: usize>(
    from: Rows<*const Chunk>,
    to: Rows<*mut Chunk>,
    size: [usize; 2],
    moments: &Moments,
    slope: f32,
) {
    // SAFETY: by the contract.
    unsafe {
        let (m, slope) = (Lanes::of(moments), _mm512_set1_ps(slope));
        for y in 0..size[0] {
            let (from, to) = (from.base.add(y * from.pitch), to.base.add(y * to.pitch));
            for x in 0..size[1] {
                let v = simd::load::<P>(from.add(x * P));
                let mut a = v;
                for i in 0..2 {
                    let z = _mm512_fmadd_ps(_mm512_sub_ps(v[i], m.mean[i]), m.scale[i], m.beta[i]);
                    a[i] = leaky(z, slope);
                }
                simd::store::<P>(a, to.add(x * P));
            }
        }
    }
}

/// a = leaky(norm(y)); without `y`, `a` holds y and is overwritten.
pub(crate) fn apply<const P: usize>(
    y: Option<&Tensor>,
    moments: &[Moments],
    slope: f32,
    a: &mut Tensor,
) {
    let planes = Planes::of(&[a, y.unwrap_or(a)], P);
    let size = [a.grid.size[1], a.grid.size[2]];
    assert_eq!(moments.len(), a.grid.batch * a.grid.blocks(), "moments");
    let out = Writable::of(a);
    planes.each(|i| {
        let to = { out }.0.rows::<P>(planes, i);
        let from = match y {
            Some(y) => rows::<P>(y, planes, i),
            None => Rows { base: to.base.cast_const(), pitch: to.pitch },
        };
        // SAFETY: tensors of a precision exist where the unit is available; `Planes::of` asserted the shapes; each plane
        // belongs to one task.
        unsafe { apply_plane::<P>(from, to, size, &moments[planes.block(i)], slope) };
    });
}

/// Σ g and Σ g·h of one plane, g being the gradient behind the leaky ReLU.
///
/// # Safety
/// As [`apply_plane`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn backward_sums<const P: usize>(
    y: Rows<*const Chunk>,
    da: Rows<*const Chunk>,
    size: [usize; 2],
    moments: &Moments,
    slope: f32,
) -> Sums {
    let mut out = [[0.0; BLOCK]; 2];
    // SAFETY: by the contract.
    unsafe {
        let (m, slope) = (Lanes::of(moments), _mm512_set1_ps(slope));
        for row in 0..size[0] {
            let (y, da) = (y.base.add(row * y.pitch), da.base.add(row * da.pitch));
            let (mut sum_g, mut sum_gh) = (simd::zero(), simd::zero());
            for x in 0..size[1] {
                let (y, d) = (simd::load::<P>(y.add(x * P)), simd::load::<P>(da.add(x * P)));
                for i in 0..2 {
                    let h = _mm512_mul_ps(_mm512_sub_ps(y[i], m.mean[i]), m.inverse[i]);
                    let z = _mm512_fmadd_ps(m.gamma[i], h, m.beta[i]);
                    let g = _mm512_mask_mul_ps(d[i], negative(z), d[i], slope);
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

/// dy = γ · inverse · (g − mean(g) − h · mean(g·h)), in place of da.
///
/// # Safety
/// As [`apply_plane`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn backward_plane<const P: usize>(
    y: Rows<*const Chunk>,
    da: Rows<*mut Chunk>,
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
            let (y, da) = (y.base.add(row * y.pitch), da.base.add(row * da.pitch));
            for x in 0..size[1] {
                let (y, d) = (simd::load::<P>(y.add(x * P)), simd::load::<P>(da.add(x * P)));
                let mut dy = d;
                for i in 0..2 {
                    let h = _mm512_mul_ps(_mm512_sub_ps(y[i], m.mean[i]), m.inverse[i]);
                    let z = _mm512_fmadd_ps(m.gamma[i], h, m.beta[i]);
                    let g = _mm512_mask_mul_ps(d[i], negative(z), d[i], slope);
                    let rest = _mm512_fnmadd_ps(h, mean_gh[i], _mm512_sub_ps(g, mean_g[i]));
                    dy[i] = _mm512_mul_ps(m.scale[i], rest);
                }
                simd::store::<P>(dy, da.add(x * P));
            }
        }
    }
}

/// Turns the gradient `da` of the activation into the gradient of `y`, in place, and writes dγ and dβ. `sums` is scratch,
/// one entry per plane.
pub(crate) fn backward<const P: usize>(
    y: &Tensor,
    moments: &[Moments],
    slope: f32,
    sums: &mut [Sums],
    da: &mut Tensor,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let planes = Planes::of(&[da, y], P);
    let grid = da.grid;
    let size = [grid.size[1], grid.size[2]];
    assert_eq!(moments.len(), grid.batch * grid.blocks(), "moments");
    let sums = &mut sums[..planes.count()];
    let gradient = &*da;
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let (y, da) = (rows::<P>(y, planes, i), rows::<P>(gradient, planes, i));
        // SAFETY: as in `apply`; nothing but `sums` is written.
        *sums = unsafe { backward_sums::<P>(y, da, size, &moments[planes.block(i)], slope) };
    });
    let means = totals(&grid, sums, dgamma, dbeta);
    let out = Writable::of(da);
    planes.each(|i| {
        let (y, da) = (rows::<P>(y, planes, i), { out }.0.rows::<P>(planes, i));
        let block = planes.block(i);
        // SAFETY: as in `apply`.
        unsafe { backward_plane::<P>(y, da, size, &moments[block], &means[block], slope) };
    });
}

/// Σ g and Σ g·h of each sample and block over their planes: as means per voxel, and added to dγ and dβ.
pub(super) fn totals(
    grid: &Grid,
    sums: &[Sums],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) -> Vec<[Wide; 2]> {
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    let voxels = grid.voxels() as f64;
    let per_block = sums.chunks_exact(grid.size[0]).enumerate();
    per_block
        .map(|(i, planes)| {
            let total = add(planes);
            let first = i % grid.blocks() * BLOCK;
            for c in 0..BLOCK.min(grid.channels - first) {
                dbeta[first + c] += total[0][c] as f32;
                dgamma[first + c] += total[1][c] as f32;
            }
            total.map(|t| Wide(t.map(|t| (t / voxels) as f32)))
        })
        .collect()
}
