//! The linear kernel: output voxel `v` = bias + Σ over taps and input channels of weight · input voxel `v · step + tap`,
//! in tiles of some voxels × 32 output channels; with the sums of its outputs and their squares where a norm follows.

use super::Shared;
use super::format::Format;
use super::grid::{BLOCK, Chunk, Tensor, Wide};
use super::packing::Packed;
use super::unit::{Extent, Input, MOST_ROWS, Meanwhile, SUMS, Steps, Unit, sum_place};
use super::vector::{Vector, compiled};
use rayon::prelude::*;
use std::marker::PhantomData;
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

/// Voxels that lie equally far apart in the input.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// First input position, seen from voxel (0, 0, 0).
    pub input: usize,
    /// With those between runs, which are not written.
    pub rows: usize,
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
    /// Covers `extent` voxels greedily, in their order, by tiles of up to `most` voxels; steps per z, y, x.
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
                    let fits = distance.is_multiple_of(in_step[2]) && distance / in_step[2] < most;
                    fits.then_some(distance / in_step[2])
                });
                let Some(row_in_tile) = place else {
                    list.close();
                    let runs = list.runs.len()..list.runs.len();
                    list.tiles.push(Tile { input, rows: 0, runs });
                    open = Some(input);
                    continue;
                };
                let count = (extent[2] - x).min(most - row_in_tile);
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
            && tile.rows == 0
        {
            tile.runs.end = self.runs.len();
            tile.rows = run.row + run.count;
        }
    }

    /// The last input position that any tile reads, without taps, where voxels are summed up by so many.
    pub(super) fn reach(&self, step: usize, round: usize) -> usize {
        let last = |t: &Tile| t.input + (t.rows.next_multiple_of(round) - 1) * step;
        self.tiles.iter().map(last).max().unwrap_or(0)
    }
}

/// Units of work of a whole layer that writes every voxel: how many [`Sums`] per sample and block there are.
pub(crate) fn units(size: [usize; 3]) -> usize {
    let rows = UNIT_VOXELS.div_ceil(size[2]);
    (size[0] * size[1]).div_ceil(rows)
}

/// One block of input channels: where its voxel (0, 0, 0) of sample 0 lies, the way to the next sample in chunks, and the
/// groups of channels in use.
#[derive(Debug, Clone, Copy)]
struct Source {
    base: *const Chunk,
    sample: usize,
    groups: usize,
}

/// One block of output channels, alike.
#[derive(Debug, Clone, Copy)]
struct Target {
    base: *mut Chunk,
    sample: usize,
}

/// Groups of channels of a block that holds so many.
pub(super) fn groups<F: Format>(channels: usize) -> usize {
    channels.min(BLOCK).div_ceil(F::GROUP)
}

/// Blocks of all tensors, after asserting that every position from `first` before voxel (0, 0, 0) to `last` behind it
/// lies inside each tensor.
fn sources<F: Format>(tensors: &[&Tensor], first: isize, last: isize) -> Vec<Source> {
    let mut list = Vec::new();
    for t in tensors {
        let g = t.grid;
        assert_eq!(t.data.len(), g.len() * F::CHUNKS, "tensor of another precision");
        for b in 0..g.blocks() {
            let at = g.origin(0, b);
            let end = g.origin(g.batch - 1, b) as isize + last;
            assert!(at as isize + first >= 0 && end < g.len() as isize, "a tap leaves its tensor");
            list.push(Source {
                base: &raw const t.data[at * F::CHUNKS],
                sample: g.sample_pitch() * F::CHUNKS,
                groups: groups::<F>(g.channels - b * BLOCK),
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
pub(crate) fn run<U: Unit, F: Format>(
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
    let tiling = Tiling::new(job.extent, in_step, out_step, U::rows::<F>());
    let first = job.taps.iter().map(|t| t.offset).min().unwrap_or(0);
    let last = job.taps.iter().map(|t| t.offset).max().unwrap_or(0);
    for t in job.inputs {
        assert!(t.grid.fits(&input), "input tensors of one grid");
        assert_eq!(t.grid.batch, batch, "batch");
    }
    let reach = tiling.reach(in_step[2], U::ROUND) as isize;
    let sources = sources::<F>(job.inputs, first, reach + last);
    let mut targets = Vec::new();
    for t in outputs.iter_mut() {
        let g = t.grid;
        assert!(g.fits(&output), "output tensors of one grid");
        assert_eq!(t.data.len(), g.len() * F::CHUNKS, "tensor of another precision");
        for a in 0..3 {
            let last = job.out_first[a] + (job.extent[a] - 1) * job.out_stride[a];
            assert!(last < g.size[a], "output voxels");
        }
        let start: usize = (0..3).map(|a| job.out_first[a] * g.pitches()[a]).sum();
        let data = t.data.as_mut_ptr();
        targets.extend((0..g.blocks()).map(|b| Target {
            base: data.wrapping_add((g.origin(0, b) + start) * F::CHUNKS),
            sample: g.sample_pitch() * F::CHUNKS,
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
    let bytes = (F::CHUNKS * size_of::<Chunk>()) as isize;
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
    let shared = Shared((&raw const plan).cast_mut());
    (0..plan.targets.len() * batch * units).into_par_iter().for_each(|task| {
        let (block, rest) = (task / (batch * units), task % (batch * units));
        // SAFETY: the plan lives until all tasks are done; an engine has only units that the CPU has; `run` has asserted
        // that inputs and weights are there; every task writes the voxels of its own block, sample and unit, and its own
        // sums.
        unsafe {
            let plan = &*shared.get();
            let sums = unit::<U, F>(plan, block, rest / units, rest % units);
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
/// The CPU has the unit, the plan's addresses are right, nobody else writes this unit.
unsafe fn unit<U: Unit, F: Format>(
    plan: &Plan<'_>,
    block: usize,
    sample: usize,
    unit: usize,
) -> Sums {
    let job = plan.job;
    let halves = if job.weights.outputs[block].1 > 16 { 2 } else { 1 };
    let step = job.in_stride[2];
    let pair = job.weights.pair_chunks() / job.weights.taps * job.taps.len();
    // A tile's sums are finished while the next one is summed up.
    let mut places = [Place([0.0; SUMS]), Place([0.0; SUMS])];
    // SAFETY: by the contract; a place is not written before its sums are finished.
    unsafe {
        let _open = U::open();
        let out = plan.targets[block].base.add(sample * plan.targets[block].sample);
        let bias = job.bias.map(|b| &b[block]);
        let mut finishing = Finishing::new(bias, job.accumulate, halves, job.out_stride[2], out);
        let weights = plan.weights.add(block * plan.sources.len() * pair);
        let input = |source: &Source| Input { voxel: source.base, groups: source.groups };
        let mut inputs: Vec<Input> = plan.sources.iter().map(input).collect();
        for (i, t) in plan.tiling.tiles[plan.tiling.units[unit].clone()].iter().enumerate() {
            for (to, source) in inputs.iter_mut().zip(&plan.sources) {
                to.voxel = source.base.add(sample * source.sample + t.input * F::CHUNKS);
            }
            let steps = Steps { inputs: &inputs, taps: &plan.taps, weights };
            let place = places[i % 2].0.as_mut_ptr();
            let extent = Extent { rows: t.rows, halves, step };
            let meanwhile = &mut On::<U::Vector, F>(&mut finishing, PhantomData);
            U::reduce::<F, _>(&steps, extent, place, meanwhile);
            finishing.end::<U::Vector, F>();
            finishing.begin(place, &plan.tiling.runs[t.runs.clone()]);
        }
        finishing.end::<U::Vector, F>();
        finishing.total()
    }
}

/// Finishes the sums of a tile, row by row: adds the bias or what is there, writes the voxels of `runs`, and adds them and
/// their squares to `total`.
pub(super) struct Finishing<'a> {
    bias: Option<&'a Wide>,
    accumulate: bool,
    /// Of 16 output channels each.
    halves: usize,
    /// Output voxels from one to the next.
    step: usize,
    /// Where voxel (0, 0, 0) goes.
    out: *mut Chunk,
    /// Of the voxels less `shift`: what is far from zero would lose its digits in squares.
    sums: Sums,
    /// The first voxel's values, once there is one.
    shift: Option<Wide>,
    voxels: usize,
    /// The tile's sums.
    place: *const f32,
    /// What is to do: from `row` of the first run on, so many rows in all.
    runs: &'a [Run],
    row: usize,
    left: usize,
    /// Sums and squares of this tile.
    of_tile: [Wide; 2],
}

impl<'a> Finishing<'a> {
    pub(super) fn new(
        bias: Option<&'a Wide>,
        accumulate: bool,
        halves: usize,
        step: usize,
        out: *mut Chunk,
    ) -> Self {
        Self {
            bias,
            accumulate,
            halves,
            step,
            out,
            sums: [[0.0; BLOCK]; 2],
            shift: None,
            voxels: 0,
            place: std::ptr::null(),
            runs: &[],
            row: 0,
            left: 0,
            of_tile: [Wide::ZERO; 2],
        }
    }

    /// Takes up a tile.
    pub(super) fn begin(&mut self, place: *const f32, runs: &'a [Run]) {
        (self.place, self.runs, self.row) = (place, runs, 0);
        self.left = runs.iter().map(|run| run.count).sum();
        self.voxels += self.left;
        self.of_tile = [Wide::ZERO; 2];
    }

    /// Does what is left of the tile.
    ///
    /// # Safety
    /// As [`rows`].
    pub(super) unsafe fn end<V: Vector, F: Format>(&mut self) {
        // SAFETY: passed on.
        unsafe { finish::<V, F>(self) };
        self.of_tile = [Wide::ZERO; 2];
    }

    /// Sums and sums of squares of all tiles.
    pub(super) fn total(&self) -> Sums {
        let Some(shift) = &self.shift else { return [[0.0; BLOCK]; 2] };
        let (n, mut total) = (self.voxels as f64, self.sums);
        for c in 0..BLOCK {
            let shift = f64::from(shift.0[c]);
            let [sum, squares] = [0, 1].map(|i| self.sums[i][c]);
            total[0][c] = sum + n * shift;
            total[1][c] = squares + 2.0 * shift * sum + n * shift * shift;
        }
        total
    }
}

compiled! {
    /// See [`Finishing::end`].
    unsafe fn finish<V, F: Format>(finishing: &mut Finishing<'_>) {
        // SAFETY: passed on.
        unsafe {
            rows::<V, F>(finishing, finishing.left);
            for i in 0..2 {
                let (sums, of_tile) = (finishing.sums[i].as_mut_ptr(), &finishing.of_tile[i].0);
                V::load(of_tile.as_ptr()).add_to(sums);
                V::load(of_tile.as_ptr().add(16)).add_to(sums.add(16));
            }
        }
    }
}

/// Finishes up to `count` rows.
///
/// # Safety
/// See [`Vector`]; the tile's sums and all positions of its runs are there.
#[inline(always)]
unsafe fn rows<V: Vector, F: Format>(f: &mut Finishing<'_>, count: usize) {
    let mut count = count.min(f.left);
    f.left -= count;
    // SAFETY: by the contract; tile rows lie inside their place.
    unsafe {
        let bias = f.bias.map_or(&Wide::ZERO, |bias| bias);
        let bias = [V::load(bias.0.as_ptr()), V::load(bias.0.as_ptr().add(16))];
        let at = |wide: &Wide, half: usize| wide.0.as_ptr().wrapping_add(16 * half);
        let mut sum = [V::load(at(&f.of_tile[0], 0)), V::load(at(&f.of_tile[0], 1))];
        let mut squares = [V::load(at(&f.of_tile[1], 0)), V::load(at(&f.of_tile[1], 1))];
        let shift = f.shift.unwrap_or(Wide::ZERO);
        let mut shift = [V::load(at(&shift, 0)), V::load(at(&shift, 1))];
        while count > 0 {
            let run = *f.runs.get_unchecked(0);
            let here = count.min(run.count - f.row);
            let mut to = f.out.add((run.out + f.row * f.step) * F::CHUNKS);
            for row in run.row + f.row..run.row + f.row + here {
                let mut v = bias;
                for half in 0..2 {
                    if half < f.halves {
                        v[half] = v[half].add(V::load(f.place.add(sum_place(row, half))));
                    }
                }
                if f.accumulate {
                    let old = F::load::<V>(to);
                    v = [v[0].add(old[0]), v[1].add(old[1])];
                }
                F::store(v, to);
                if f.shift.is_none() {
                    let mut first = Wide::ZERO;
                    v[0].store(first.0.as_mut_ptr());
                    v[1].store(first.0.as_mut_ptr().add(16));
                    (f.shift, shift) = (Some(first), v);
                }
                for half in 0..2 {
                    let d = v[half].sub(shift[half]);
                    sum[half] = sum[half].add(d);
                    squares[half] = squares[half].mul_add(d, d);
                }
                to = to.add(f.step * F::CHUNKS);
            }
            f.row += here;
            if f.row == run.count {
                f.runs = f.runs.get_unchecked(1..);
                f.row = 0;
            }
            count -= here;
        }
        for half in 0..2 {
            sum[half].store(f.of_tile[0].0.as_mut_ptr().add(16 * half));
            squares[half].store(f.of_tile[1].0.as_mut_ptr().add(16 * half));
        }
    }
}

/// [`Finishing`] on an instruction set.
struct On<'f, 'a, V, F>(&'f mut Finishing<'a>, PhantomData<(V, F)>);

impl<V: Vector, F: Format> Meanwhile for On<'_, '_, V, F> {
    /// # Safety
    /// As [`rows`].
    #[inline(always)]
    unsafe fn some(&mut self, occasions: usize) {
        if self.0.left > 0 {
            // SAFETY: passed on. As many rows as there are at most are done by the last occasion.
            unsafe { rows::<V, F>(self.0, MOST_ROWS.div_ceil(occasions)) };
        }
    }
}
