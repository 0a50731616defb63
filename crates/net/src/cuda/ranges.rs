//! How passes over voxels are cut into blocks, and how what the blocks add up becomes sums of samples.

use super::Context;
use super::tensor::{Layout, small};
use kernels::Pointer;

/// Of a block, as `kPassThreads` in `kernels/device.cuh`.
pub(super) const THREADS: u32 = 256;

/// Blocks of a sample, at most: enough for any card, few enough that their sums are quickly added.
const MOST_RANGES: usize = 512;

/// Voxels of a thread, at least: what it loads per channel must pay.
const LEAST_VOXELS: usize = 8;

/// The voxels of a sample in ranges, one per block: a function of the shape alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub voxels: u32,
    /// Of eight channels.
    pub groups: u32,
    /// Voxels of one.
    pub range: u32,
    pub count: usize,
}

impl Ranges {
    pub(super) fn of(layout: &Layout) -> Self {
        let groups = layout.pitch() / 8;
        let lanes = THREADS as usize / groups;
        assert!(lanes > 0, "{} channels, at most {} are possible", layout.channels, 8 * THREADS);
        let least = layout.voxels().div_ceil(MOST_RANGES).max(LEAST_VOXELS * lanes);
        let range = least.next_multiple_of(lanes);
        let count = layout.voxels().div_ceil(range);
        Self { voxels: small(layout.voxels()), groups: small(groups), range: small(range), count }
    }
}

kernels::arguments! {
    struct RangeTotalsArgs {
        partials: Pointer,
        totals: Pointer,
        ranges: u32,
        columns: u32,
    }
}

/// f64 `[sample][range][column]` to `[sample][column]`; the columns are a multiple of 8.
pub(super) fn totals(
    ctx: &Context,
    partials: Pointer,
    totals: Pointer,
    ranges: usize,
    columns: usize,
    batch: usize,
) {
    let arguments =
        RangeTotalsArgs { partials, totals, ranges: small(ranges), columns: small(columns) };
    ctx.launch("range_totals", [columns / 8, batch, 1], THREADS, 0, &arguments);
}
