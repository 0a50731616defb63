//! The one convolution kernel: output voxel `v` = bias + Σ over taps and input channels of weight · input voxel
//! `v · step + tap`. Convolution, its gradient towards the input, transposed convolution, its gradient and the
//! 1×1×1 heads are all of this form (`ops::linear` makes the tap lists).
//!
//! A tile of up to 14 voxels × 2 blocks of 16 output channels stays in 28 vector registers while all input channels
//! of all taps go by: per input channel 2 loads of weights, 14 broadcasts and 28 fused multiply-adds, which keeps
//! both multiply-add ports of an AVX-512 core busy. Narrow rows are tiled two or three at a time.

use super::Shared;
use super::simd::{Portable, Vector};
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane, Layout, Tensor};
use rayon::prelude::*;

/// One kernel position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap {
    /// From an output voxel's base input voxel, in lanes.
    pub offset: isize,
    /// Position in the packed weights.
    pub index: usize,
}

/// Everything that one call needs besides the outputs.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Tensors of one grid whose channels follow each other.
    pub inputs: &'a [&'a Tensor],
    /// Input voxels per output voxel, z, y, x; the last is 1 or 2.
    pub in_stride: [usize; 3],
    /// Every how many voxels an output is written, z, y, x.
    pub out_stride: [usize; 3],
    /// The first voxel that is written, z, y, x.
    pub out_first: [usize; 3],
    /// Voxels written per axis.
    pub extent: [usize; 3],
    pub taps: &'a [Tap],
    /// `[group of output blocks][input block][tap][input channel][block in group]`.
    pub weights: &'a [Lane],
    /// Taps in the packed weights (`taps` may be some of them).
    pub packed_taps: usize,
    /// Per output block.
    pub bias: Option<&'a [Lane]>,
    /// Add to what the output holds.
    pub accumulate: bool,
}

/// One block of channels: where its voxel (0, 0, 0) lies, and how many channels are in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub base: *const Lane,
    pub channels: usize,
}

/// Lanes per step of sample, z, y, x when every `stride`-th voxel is taken.
pub(super) fn steps(l: &Layout, stride: [usize; 3]) -> [usize; 4] {
    [l.sample_pitch(), l.plane_pitch() * stride[0], l.row_pitch() * stride[1], stride[2]]
}

/// How far the last of `extent` (samples, z, y, x) voxels lies from the first.
pub(super) fn reach(extent: [usize; 4], step: [usize; 4]) -> usize {
    (0..4).map(|i| (extent[i] - 1) * step[i]).sum()
}

/// Blocks of all `tensors` from `sample` on, after asserting that voxels from `first_tap` before to `reach` +
/// `last_tap` behind voxel (0, 0, 0) lie inside each tensor.
pub(super) fn sources(
    tensors: &[&Tensor],
    sample: usize,
    reach: usize,
    taps: &[Tap],
) -> Vec<Source> {
    let first = taps.iter().map(|t| t.offset).min().unwrap_or(0);
    let last = taps.iter().map(|t| t.offset).max().unwrap_or(0);
    let mut list = Vec::new();
    for t in tensors {
        let l = t.layout;
        for b in 0..l.blocks() {
            let start = sample * l.sample_pitch() + b * l.block_pitch() + l.origin();
            let inside = start as isize + first >= 0
                && start as isize + reach as isize + last < t.data.len() as isize;
            assert!(inside, "a tap leaves its tensor");
            list.push(Source { base: &raw const t.data[start], channels: l.block_channels(b) });
        }
    }
    list
}

/// A [`Job`] with addresses; steps count lanes.
#[derive(Debug)]
struct Plan<'a> {
    job: &'a Job<'a>,
    sources: Vec<Source>,
    in_step: [usize; 4],
    targets: Vec<*mut Lane>,
    out_step: [usize; 4],
    /// Samples, z, y, x.
    extent: [usize; 4],
}

/// One tile of one job.
struct Tile<'a> {
    plan: &'a Plan<'a>,
    in_offset: usize,
    out_offset: usize,
    /// First output block.
    block: usize,
    /// Where the weights of this group of output blocks start.
    weights: usize,
}

type TileFn = unsafe fn(&Tile<'_>);

/// # Safety
/// The CPU has the features of `V`; `SX` is the job's x stride; the tile lies inside the plan's extent; nobody else
/// uses its output voxels.
#[inline(always)]
unsafe fn tile<V, const R: usize, const C: usize, const NB: usize, const SX: usize>(t: &Tile<'_>)
where
    V: Vector,
{
    let (plan, job) = (t.plan, t.plan.job);
    // SAFETY: `plan` has asserted that all voxels of the extent lie inside their tensors for every tap, `run` that the
    // weights are as long as the loops here read.
    unsafe {
        let mut acc = [[[V::zero(); NB]; C]; R];
        let mut block_weights = job.weights.as_ptr().add(t.weights);
        for source in &plan.sources {
            let base = source.base.add(t.in_offset);
            for tap in job.taps {
                let mut w = block_weights.add(tap.index * LANES * NB);
                let voxel = base.offset(tap.offset).cast::<f32>();
                for channel in 0..source.channels {
                    let mut weight = [V::zero(); NB];
                    for b in 0..NB {
                        weight[b] = V::load(w.add(b));
                    }
                    for r in 0..R {
                        let row = voxel.add(r * plan.in_step[2] * LANES + channel);
                        for c in 0..C {
                            let x = V::splat(row.add(c * SX * LANES));
                            for b in 0..NB {
                                acc[r][c][b] = acc[r][c][b].mul_add(x, weight[b]);
                            }
                        }
                    }
                    w = w.add(NB);
                }
            }
            block_weights = block_weights.add(job.packed_taps * LANES * NB);
        }
        // First only this: a larger loop here would keep the compiler from holding the sums in registers above.
        let mut sums = [[[Lane::ZERO; NB]; C]; R];
        for r in 0..R {
            for c in 0..C {
                for b in 0..NB {
                    acc[r][c][b].store(&mut sums[r][c][b]);
                }
            }
        }
        for b in 0..NB {
            let bias = job.bias.map_or(V::zero(), |bias| V::load(&bias[t.block + b]));
            for r in 0..R {
                for c in 0..C {
                    let step = r * plan.out_step[2] + c * plan.out_step[3];
                    let out = plan.targets[t.block + b].add(t.out_offset + step);
                    let start = if job.accumulate { V::load(out) } else { bias };
                    start.add(V::load(&sums[r][c][b])).store(out);
                }
            }
        }
    }
}

/// Defines a level's tile functions and the function that picks one by rows, columns, blocks and x step.
macro_rules! level {
    ($pick:ident, $entry:ident, $vector:ty, [$($feature:literal)?], $nbs:tt, $shapes:tt) => {
        /// # Safety
        /// See [`tile`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $entry<const R: usize, const C: usize, const NB: usize, const SX: usize>(
            t: &Tile<'_>,
        ) {
            // SAFETY: passed on.
            unsafe { tile::<$vector, R, C, NB, SX>(t) }
        }

        fn $pick(rows: usize, columns: usize, blocks: usize, step: usize) -> TileFn {
            level!(@blocks $entry, (rows, columns, blocks, step), $nbs, $shapes)
        }
    };
    (@blocks $entry:ident, $key:expr, [$($nb:literal)*], $shapes:tt) => {{
        let (rows, columns, blocks, step) = $key;
        match (blocks, step) {
            $(
                ($nb, 1) => level!(@shapes $entry, (rows, columns), $nb, 1, $shapes),
                ($nb, 2) => level!(@shapes $entry, (rows, columns), $nb, 2, $shapes),
            )*
            key => unreachable!("no tile for (blocks, step) = {key:?}"),
        }
    }};
    (@shapes $entry:ident, $key:expr, $nb:literal, $step:literal, [$($r:literal x [$($c:literal)*])*]) => {
        match $key {
            $($(($r, $c) => $entry::<$r, $c, $nb, $step>,)*)*
            key => unreachable!("no tile of (rows, columns) = {key:?}"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
level!(pick_avx512, entry_avx512, super::simd::Avx512, ["avx512f"], [1 2], [
    1 x [1 2 3 4 5 6 7 8 9 10 11 12 13 14]
    2 x [1 2 3 4 5 6 7]
    3 x [1 2 3 4]
]);
#[cfg(target_arch = "x86_64")]
level!(pick_avx2, entry_avx2, super::simd::Avx2, ["avx2,fma"], [1], [
    1 x [1 2 3 4 5 6]
    2 x [1 2 3]
    3 x [1 2]
]);
level!(pick_portable, entry_portable, Portable, [], [1], [1 x [1 2 3]]);

/// Output blocks per tile: the packing of the weights depends on it.
pub(crate) fn group_blocks(level: SimdLevel) -> usize {
    if level == SimdLevel::Avx512 { 2 } else { 1 }
}

/// Most voxels per tile, and most rows.
fn tile_limits(level: SimdLevel) -> (usize, usize) {
    match level {
        SimdLevel::Avx512 => (14, 3),
        SimdLevel::Avx2 => (6, 3),
        SimdLevel::Portable => (3, 1),
    }
}

fn pick(level: SimdLevel, rows: usize, columns: usize, blocks: usize, step: usize) -> TileFn {
    match level {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => pick_avx512(rows, columns, blocks, step),
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => pick_avx2(rows, columns, blocks, step),
        _ => pick_portable(rows, columns, blocks, step),
    }
}

/// How one band of rows is cut: rows at a time, then columns in at most two widths that differ by one.
struct Band {
    rows: usize,
    wide: (usize, TileFn),
    wide_count: usize,
    narrow: (usize, TileFn),
    narrow_count: usize,
}

impl Band {
    fn new(level: SimdLevel, rows: usize, width: usize, blocks: usize, step: usize) -> Self {
        let count = width.div_ceil(tile_limits(level).0 / rows);
        let (narrow, wide_count) = (width / count, width % count);
        let function = |columns| (columns, pick(level, rows, columns, blocks, step));
        Self {
            rows,
            wide: function(if wide_count > 0 { narrow + 1 } else { narrow }),
            wide_count,
            narrow: function(narrow),
            narrow_count: count - wide_count,
        }
    }

    /// Cycles of one input channel and tap over one band, by the ports of an AVX-512 core: two multiply-adds and two
    /// loads per cycle, weights from the second-level cache at half a lane per cycle, four cycles of latency.
    fn cost(&self, blocks: usize) -> f64 {
        let tile = |columns: usize| {
            let (voxels, blocks) = ((self.rows * columns) as f64, blocks as f64);
            (voxels * blocks / 2.0).max((voxels + blocks) / 2.0).max(2.0 * blocks).max(4.0) + 0.5
        };
        tile(self.wide.0) * self.wide_count as f64 + tile(self.narrow.0) * self.narrow_count as f64
    }
}

/// The cheapest cut of a plane of `height` × `width` voxels: a band for most rows, then one for each remainder.
fn bands(level: SimdLevel, height: usize, width: usize, blocks: usize, step: usize) -> Vec<Band> {
    let cut = |rows: usize| {
        let mut list = vec![Band::new(level, rows, width, blocks, step)];
        if !height.is_multiple_of(rows) {
            list.push(Band::new(level, height % rows, width, blocks, step));
        }
        list
    };
    let cost = |rows: usize| {
        let list = cut(rows);
        (height / rows) as f64 * list[0].cost(blocks) + list.get(1).map_or(0.0, |b| b.cost(blocks))
    };
    let limit = tile_limits(level).1.min(height);
    let best = (1..=limit).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(1);
    cut(best)
}

/// Voxels of one task: small enough to share evenly, large enough to forget the cost of a task.
const TASK_VOXELS: usize = 2048;

/// Runs a job over all samples. Samples of tensors that are concatenated can lie at different distances; then they
/// run one after the other.
pub(crate) fn run(level: SimdLevel, job: &Job<'_>, outputs: &mut [&mut Tensor]) {
    let batch = outputs[0].layout.batch;
    let out_blocks: Vec<usize> = outputs.iter().map(|t| t.layout.blocks()).collect();
    let in_blocks: Vec<usize> = job.inputs.iter().map(|t| t.layout.blocks()).collect();
    let even = |list: &[usize]| list.iter().all(|n| *n == list[0]);
    assert!(job.inputs.iter().all(|t| t.layout.batch == batch), "batch");
    if job.extent.contains(&0) || batch == 0 {
        return;
    }
    let (inputs, targets) = (in_blocks.iter().sum::<usize>(), out_blocks.iter().sum::<usize>());
    assert_eq!(job.weights.len(), targets * inputs * job.packed_taps * LANES, "packed weights");
    assert!(job.taps.iter().all(|t| t.index < job.packed_taps), "tap index");
    assert!(job.bias.is_none_or(|b| b.len() == targets), "bias");
    let at_once = if even(&out_blocks) && even(&in_blocks) { batch } else { 1 };
    for sample in (0..batch).step_by(at_once) {
        run_samples(level, &plan(job, outputs, sample, at_once));
    }
}

/// Works out addresses, and asserts that all of them lie inside their tensors.
fn plan<'a>(
    job: &'a Job<'a>,
    outputs: &mut [&mut Tensor],
    sample: usize,
    samples: usize,
) -> Plan<'a> {
    let extent = [samples, job.extent[0], job.extent[1], job.extent[2]];
    let in_step = steps(&job.inputs[0].layout, job.in_stride);
    let out_step = steps(&outputs[0].layout, job.out_stride);
    let mut targets = Vec::new();
    for t in outputs {
        let l = t.layout;
        assert_eq!(steps(&l, job.out_stride)[1..], out_step[1..], "output tensors of one grid");
        for axis in 0..3 {
            let last = job.out_first[axis] + (job.extent[axis] - 1) * job.out_stride[axis];
            assert!(last < l.size[axis], "output voxels");
        }
        let first = steps(&l, [1; 3]);
        let start = (0..3).map(|a| job.out_first[a] * first[a + 1]).sum::<usize>() + l.origin();
        let base = t.data[sample * l.sample_pitch()..][..samples * l.sample_pitch()].as_mut_ptr();
        targets.extend((0..l.blocks()).map(|b| base.wrapping_add(start + b * l.block_pitch())));
    }
    for t in job.inputs {
        assert_eq!(steps(&t.layout, job.in_stride)[1..], in_step[1..], "input tensors of one grid");
    }
    let sources = sources(job.inputs, sample, reach(extent, in_step), job.taps);
    Plan { job, sources, in_step, targets, out_step, extent }
}

/// Tasks are (group of output blocks, sample, z, part of the rows), the group outermost so that a thread keeps its
/// weights in the second-level cache.
fn run_samples(level: SimdLevel, plan: &Plan<'_>) {
    let [batch, depth, height, width] = plan.extent;
    let per_group = group_blocks(level);
    let lanes_per_block = plan.sources.len() * plan.job.packed_taps * LANES;
    let groups = plan.targets.len().div_ceil(per_group);
    let rows_per_task = (TASK_VOXELS.div_ceil(width).next_multiple_of(6)).min(height);
    let parts = height.div_ceil(rows_per_task);
    let shared = Shared(plan);
    (0..groups * batch * depth * parts).into_par_iter().for_each(|task| {
        let plan = { shared }.0;
        let (rest, part) = (task / parts, task % parts);
        let (rest, z) = (rest / depth, rest % depth);
        let (group, n) = (rest / batch, rest % batch);
        let block = group * per_group;
        let blocks = per_group.min(plan.targets.len() - block);
        let rows = rows_per_task.min(height - part * rows_per_task);
        let mut y = part * rows_per_task;
        let end = y + rows;
        for band in bands(level, rows, width, blocks, plan.in_step[3]) {
            while y + band.rows <= end {
                let at = |step: &[usize; 4]| n * step[0] + z * step[1] + y * step[2];
                let mut tile = Tile {
                    plan,
                    in_offset: at(&plan.in_step),
                    out_offset: at(&plan.out_step),
                    block,
                    weights: block * lanes_per_block,
                };
                let widths = [(band.wide, band.wide_count), (band.narrow, band.narrow_count)];
                for ((columns, function), count) in widths {
                    for _ in 0..count {
                        // SAFETY: `pick` chose a function of an available level with this job's x step; the tiles
                        // cut the extent, whose voxels `plan` found inside their tensors. Tasks write different
                        // voxels or blocks, and the outputs are borrowed exclusively until `run` returns.
                        unsafe { function(&tile) };
                        tile.in_offset += columns * plan.in_step[3];
                        tile.out_offset += columns * plan.out_step[3];
                    }
                }
                y += band.rows;
            }
        }
    });
}
