//! The linear kernel: output voxel `v` = bias + Σ over taps and input channels of weight · input voxel `v · step + tap`,
//! in tiles of up to 48 voxels × 32 output channels; with the sums of its outputs and their squares where a norm follows.

use super::packing::Packed;
use super::simd;
use super::tensor::{Chunk, Tensor, Wide};
use super::tile::{self, SUMS, Tiles, most_rows, sum_place};
use crate::cpu::Shared;
use rayon::prelude::*;
use std::ops::Range;

/// One kernel position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap {
    /// From an output voxel's base input voxel, in positions.
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
    pub weights: &'a Packed,
    /// Per output block.
    pub bias: Option<&'a [Wide]>,
    /// Add to what the output holds.
    pub accumulate: bool,
}

/// Sums and sums of squares of 32 channels over a part of the voxels of one sample.
pub(crate) type Sums = [[f64; 32]; 2];

/// Voxels of a tile that are written: from tile row `row` on, `count` of them, the first to position `out`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub row: usize,
    pub count: usize,
    /// Seen from voxel (0, 0, 0) of the job; steps by the job's x stride.
    pub out: usize,
    /// Index of the voxel among the job's voxels.
    pub voxel: usize,
}

/// Up to 48 voxels that lie equally far apart in the input.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// First input position, seen from voxel (0, 0, 0).
    pub input: usize,
    /// 16 rows each.
    pub m: usize,
    pub runs: Range<usize>,
}

/// The tiles of one sample, and where they are cut into units of work.
#[derive(Debug, Default)]
pub(super) struct Tiling {
    pub tiles: Vec<Tile>,
    pub runs: Vec<Run>,
    pub units: Vec<Range<usize>>,
}

/// Voxels of one unit of work: small enough to share evenly, large enough to forget the cost of a task.
const UNIT_VOXELS: usize = 2048;

impl Tiling {
    /// Covers `extent` voxels greedily, in their order, by tiles of up to `most` × 16 rows; steps per z, y, x.
    pub(super) fn new(
        extent: [usize; 3],
        in_step: [usize; 3],
        out_step: [usize; 3],
        most: usize,
    ) -> Self {
        let mut list = Self::default();
        let (mut open, mut unit_voxels, mut unit_start) = (None, 0, 0);
        for row in 0..extent[0] * extent[1] {
            let (z, y) = (row / extent[1], row % extent[1]);
            let (from, to) = (z * in_step[0] + y * in_step[1], z * out_step[0] + y * out_step[1]);
            let mut x = 0;
            while x < extent[2] {
                let input = from + x * in_step[2];
                let place = open.and_then(|start: usize| {
                    let distance = input - start;
                    let fits =
                        distance.is_multiple_of(in_step[2]) && distance / in_step[2] < most * 16;
                    fits.then_some(distance / in_step[2])
                });
                let Some(row_in_tile) = place else {
                    list.close();
                    let runs = list.runs.len()..list.runs.len();
                    list.tiles.push(Tile { input, m: 0, runs });
                    open = Some(input);
                    continue;
                };
                let count = (extent[2] - x).min(most * 16 - row_in_tile);
                list.runs.push(Run {
                    row: row_in_tile,
                    count,
                    out: to + x * out_step[2],
                    voxel: row * extent[2] + x,
                });
                x += count;
            }
            unit_voxels += extent[2];
            if unit_voxels >= UNIT_VOXELS || row + 1 == extent[0] * extent[1] {
                list.close();
                list.units.push(unit_start..list.tiles.len());
                (open, unit_voxels, unit_start) = (None, 0, list.tiles.len());
            }
        }
        list
    }

    /// Ends the last tile with the last run.
    fn close(&mut self) {
        if let (Some(tile), Some(run)) = (self.tiles.last_mut(), self.runs.last())
            && tile.m == 0
        {
            tile.runs.end = self.runs.len();
            tile.m = (run.row + run.count).div_ceil(16);
        }
    }

    /// The last input position that any tile reads, without taps.
    pub(super) fn reach(&self, step: usize) -> usize {
        self.tiles.iter().map(|t| t.input + (t.m * 16 - 1) * step).max().unwrap_or(0)
    }
}

/// Units of work of a whole layer that writes every voxel: how many [`Sums`] per sample and block there are.
pub(crate) fn units(size: [usize; 3]) -> usize {
    let rows = UNIT_VOXELS.div_ceil(size[2]);
    (size[0] * size[1]).div_ceil(rows)
}

/// One block of input channels: where its voxel (0, 0, 0) of sample 0 lies, and the way to the next sample, in chunks.
#[derive(Debug, Clone, Copy)]
struct Source {
    base: *const Chunk,
    sample: usize,
}

/// One block of output channels, alike.
#[derive(Debug, Clone, Copy)]
struct Target {
    base: *mut Chunk,
    sample: usize,
}

/// Blocks of all tensors, after asserting that every position from `first` before voxel (0, 0, 0) to `last` behind it
/// lies inside each tensor.
fn sources(tensors: &[&Tensor], first: isize, last: isize, parts: usize) -> Vec<Source> {
    let mut list = Vec::new();
    for t in tensors {
        let g = t.grid;
        assert_eq!(t.data.len(), g.len() * parts, "tensor of another precision");
        for b in 0..g.blocks() {
            let at = g.origin(0, b);
            let end = g.origin(g.batch - 1, b) as isize + last;
            assert!(at as isize + first >= 0 && end < g.len() as isize, "a tap leaves its tensor");
            list.push(Source {
                base: &raw const t.data[at * parts],
                sample: g.sample_pitch() * parts,
            });
        }
    }
    list
}

/// A [`Job`] with addresses.
struct Plan<'a> {
    job: &'a Job<'a>,
    tiling: Tiling,
    sources: Vec<Source>,
    targets: Vec<Target>,
    /// Bytes from a tile's base.
    taps: Vec<isize>,
    /// Chunks from the start of a block pair's weights, if the taps are all of them in their order.
    weights: *const Chunk,
    sums: Option<*mut Sums>,
}

/// Weights of the chosen taps alone, in the job's order.
fn chosen(packed: &Packed, taps: &[Tap]) -> Option<Vec<Chunk>> {
    let all = taps.len() == packed.taps && taps.iter().enumerate().all(|(i, t)| t.index == i);
    if all {
        return None;
    }
    let tap_chunks = packed.pair_chunks() / packed.taps;
    let pairs = packed.chunks.chunks_exact(packed.pair_chunks());
    let mut list = Vec::with_capacity(pairs.len() * taps.len() * tap_chunks);
    for pair in pairs {
        for tap in taps {
            list.extend_from_slice(&pair[tap.index * tap_chunks..][..tap_chunks]);
        }
    }
    Some(list)
}

/// Runs a job over all samples. `sums`, if wanted: `[block][sample][unit]`.
pub(crate) fn run<const P: usize>(
    job: &Job<'_>,
    outputs: &mut [&mut Tensor],
    sums: Option<&mut [Sums]>,
) {
    let batch = outputs[0].grid.batch;
    if job.extent.contains(&0) || batch == 0 {
        return;
    }
    let (input, output) = (job.inputs[0].grid, outputs[0].grid);
    let step = |pitch: [usize; 3], stride: [usize; 3]| [0, 1, 2].map(|a| pitch[a] * stride[a]);
    let in_step = step(input.pitches(), job.in_stride);
    let out_step = step(output.pitches(), job.out_stride);
    let tiling = Tiling::new(job.extent, in_step, out_step, most_rows(P));
    let first = job.taps.iter().map(|t| t.offset).min().unwrap_or(0);
    let last = job.taps.iter().map(|t| t.offset).max().unwrap_or(0);
    for t in job.inputs {
        assert!(t.grid.fits(&input), "input tensors of one grid");
        assert_eq!(t.grid.batch, batch, "batch");
    }
    let sources = sources(job.inputs, first, tiling.reach(in_step[2]) as isize + last, P);
    let mut targets = Vec::new();
    for t in outputs.iter_mut() {
        let g = t.grid;
        assert!(g.fits(&output), "output tensors of one grid");
        assert_eq!(t.data.len(), g.len() * P, "tensor of another precision");
        for a in 0..3 {
            let last = job.out_first[a] + (job.extent[a] - 1) * job.out_stride[a];
            assert!(last < g.size[a], "output voxels");
        }
        let start: usize = (0..3).map(|a| job.out_first[a] * g.pitches()[a]).sum();
        let data = t.data.as_mut_ptr();
        targets.extend((0..g.blocks()).map(|b| Target {
            base: data.wrapping_add((g.origin(0, b) + start) * P),
            sample: g.sample_pitch() * P,
        }));
    }
    assert_eq!(sources.len(), job.weights.inputs.len(), "input blocks of the packed weights");
    assert_eq!(targets.len(), job.weights.outputs.len(), "output blocks of the packed weights");
    assert!(job.bias.is_none_or(|b| b.len() == targets.len()), "bias");
    let chosen = chosen(job.weights, job.taps);
    let weights = chosen.as_deref().unwrap_or(&job.weights.chunks);
    if let Some(sums) = &sums {
        assert_eq!(sums.len(), targets.len() * batch * tiling.units.len(), "sums");
    }
    let bytes = (P * size_of::<Chunk>()) as isize;
    let plan = Plan {
        job,
        tiling,
        sources,
        targets,
        taps: job.taps.iter().map(|t| t.offset * bytes).collect(),
        weights: weights.as_ptr(),
        sums: sums.map(|s| s.as_mut_ptr()),
    };
    let units = plan.tiling.units.len();
    let shared = Shared(&plan);
    (0..plan.targets.len() * batch * units).into_par_iter().for_each(|task| {
        let plan = { shared }.0;
        let (block, rest) = (task / (batch * units), task % (batch * units));
        let _tiles = Tiles::open();
        // SAFETY: `available` held for the tiles to open; `run` has asserted that inputs and weights are there; every
        // task writes the voxels of its own block, sample and unit, and its own sums.
        unsafe {
            let sums = unit::<P>(plan, block, rest / units, rest % units);
            if let Some(all) = plan.sums {
                *all.add(task) = sums;
            }
        }
    });
}

/// The place of a unit's tile sums.
#[repr(C, align(64))]
pub(super) struct Place(pub [f32; SUMS]);

/// # Safety
/// Tiles are open, the plan's addresses are right, nobody else writes this unit.
unsafe fn unit<const P: usize>(plan: &Plan<'_>, block: usize, sample: usize, unit: usize) -> Sums {
    let job = plan.job;
    let outputs = job.weights.outputs[block].1;
    let n = if outputs > 16 { 2 } else { 1 };
    let step = job.in_stride[2];
    let functions =
        [1, 2, 3].map(|m| tile::multiply::<Finishing<'_, P>>(P, m.min(most_rows(P)), n, step));
    let pair = job.weights.pair_chunks() / job.weights.taps * job.taps.len();
    // A tile's sums are finished while the next one is summed up.
    let mut places = [Place([0.0; SUMS]), Place([0.0; SUMS])];
    let mut finishing = Finishing {
        bias: job.bias.map(|b| &b[block]),
        accumulate: job.accumulate,
        n,
        step: job.out_stride[2],
        place: &raw const places[0].0[0],
        runs: &[],
        row: 0,
        left: 0,
        out: std::ptr::null_mut(),
        sums: [Wide::ZERO; 2],
        total: [[0.0; 32]; 2],
    };
    // SAFETY: by the contract; a place is not written before its sums are finished.
    unsafe {
        finishing.out = plan.targets[block].base.add(sample * plan.targets[block].sample);
        let weights = plan.weights.add(block * plan.sources.len() * pair);
        let mut sources = vec![std::ptr::null(); plan.sources.len()];
        for (i, t) in plan.tiling.tiles[plan.tiling.units[unit].clone()].iter().enumerate() {
            for (to, source) in sources.iter_mut().zip(&plan.sources) {
                *to = source.base.add(sample * source.sample + t.input * P);
            }
            tile::zero();
            let steps = tile::Steps { sources: &sources, taps: &plan.taps, weights };
            functions[t.m - 1](&steps, &mut finishing);
            finishing.end();
            let place = places[i % 2].0.as_mut_ptr();
            tile::store(t.m, n, place);
            finishing.begin(place, &plan.tiling.runs[t.runs.clone()]);
        }
        finishing.end();
    }
    finishing.total
}

/// Finishes the sums of a tile, row by row: adds the bias or what is there, writes the voxels of `runs`, and adds them and
/// their squares to `total`.
pub(super) struct Finishing<'a, const P: usize> {
    pub bias: Option<&'a Wide>,
    pub accumulate: bool,
    /// Tiles of 16 output channels.
    pub n: usize,
    /// Output voxels from one to the next.
    pub step: usize,
    /// Where voxel (0, 0, 0) goes.
    pub out: *mut Chunk,
    pub total: Sums,
    /// The tile's sums.
    pub place: *const f32,
    /// What is to do: from `row` of the first run on, so many rows in all.
    pub runs: &'a [Run],
    pub row: usize,
    pub left: usize,
    /// Sums and squares of this tile.
    pub sums: [Wide; 2],
}

impl<'a, const P: usize> Finishing<'a, P> {
    /// Takes up a tile.
    pub(super) fn begin(&mut self, place: *const f32, runs: &'a [Run]) {
        (self.place, self.runs, self.row) = (place, runs, 0);
        self.left = runs.iter().map(|run| run.count).sum();
        self.sums = [Wide::ZERO; 2];
    }

    /// Does what is left of it.
    ///
    /// # Safety
    /// As [`Finishing::rows`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn end(&mut self) {
        // SAFETY: passed on.
        unsafe {
            self.rows(self.left);
            for (total, sums) in self.total.iter_mut().zip(&self.sums) {
                simd::add_to(total, simd::wide(sums));
            }
        }
        self.sums = [Wide::ZERO; 2];
    }

    /// Finishes up to `count` rows.
    ///
    /// # Safety
    /// The unit is available; the tile's sums and all positions of its runs are there.
    #[inline(always)]
    unsafe fn rows(&mut self, count: usize) {
        use std::arch::x86_64::*;
        let mut count = count.min(self.left);
        self.left -= count;
        // SAFETY: by the contract; tile rows lie inside their place.
        unsafe {
            let bias = self.bias.map_or(simd::zero(), |b| simd::wide(b));
            let mut sum = simd::wide(&self.sums[0]);
            let mut squares = simd::wide(&self.sums[1]);
            while count > 0 {
                let run = *self.runs.get_unchecked(0);
                let here = count.min(run.count - self.row);
                let mut to = self.out.add((run.out + self.row * self.step) * P);
                for row in run.row + self.row..run.row + self.row + here {
                    let at = self.place.add(sum_place(row / 16, 0) + row % 16 * 16);
                    let high = if self.n == 2 {
                        _mm512_load_ps(at.add(sum_place(0, 1)))
                    } else {
                        _mm512_setzero_ps()
                    };
                    let low = _mm512_add_ps(_mm512_load_ps(at), bias[0]);
                    let mut v = [low, _mm512_add_ps(high, bias[1])];
                    if self.accumulate {
                        let old = simd::load::<P>(to);
                        v = [_mm512_add_ps(v[0], old[0]), _mm512_add_ps(v[1], old[1])];
                    }
                    simd::store::<P>(v, to);
                    for i in 0..2 {
                        sum[i] = _mm512_add_ps(sum[i], v[i]);
                        squares[i] = _mm512_fmadd_ps(v[i], v[i], squares[i]);
                    }
                    to = to.add(self.step * P);
                }
                self.row += here;
                if self.row == run.count {
                    self.runs = self.runs.get_unchecked(1..);
                    self.row = 0;
                }
                count -= here;
            }
            for (place, value) in self.sums.iter_mut().zip([sum, squares]) {
                _mm512_store_ps(place.0.as_mut_ptr(), value[0]);
                _mm512_store_ps(place.0.as_mut_ptr().add(16), value[1]);
            }
        }
    }
}

impl<const P: usize> tile::Meanwhile for Finishing<'_, P> {
    /// # Safety
    /// As [`Finishing::rows`].
    #[inline(always)]
    unsafe fn some(&mut self, occasions: usize) {
        if self.left > 0 {
            // SAFETY: passed on. 48 rows, the most there are, are done by the last occasion.
            unsafe { self.rows(48usize.div_ceil(occasions)) };
        }
    }
}
