//! The weight-gradient kernel: for every tap, Σ over voxels of large voxel `v · step + tap` (outer product) small
//! voxel `v`. `large` and `small` are the two ends of a convolution, see `ops::linear`.
//!
//! For one tap, 8 channels of `large` × 2 blocks of `small` stay in 16 vector registers while a few rows go by (they
//! stay in the first-level cache over all taps of one z, y); then the sums return to a partial gradient in memory.

use super::Shared;
use super::linear::{Source, Tap, group_blocks, reach, sources, steps};
use super::simd::{Portable, Vector};
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane, Tensor};
use rayon::prelude::*;

/// Everything that one call needs.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Tensors of one grid whose channels follow each other.
    pub large: &'a [&'a Tensor],
    /// Large voxels per small voxel, z, y, x.
    pub stride: [usize; 3],
    pub small: &'a Tensor,
    pub taps: &'a [Tap],
    /// First sample, and how many.
    pub samples: (usize, usize),
    /// Planes (samples × z) are cut into this many chunks with a partial sum each. Part of the result's definition:
    /// it must not depend on the number of threads.
    pub chunks: usize,
}

impl Job<'_> {
    pub(crate) fn large_blocks(&self) -> usize {
        self.large.iter().map(|t| t.layout.blocks()).sum()
    }

    /// Lanes of one partial sum `[large block][small group][tap][large channel][block in group]`.
    pub(crate) fn partial_len(&self) -> usize {
        self.large_blocks() * self.small.layout.blocks() * self.taps.len() * LANES
    }
}

/// A [`Job`] with addresses; steps count lanes.
struct Plan {
    large: Vec<Source>,
    large_step: [usize; 4],
    small: Vec<Source>,
    small_step: [usize; 4],
    /// Samples, z, y, x of the small side.
    extent: [usize; 4],
    taps: Vec<Tap>,
}

/// Some rows of one plane, for one tap.
struct Rows {
    large: *const f32,
    large_row: usize,
    large_column: usize,
    small: [*const Lane; 2],
    small_row: usize,
    rows: usize,
    width: usize,
    sums: *mut Lane,
}

type RowsFn = unsafe fn(&Rows);

/// # Safety
/// The CPU has the features of `V`; all rows of `large` (with `A` channels), of `NB` blocks of `small`, and `A` × `NB`
/// lanes of sums exist; nobody else uses the sums.
#[inline(always)]
unsafe fn rows<V: Vector, const A: usize, const NB: usize>(job: &Rows) {
    // SAFETY: by the contract above.
    unsafe {
        let mut acc = [[V::zero(); NB]; A];
        for a in 0..A {
            for b in 0..NB {
                acc[a][b] = V::load(job.sums.add(a * NB + b));
            }
        }
        for row in 0..job.rows {
            let large = job.large.add(row * job.large_row * LANES);
            for x in 0..job.width {
                let voxel = large.add(x * job.large_column * LANES);
                let mut s = [V::zero(); NB];
                for b in 0..NB {
                    s[b] = V::load(job.small[b].add(row * job.small_row + x));
                }
                for a in 0..A {
                    let l = V::splat(voxel.add(a));
                    for b in 0..NB {
                        acc[a][b] = acc[a][b].mul_add(l, s[b]);
                    }
                }
            }
        }
        for a in 0..A {
            for b in 0..NB {
                acc[a][b].store(job.sums.add(a * NB + b));
            }
        }
    }
}

macro_rules! level {
    ($pick:ident, $entry:ident, $vector:ty, [$($feature:literal)?], [$($a:literal x $nb:literal)*]) => {
        /// # Safety
        /// See [`rows`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $entry<const A: usize, const NB: usize>(job: &Rows) {
            // SAFETY: passed on.
            unsafe { rows::<$vector, A, NB>(job) }
        }

        fn $pick(channels: usize, blocks: usize) -> RowsFn {
            match (channels, blocks) {
                $(($a, $nb) => $entry::<$a, $nb>,)*
                key => unreachable!("no kernel for (channels, blocks) = {key:?}"),
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
level!(pick_avx512, entry_avx512, super::simd::Avx512, ["avx512f"],
    [1 x 1 2 x 1 4 x 1 8 x 1 16 x 1 1 x 2 2 x 2 4 x 2 8 x 2]);
#[cfg(target_arch = "x86_64")]
level!(pick_avx2, entry_avx2, super::simd::Avx2, ["avx2,fma"], [1 x 1 2 x 1 4 x 1]);
level!(pick_portable, entry_portable, Portable, [], [1 x 1 2 x 1]);

fn pick(level: SimdLevel, channels: usize, blocks: usize) -> RowsFn {
    match level {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => pick_avx512(channels, blocks),
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => pick_avx2(channels, blocks),
        _ => pick_portable(channels, blocks),
    }
}

/// Most channels of the large side that one pass holds.
fn channel_limit(level: SimdLevel, blocks: usize) -> usize {
    match level {
        SimdLevel::Avx512 => 16 / blocks,
        SimdLevel::Avx2 => 4,
        SimdLevel::Portable => 2,
    }
}

/// Voxels of a group of rows: two blocks of `small` and one of `large` fill most of 48 KiB.
const GROUP_VOXELS: usize = 160;

/// Adds up `chunks` partial sums, each `partial_len` lanes, into `partials` (overwritten).
pub(crate) fn run(level: SimdLevel, job: &Job<'_>, partials: &mut [Lane]) {
    let (first, samples) = job.samples;
    let layout = job.small.layout;
    let extent = [samples, layout.size[0], layout.size[1], layout.size[2]];
    assert!(!extent.contains(&0), "empty small side");
    let large_step = steps(&job.large[0].layout, job.stride);
    for t in job.large {
        assert_eq!(steps(&t.layout, job.stride)[1..], large_step[1..], "large tensors of one grid");
        assert!(samples == 1 || t.layout.sample_pitch() == large_step[0], "sample distance");
    }
    let small_step = steps(&layout, [1; 3]);
    let plan = Plan {
        large: sources(job.large, first, reach(extent, large_step), job.taps),
        large_step,
        small: sources(&[job.small], first, reach(extent, small_step), &[]),
        small_step,
        extent,
        taps: job.taps.to_vec(),
    };
    assert_eq!(partials.len(), job.partial_len() * job.chunks, "partial sums");
    run_chunks(level, &plan, job.chunks, partials);
}

fn run_chunks(level: SimdLevel, plan: &Plan, chunks: usize, partials: &mut [Lane]) {
    let per_group = group_blocks(level);
    let small_blocks = plan.small.len();
    let groups = small_blocks.div_ceil(per_group);
    let planes = plan.extent[0] * plan.extent[1];
    let lanes = plan.taps.len() * LANES;
    let shared = Shared((plan, partials.as_mut_ptr()));
    (0..chunks * plan.large.len() * groups).into_par_iter().for_each(|task| {
        let (plan, partials) = { shared }.0;
        let (rest, group) = (task / groups, task % groups);
        let (chunk, large) = (rest / plan.large.len(), rest % plan.large.len());
        let block = group * per_group;
        let blocks = per_group.min(small_blocks - block);
        let start = ((chunk * plan.large.len() + large) * small_blocks + block) * lanes;
        // SAFETY: (chunk, large, group) names a part of `partials` of its own, inside by the assertion in `run`.
        let sums = unsafe { std::slice::from_raw_parts_mut(partials.add(start), lanes * blocks) };
        sums.fill(Lane::ZERO);
        let of_chunk = |i: usize| i * planes / chunks;
        for plane in of_chunk(chunk)..of_chunk(chunk + 1) {
            sum_plane(level, plan, plane, plan.large[large], &plan.small[block..][..blocks], sums);
        }
    });
}

fn sum_plane(
    level: SimdLevel,
    plan: &Plan,
    plane: usize,
    large: Source,
    small: &[Source],
    sums: &mut [Lane],
) {
    let [_, depth, height, width] = plan.extent;
    let (n, z) = (plane / depth, plane % depth);
    let (group_rows, blocks) = ((GROUP_VOXELS / width).max(1), small.len());
    for y in (0..height).step_by(group_rows) {
        let at = |step: &[usize; 4]| n * step[0] + z * step[1] + y * step[2];
        for (t, tap) in plan.taps.iter().enumerate() {
            let mut channel = 0;
            while channel < large.channels {
                let rest = large.channels - channel;
                let count = (1 << rest.ilog2()).min(channel_limit(level, blocks));
                let sums = &mut sums[(t * LANES + channel) * blocks..][..count * blocks];
                // SAFETY: `run` has asserted that all voxels of the extent lie inside their tensors for every tap;
                // `count` more channels exist; `pick` chose a kernel of an available level, and the slice above
                // has the lanes that it adds to.
                unsafe {
                    let voxel = large.base.add(at(&plan.large_step)).offset(tap.offset);
                    let rows = Rows {
                        large: voxel.cast::<f32>().add(channel),
                        large_row: plan.large_step[2],
                        large_column: plan.large_step[3],
                        small: [0, blocks - 1].map(|b| small[b].base.add(at(&plan.small_step))),
                        small_row: plan.small_step[2],
                        rows: group_rows.min(height - y),
                        width,
                        sums: sums.as_mut_ptr(),
                    };
                    pick(level, count, blocks)(&rows);
                }
                channel += count;
            }
        }
    }
}
