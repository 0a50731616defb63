//! Instance norm with scale and shift, then leaky ReLU; forward and backward. The sums of the forward pass come
//! from the convolution.
//!
//! With h = (y − mean) / √(variance + ε), z = γ h + β and g the gradient of z:
//! dy = γ / √(variance + ε) · (g − mean(g) − h · mean(g·h)), dγ = Σ g·h, dβ = Σ g.

use super::Shared;
use super::format::{Format, Pair};
use super::grid::{BLOCK, Chunk, Grid, Tensor, Wide};
use super::linear::Sums;
use super::vector::{Vector, compiled};
use rayon::prelude::*;

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
    pub(super) fn of<F: Format>(tensors: &[&Tensor]) -> Self {
        let grid = tensors[0].grid;
        for t in tensors {
            let same = Grid { halo: grid.halo, ..t.grid };
            assert_eq!(same, grid, "tensors of one shape");
            assert_eq!(t.data.len(), t.grid.len() * F::CHUNKS, "tensor of another precision");
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

pub(super) fn rows<F: Format>(t: &Tensor, planes: Planes, i: usize) -> Rows<*const Chunk> {
    let at = planes.start(i, &t.grid) * F::CHUNKS;
    Rows { base: &raw const t.data[at], pitch: t.grid.pitches()[1] * F::CHUNKS }
}

/// A tensor whose planes are written by parallel tasks, each its own.
#[derive(Clone, Copy)]
pub(super) struct Writable {
    data: Shared<Chunk>,
    grid: Grid,
}

impl Writable {
    pub(super) fn of(t: &mut Tensor) -> Self {
        Self { data: Shared(t.data.as_mut_ptr()), grid: t.grid }
    }

    pub(super) fn rows<F: Format>(self, planes: Planes, i: usize) -> Rows<*mut Chunk> {
        let at = planes.start(i, &self.grid) * F::CHUNKS;
        let pitch = self.grid.pitches()[1] * F::CHUNKS;
        Rows { base: self.data.get().wrapping_add(at), pitch }
    }
}

/// # Safety
/// See [`Vector`].
#[inline(always)]
pub(super) unsafe fn wide<V: Vector>(values: &Wide) -> Pair<V> {
    // SAFETY: 32 aligned numbers are there.
    unsafe { [V::load(values.0.as_ptr()), V::load(values.0.as_ptr().add(16))] }
}

/// Adds 32 f32 to 32 f64.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub(super) unsafe fn add_to<V: Vector>(sums: &mut [f64; BLOCK], values: Pair<V>) {
    // SAFETY: 32 sums are there.
    unsafe {
        values[0].add_to(sums.as_mut_ptr());
        values[1].add_to(sums.as_mut_ptr().add(16));
    }
}

/// A norm's numbers in registers.
#[derive(Clone, Copy)]
pub(super) struct Lanes<V> {
    pub mean: Pair<V>,
    pub inverse: Pair<V>,
    pub gamma: Pair<V>,
    pub beta: Pair<V>,
    /// γ · inverse.
    pub scale: Pair<V>,
}

impl<V: Vector> Lanes<V> {
    /// # Safety
    /// See [`Vector`]; so for all here.
    #[inline(always)]
    pub(super) unsafe fn of(m: &Moments) -> Self {
        // SAFETY: passed on.
        unsafe {
            let (gamma, inverse) = (wide::<V>(&m.gamma), wide::<V>(&m.inverse));
            let scale = [gamma[0].mul(inverse[0]), gamma[1].mul(inverse[1])];
            Self { mean: wide(&m.mean), inverse, gamma, beta: wide(&m.beta), scale }
        }
    }

    /// h of half `i`.
    #[inline(always)]
    pub(super) unsafe fn normed(&self, y: V, i: usize) -> V {
        // SAFETY: passed on.
        unsafe { y.sub(self.mean[i]).mul(self.inverse[i]) }
    }

    /// z of half `i`.
    #[inline(always)]
    pub(super) unsafe fn scaled(&self, y: V, i: usize) -> V {
        // SAFETY: passed on.
        unsafe { self.beta[i].mul_add(y.sub(self.mean[i]), self.scale[i]) }
    }

    /// dy of half `i` from g and h.
    #[inline(always)]
    pub(super) unsafe fn backward(&self, g: V, h: V, means: &[Pair<V>; 2], i: usize) -> V {
        // SAFETY: passed on.
        unsafe { self.scale[i].mul(g.sub(means[0][i]).mul_sub(h, means[1][i])) }
    }
}

compiled! {
    /// Rows of `size` (height, width) voxels are there.
    unsafe fn apply_plane<V, F: Format>(
        from: Rows<*const Chunk>,
        to: Rows<*mut Chunk>,
        size: [usize; 2],
        moments: &Moments,
        slope: f32,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let (m, slope) = (Lanes::<V>::of(moments), V::splat(&raw const slope));
            for y in 0..size[0] {
                let (from, to) = (from.base.add(y * from.pitch), to.base.add(y * to.pitch));
                for x in 0..size[1] {
                    let mut v = F::load::<V>(from.add(x * F::CHUNKS));
                    for i in 0..2 {
                        let z = m.scaled(v[i], i);
                        v[i] = z.leaky(z, slope);
                    }
                    F::store(v, to.add(x * F::CHUNKS));
                }
            }
        }
    }
}

/// a = leaky(norm(y)); without `y`, `a` holds y and is overwritten.
pub(crate) fn apply<V: Vector, F: Format>(
    y: Option<&Tensor>,
    moments: &[Moments],
    slope: f32,
    a: &mut Tensor,
) {
    let planes = Planes::of::<F>(&[a, y.unwrap_or(a)]);
    let size = [a.grid.size[1], a.grid.size[2]];
    assert_eq!(moments.len(), a.grid.batch * a.grid.blocks(), "moments");
    let out = Writable::of(a);
    planes.each(|i| {
        let to = out.rows::<F>(planes, i);
        let from = match y {
            Some(y) => rows::<F>(y, planes, i),
            None => Rows { base: to.base.cast_const(), pitch: to.pitch },
        };
        // SAFETY: an engine has only units that the CPU has; `Planes::of` asserted the shapes; each plane belongs to one
        // task.
        unsafe { apply_plane::<V, F>(from, to, size, &moments[planes.block(i)], slope) };
    });
}

compiled! {
    /// Σ g and Σ g·h of one plane, g being the gradient behind the leaky ReLU. Rows of `size` voxels are there.
    unsafe fn backward_sums<V, F: Format>(
        y: Rows<*const Chunk>,
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
                let (y, da) = (y.base.add(row * y.pitch), da.base.add(row * da.pitch));
                let (mut sum_g, mut sum_gh) = ([V::zero(); 2], [V::zero(); 2]);
                for x in 0..size[1] {
                    let (y, d) = (F::load::<V>(y.add(x * F::CHUNKS)), F::load::<V>(da.add(x * F::CHUNKS)));
                    for i in 0..2 {
                        let h = m.normed(y[i], i);
                        let g = d[i].leaky(m.beta[i].mul_add(m.gamma[i], h), slope);
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
    /// dy in place of da. Rows of `size` voxels are there.
    unsafe fn backward_plane<V, F: Format>(
        y: Rows<*const Chunk>,
        da: Rows<*mut Chunk>,
        size: [usize; 2],
        moments: &Moments,
        means: &[Wide; 2],
        slope: f32,
    ) {
        // SAFETY: by the contract.
        unsafe {
            let (m, slope) = (Lanes::<V>::of(moments), V::splat(&raw const slope));
            let means = [wide::<V>(&means[0]), wide::<V>(&means[1])];
            for row in 0..size[0] {
                let (y, da) = (y.base.add(row * y.pitch), da.base.add(row * da.pitch));
                for x in 0..size[1] {
                    let at = da.add(x * F::CHUNKS);
                    let (y, mut d) = (F::load::<V>(y.add(x * F::CHUNKS)), F::load::<V>(at));
                    for i in 0..2 {
                        let h = m.normed(y[i], i);
                        let g = d[i].leaky(m.beta[i].mul_add(m.gamma[i], h), slope);
                        d[i] = m.backward(g, h, &means, i);
                    }
                    F::store(d, at);
                }
            }
        }
    }
}

/// Turns the gradient `da` of the activation into the gradient of `y`, in place, and writes dγ and dβ. `sums` is scratch,
/// one entry per plane.
pub(crate) fn backward<V: Vector, F: Format>(
    y: &Tensor,
    moments: &[Moments],
    slope: f32,
    sums: &mut [Sums],
    da: &mut Tensor,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let planes = Planes::of::<F>(&[da, y]);
    let grid = da.grid;
    let size = [grid.size[1], grid.size[2]];
    assert_eq!(moments.len(), grid.batch * grid.blocks(), "moments");
    let sums = &mut sums[..planes.count()];
    let gradient = &*da;
    sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let (y, da) = (rows::<F>(y, planes, i), rows::<F>(gradient, planes, i));
        // SAFETY: as in `apply`; nothing but `sums` is written.
        *sums = unsafe { backward_sums::<V, F>(y, da, size, &moments[planes.block(i)], slope) };
    });
    let means = totals(&grid, sums, dgamma, dbeta);
    let out = Writable::of(da);
    planes.each(|i| {
        let (y, da) = (rows::<F>(y, planes, i), out.rows::<F>(planes, i));
        let block = planes.block(i);
        // SAFETY: as in `apply`.
        unsafe { backward_plane::<V, F>(y, da, size, &moments[block], &means[block], slope) };
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
