//! The weight gradient: for every tap, Σ over voxels of large voxel `v · step + tap` (outer product) small voxel `v`.
//!
//! Units that multiply bfloat16 sum over pairs of voxels, or over 32 at a time. They want one factor as `[channel][voxel]`
//! (the small side, transposed) and the other as pairs of voxels (the large side). Where both sides share their positions (no stride), a band of
//! rows is swept plane by plane: the small side's plane is transposed once, the large side's planes are paired once for
//! even and once for odd starts and kept for as many planes as the kernel is deep; each tap then is an offset.
//! Elsewhere, and for the image, each tap's voxels are paired by themselves. f32 is multiplied as it lies in the tensors.

use super::first::Image;
use super::format::Format;
use super::grid::{BLOCK, Chunk, Grid, Tensor, Wide};
use super::transpose::{pair_place, pairs, pairs_both, transpose};
use super::unit::{Outer, Unit};
use crate::geometry::Geometry;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Blocks of 32 floats of the sums of one tap between two blocks: two lists of pairs × two halves of the small side.
const TAP_SUMS: usize = 4 * 256 / BLOCK;

/// Steps of 32 voxels after which the sums return to memory: 24 KiB of the transposed side stay in the first-level cache
/// while all taps go by.
const STEPS: usize = 12;

/// The same in voxels, where nothing is transposed: 16 KiB of either side.
const PLAIN_VOXELS: usize = 128;

/// Voxels of a band or of a group of rows, about.
const BAND_VOXELS: usize = 1280;
const GROUP_VOXELS: usize = 512;

/// The large side.
#[derive(Debug, Clone, Copy)]
enum Large<'a> {
    Tensors(&'a [&'a Tensor]),
    /// Its patches are the channels, and there is one tap.
    Image(&'a Image),
}

/// One piece of the sum: rows of the small side; in a sweep `rows` of every plane, else counted through the planes.
#[derive(Debug, Clone)]
struct Item {
    sample: usize,
    rows: Range<usize>,
}

struct Plan<'a> {
    geometry: &'a Geometry,
    large: Large<'a>,
    small: &'a Tensor,
    cut: Cut,
}

/// How the work is cut; a function of the shapes alone, so that the result does not depend on the number of threads.
#[derive(Debug)]
struct Cut {
    /// (tensor, block) of each block of the large side.
    blocks: Vec<(usize, usize)>,
    taps: usize,
    sweep: bool,
    items: Vec<Item>,
    /// Partial sums: enough tasks for many threads, few enough to stay small.
    chunks: usize,
}

impl Cut {
    fn new(geometry: &Geometry, large: &[Grid], small: &Grid, image: bool) -> Self {
        const TASKS: usize = 64;
        let pitch = large[0].pitches();
        let sweep = !image && geometry.stride == [1; 3] && pitch == small.pitches();
        let blocks: Vec<(usize, usize)> = if image {
            let patch = large[0].channels * geometry.taps();
            (0..patch.div_ceil(BLOCK)).map(|b| (0, b)).collect()
        } else {
            let of = |(t, g): (usize, &Grid)| (0..g.blocks()).map(move |b| (t, b));
            large.iter().enumerate().flat_map(of).collect()
        };
        let [depth, height, width] = small.size;
        let (rows, per_item) = if sweep {
            let bands = (height * pitch[1]).div_ceil(BAND_VOXELS);
            (height, height.div_ceil(bands))
        } else {
            (depth * height, GROUP_VOXELS.div_ceil(width))
        };
        let cut = |sample| {
            (0..rows).step_by(per_item).map(move |first| {
                let rows = first..rows.min(first + per_item);
                Item { sample, rows }
            })
        };
        let items: Vec<_> = (0..small.batch).flat_map(cut).collect();
        let taps = if image { 1 } else { geometry.taps() };
        let pairs = blocks.len() * small.blocks();
        let chunks = TASKS.div_ceil(pairs).min(items.len()).max(1);
        Self { blocks, taps, sweep, items, chunks }
    }

    /// Blocks of 32 floats of one partial sum.
    fn partial(&self, small: &Grid) -> usize {
        self.blocks.len() * small.blocks() * self.taps * TAP_SUMS
    }
}

/// Blocks of 32 floats that [`outer`] wants for its partial sums.
pub(crate) fn scratch(geometry: &Geometry, large: &[Grid], small: &Grid, image: bool) -> usize {
    let cut = Cut::new(geometry, large, small, image);
    cut.partial(small) * cut.chunks
}

impl<'a> Plan<'a> {
    fn new(geometry: &'a Geometry, large: &'a [&'a Tensor], small: &'a Tensor) -> Self {
        let image = large[0].image.as_ref();
        let grids: Vec<Grid> = large.iter().map(|t| t.grid).collect();
        let cut = Cut::new(geometry, &grids, &small.grid, image.is_some());
        let large = image.map_or(Large::Tensors(large), Large::Image);
        Self { geometry, large, small, cut }
    }
}

/// Weight gradient `[small channel][large channel][tap]`, overwritten. `partials` is grown once and then reused.
pub(crate) fn outer<U: Unit, F: Format>(
    geometry: &Geometry,
    large: &[&Tensor],
    small: &Tensor,
    partials: &mut Vec<Wide>,
    gradient: &mut [f32],
) {
    let plan = Plan::new(geometry, large, small);
    check::<F>(&plan, large);
    let length = plan.cut.partial(&plan.small.grid) * plan.cut.chunks;
    if partials.len() < length {
        partials.resize(length, Wide::ZERO);
    }
    let (pairs, taps) = (plan.cut.blocks.len() * small.grid.blocks(), plan.cut.taps);
    let tasks = partials[..length].par_chunks_mut(taps * TAP_SUMS).enumerate();
    tasks.for_each(|(task, sums)| {
        sums.fill(Wide::ZERO);
        let (chunk, rest) = (task / pairs, task % pairs);
        let (small_block, large_block) =
            (rest / plan.cut.blocks.len(), rest % plan.cut.blocks.len());
        let of = |i: usize| i * plan.cut.items.len() / plan.cut.chunks;
        // SAFETY: an engine has only units that the CPU has.
        let _open = unsafe { U::open() };
        SCRATCH.with_borrow_mut(|scratch| {
            for item in &plan.cut.items[of(chunk)..of(chunk + 1)] {
                let mut task = Task { plan: &plan, item, small_block, large_block, scratch };
                match (F::GROUP, plan.cut.sweep) {
                    (1, true) => task.sweep_plain::<U, F>(sums),
                    (1, false) => task.rows_plain::<U, F>(sums),
                    (_, true) => task.sweep::<U, F>(sums),
                    (_, false) => task.rows::<U, F>(sums),
                }
            }
        });
    });
    add_partials::<F>(&plan, &partials[..length], gradient);
}

fn check<F: Format>(plan: &Plan<'_>, large: &[&Tensor]) {
    let (g, s) = (large[0].grid, plan.small.grid);
    assert_eq!(g.batch, s.batch, "batch");
    assert_eq!(plan.geometry.small(g.size), s.size, "small size");
    assert_eq!(plan.small.data.len(), s.len() * F::CHUNKS, "tensor of another precision");
    for t in large {
        assert!(t.grid.fits(&g), "tensors of a concatenation");
        let right = t.image.is_some() || t.data.len() == t.grid.len() * F::CHUNKS;
        assert!(right, "tensor of another precision");
    }
    for a in 0..3 {
        assert!(g.halo[a] >= plan.geometry.pad[a], "large halo");
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { small: vec![], large: vec![], patches: vec![] }) };
}

/// What a thread packs before it multiplies.
#[derive(Debug)]
struct Scratch {
    small: Vec<Chunk>,
    large: Vec<Chunk>,
    patches: Vec<Chunk>,
}

fn grow(place: &mut Vec<Chunk>, length: usize) {
    if place.len() < length {
        place.resize(length, Chunk::ZERO);
    }
}

static ZERO: Chunk = Chunk::ZERO;

struct Task<'a> {
    plan: &'a Plan<'a>,
    item: &'a Item,
    small_block: usize,
    large_block: usize,
    scratch: &'a mut Scratch,
}

/// The small side of an item, transposed: `[part][32 channels][row]`, `row` chunks of 32 voxels.
#[derive(Clone, Copy)]
struct Transposed {
    data: *const Chunk,
    row: usize,
}

impl Transposed {
    fn at(self, part: usize, step: usize) -> *const Chunk {
        self.data.wrapping_add(part * BLOCK * self.row + step)
    }

    /// So many steps from `start` on.
    fn steps<F: Format>(self, start: usize, count: usize) -> Side {
        Side {
            parts: [0, 1].map(|part| self.at(part.min(F::PARTS - 1), start)),
            step: [self.row * size_of::<Chunk>(), 4],
            large_step: 1,
            groups: count * 16,
        }
    }
}

/// What is multiplied of the small side, part by part, and how far the large side's groups of voxels lie apart.
#[derive(Clone, Copy)]
struct Side {
    parts: [*const Chunk; 2],
    /// Bytes from one channel to the next, and from one group of voxels to the next.
    step: [usize; 2],
    /// Chunks.
    large_step: usize,
    groups: usize,
}

impl Side {
    /// As it lies in a tensor, with every `stride`-th voxel of the large side.
    fn plain<F: Format>(small: *const Chunk, stride: usize, groups: usize) -> Self {
        let step = [4, F::CHUNKS * size_of::<Chunk>()];
        Self { parts: [small; 2], step, large_step: stride * F::CHUNKS, groups }
    }

    fn with<const N: usize>(self, part: usize, large: [*const Chunk; N]) -> Outer<N> {
        let Self { parts, step, large_step, groups } = self;
        Outer { small: parts[part], small_step: step, large, large_step, groups }
    }

    /// Adds to `N` lists; `places` gives each part's voxels of the large side.
    ///
    /// # Safety
    /// The unit is open; everything at these places is there, and nobody else uses the sums.
    unsafe fn multiply<U: Unit, F: Format, const N: usize>(
        self,
        places: impl Fn(usize) -> [*const Chunk; N],
        sums: [*mut f32; N],
    ) {
        let last = F::PARTS - 1;
        let jobs =
            [(0, 0), (1, 0), (0, 1)].map(|(a, b)| self.with(a.min(last), places(b.min(last))));
        let jobs = if F::PARTS == 1 { &jobs[..1] } else { &jobs[..] };
        // SAFETY: passed on.
        unsafe { U::outer::<F, N>(jobs, sums) };
    }

    /// Adds to the `kx` taps of a line from `tap` on; `place` says where a part, a tap along x, and a half of the large
    /// channels begin.
    ///
    /// # Safety
    /// As [`Side::multiply`].
    unsafe fn line<U: Unit, F: Format>(
        self,
        place: impl Fn(usize, usize, usize) -> *const Chunk,
        [tap, kx]: [usize; 2],
        sums: &mut [Wide],
    ) {
        // SAFETY: passed on.
        unsafe {
            if kx == 3 {
                for half in 0..2 {
                    let sums = [0, 1, 2].map(|x| place_of_sums(sums, tap + x, half));
                    let places = |part| [0, 1, 2].map(|x| place(part, x, half));
                    self.multiply::<U, F, 3>(places, sums);
                }
            } else {
                for x in 0..kx {
                    let sums = [0, 1].map(|half| place_of_sums(sums, tap + x, half));
                    let places = |part| [0, 1].map(|half| place(part, x, half));
                    self.multiply::<U, F, 2>(places, sums);
                }
            }
        }
    }
}

/// Where the sums of half `half` of the large channels of a tap lie.
fn place_of_sums(sums: &mut [Wide], tap: usize, half: usize) -> *mut f32 {
    sums[(tap * 2 + half) * 16..][..16].as_mut_ptr().cast()
}

impl Task<'_> {
    /// A band of rows of every plane, where both sides share their positions.
    fn sweep<U: Unit, F: Format>(&mut self, sums: &mut [Wide]) {
        let Large::Tensors(tensors) = self.plan.large else { return };
        let (t, block) = self.plan.cut.blocks[self.large_block];
        let (large, small, geometry) = (tensors[t], self.plan.small, self.plan.geometry);
        let ([kz, ky, kx], [pz, py, px]) = (geometry.kernel, geometry.pad);
        let [plane, row, _] = small.grid.pitches();
        let rows = &self.item.rows;
        let length = rows.len() * row;
        let steps = length.div_ceil(32);
        let pairs = ((ky - 1) * row + kx - 1 + steps * 32) / 2 + 1;
        // `[plane of the ring][part][even or odd start][half][pair]`
        let lists = 2 * 2 * pairs;
        grow(&mut self.scratch.large, kz * F::PARTS * lists);
        let first = small.grid.origin(self.item.sample, self.small_block) + rows.start * row;
        let before = large.grid.origin(self.item.sample, block) + rows.start * row;
        let slot = |z: usize, depth: usize| (z + depth) % kz;
        for z in 0..small.grid.size[0] {
            let fresh = if z == 0 { 0..kz } else { kz - 1..kz };
            for depth in fresh {
                // Plane z + depth − pz, its first tap.
                let at = before + (z + depth) * plane - pz * plane - py * row - px;
                assert!(at + 2 * pairs < large.grid.len(), "a tap leaves its tensor");
                for part in 0..F::PARTS {
                    let start = (slot(z, depth) * F::PARTS + part) * lists;
                    let to = self.scratch.large[start..][..lists].as_mut_ptr();
                    let [even, odd] =
                        [0, 2].map(|i| [0, 1].map(|h| to.wrapping_add((i + h) * pairs)));
                    let from = &raw const large.data[at * F::CHUNKS + part];
                    // SAFETY: the CPU has the unit; the voxels were asserted to lie inside, the lists have the room.
                    unsafe { pairs_both::<U::Vector>(from, F::CHUNKS, pairs, even, odd) };
                }
            }
            let voxel = |i: usize| (i < length).then_some(first + z * plane + i);
            let transposed = self.transpose::<U, F>(steps, voxel);
            for start in (0..steps).step_by(STEPS) {
                let side = transposed.steps::<F>(start, STEPS.min(steps - start));
                for (depth, y) in (0..kz).flat_map(|d| (0..ky).map(move |y| (d, y))) {
                    let ring = &self.scratch.large;
                    let place = |part: usize, x: usize, half: usize| {
                        let offset = y * row + x;
                        let list = ((slot(z, depth) * F::PARTS + part) * 2 + offset % 2) * 2 + half;
                        &raw const ring[list * pairs + offset / 2 + start * 16]
                    };
                    let line = [(depth * ky + y) * kx, kx];
                    // SAFETY: the unit is open; steps and offsets stay inside the lists, the sums belong to this task.
                    unsafe { side.line::<U, F>(place, line, sums) };
                }
            }
        }
    }

    /// Transposes voxels of the small side; `voxel` gives the position of each, or none for zeros.
    fn transpose<U: Unit, F: Format>(
        &mut self,
        steps: usize,
        voxel: impl Fn(usize) -> Option<usize>,
    ) -> Transposed {
        // An odd number of cache lines from channel to channel: all 32 find a place in the first-level cache.
        let row = steps | 1;
        grow(&mut self.scratch.small, F::PARTS * BLOCK * row);
        let data = &self.plan.small.data;
        for part in 0..F::PARTS {
            for step in 0..steps {
                let voxels = std::array::from_fn(|i| match voxel(step * 32 + i) {
                    Some(position) => &raw const data[position * F::CHUNKS + part],
                    None => &raw const ZERO,
                });
                let out = self.scratch.small[part * BLOCK * row..][..BLOCK * row].as_mut_ptr();
                // SAFETY: the CPU has the unit; there are 32 rows behind `out`, and `step` < `row`.
                unsafe { transpose::<U::Vector>(&voxels, out.add(step), row) };
            }
        }
        Transposed { data: self.scratch.small.as_ptr(), row }
    }

    /// Some rows of the small side, one behind the other, with each tap's voxels paired by themselves.
    fn rows<U: Unit, F: Format>(&mut self, sums: &mut [Wide]) {
        let (plan, rows) = (self.plan, self.item.rows.clone());
        let s = plan.small.grid;
        let ([_, height, width], pitch) = (s.size, s.pitches());
        // Pairs don't cross rows.
        let even = width.next_multiple_of(2);
        let steps = (rows.len() * even).div_ceil(32);
        let first = s.origin(self.item.sample, self.small_block);
        let transposed = self.transpose::<U, F>(steps, |i| {
            let (row, x) = (rows.start + i / even, i % even);
            let inside = row < rows.end && x < width;
            inside.then(|| first + row / height * pitch[0] + row % height * pitch[1] + x)
        });
        let list = steps * 16;
        grow(&mut self.scratch.large, F::PARTS * 2 * list);
        for tap in 0..plan.cut.taps {
            for part in 0..F::PARTS {
                let start = part * 2 * list;
                let lists = &mut self.scratch.large[start..][..2 * list];
                let (low, high) = lists.split_at_mut(list);
                let used = rows.len() * even / 2;
                low[used..].fill(Chunk::ZERO);
                high[used..].fill(Chunk::ZERO);
                match plan.large {
                    Large::Tensors(tensors) => {
                        let (t, block) = plan.cut.blocks[self.large_block];
                        let large = tensors[t];
                        pair_rows::<U, F>(plan, self.item, large, block, tap, part, low, high);
                    }
                    Large::Image(image) => {
                        let patches = &mut self.scratch.patches;
                        pair_patches::<U, F>(
                            plan,
                            self.item,
                            image,
                            self.large_block,
                            part,
                            patches,
                            low,
                            high,
                        );
                    }
                }
            }
            let lists = &self.scratch.large;
            let places =
                |part: usize| [0, 1].map(|half| &raw const lists[(part * 2 + half) * list]);
            let sums = [0, 1].map(|half| place_of_sums(sums, tap, half));
            // SAFETY: the unit is open; the lists and the transposed rows hold all steps.
            unsafe { transposed.steps::<F>(0, steps).multiply::<U, F, 2>(places, sums) };
        }
    }

    /// As [`Task::sweep`], of factors as they lie in the tensors.
    fn sweep_plain<U: Unit, F: Format>(&mut self, sums: &mut [Wide]) {
        let Large::Tensors(tensors) = self.plan.large else { return };
        let (t, block) = self.plan.cut.blocks[self.large_block];
        let (large, small, geometry) = (tensors[t], self.plan.small, self.plan.geometry);
        let ([kz, ky, kx], [pz, py, px]) = (geometry.kernel, geometry.pad);
        let [plane, row, _] = small.grid.pitches();
        let rows = &self.item.rows;
        let length = rows.len() * row;
        let first = small.grid.origin(self.item.sample, self.small_block) + rows.start * row;
        let before = large.grid.origin(self.item.sample, block) + rows.start * row;
        for z in 0..small.grid.size[0] {
            let corner = before + z * plane - pz * plane - py * row - px;
            let last = corner + (kz - 1) * plane + (ky - 1) * row + kx - 1 + length;
            assert!(last < large.grid.len(), "a tap leaves its tensor");
            for start in (0..length).step_by(PLAIN_VOXELS) {
                let groups = PLAIN_VOXELS.min(length - start);
                let small = &raw const small.data[(first + z * plane + start) * F::CHUNKS];
                let side = Side::plain::<F>(small, 1, groups);
                for line in 0..kz * ky {
                    let at = corner + line / ky * plane + line % ky * row + start;
                    let place = |_part: usize, x: usize, half: usize| {
                        &raw const large.data[(at + x) * F::CHUNKS + half]
                    };
                    // SAFETY: the unit is open; all voxels lie inside their tensors, the sums belong to this task.
                    unsafe { side.line::<U, F>(place, [line * kx, kx], sums) };
                }
            }
        }
    }

    /// As [`Task::rows`], of factors as they lie in the tensors, or as the image's patches are laid out.
    fn rows_plain<U: Unit, F: Format>(&mut self, sums: &mut [Wide]) {
        let (plan, rows) = (self.plan, self.item.rows.clone());
        let (geometry, s) = (plan.geometry, plan.small.grid);
        let ([_, height, width], pitch) = (s.size, s.pitches());
        let first = s.origin(self.item.sample, self.small_block);
        let small = |row: usize| {
            let at = first + row / height * pitch[0] + row % height * pitch[1];
            &raw const plan.small.data[at * F::CHUNKS]
        };
        let mut jobs = Vec::with_capacity(rows.len());
        for tap in 0..plan.cut.taps {
            jobs.clear();
            match plan.large {
                Large::Tensors(tensors) => {
                    let (t, block) = plan.cut.blocks[self.large_block];
                    for row in rows.clone() {
                        let at = tap_start(
                            geometry,
                            &tensors[t].grid,
                            self.item.sample,
                            block,
                            tap,
                            [row / height, row % height],
                        );
                        assert!(
                            at + width * geometry.stride[2] < tensors[t].grid.len(),
                            "a tap leaves its tensor"
                        );
                        let large =
                            [0, 1].map(|half| &raw const tensors[t].data[at * F::CHUNKS + half]);
                        let side = Side::plain::<F>(small(row), geometry.stride[2], width);
                        jobs.push(side.with(0, large));
                    }
                }
                Large::Image(image) => {
                    let length = width * F::CHUNKS;
                    let patches = &mut self.scratch.patches;
                    grow(patches, rows.len() * length);
                    for (i, row) in rows.clone().enumerate() {
                        let voxel = [row / height, row % height, 0];
                        let blocks = self.large_block..self.large_block + 1;
                        let patches = &mut patches[i * length..][..length];
                        image.patches(
                            geometry,
                            self.item.sample,
                            voxel,
                            width,
                            blocks,
                            |x, _, k, bits| {
                                F::put(&mut patches[x * F::CHUNKS..][..F::CHUNKS], k, bits);
                            },
                        );
                    }
                    for (i, row) in rows.clone().enumerate() {
                        let large = [0, 1].map(|half| &raw const patches[i * length + half]);
                        jobs.push(Side::plain::<F>(small(row), 1, width).with(0, large));
                    }
                }
            }
            let sums = [0, 1].map(|half| place_of_sums(sums, tap, half));
            // SAFETY: the unit is open; all voxels lie inside their tensors, the sums belong to this task.
            unsafe { U::outer::<F, 2>(&jobs, sums) };
        }
    }
}

/// Position of the first voxel of a block that a tap meets along a row (z, y) of the small side.
fn tap_start(
    geometry: &Geometry,
    large: &Grid,
    sample: usize,
    block: usize,
    tap: usize,
    [z, y]: [usize; 2],
) -> usize {
    let (pitch, k, stride) = (large.pitches(), geometry.position(tap), geometry.stride);
    let pad: usize = (0..3).map(|a| geometry.pad[a] * pitch[a]).sum();
    let row = (z * stride[0] + k[0]) * pitch[0] + (y * stride[1] + k[1]) * pitch[1] + k[2];
    large.origin(sample, block) + row - pad
}

/// Pairs the voxels of the large side that a tap meets along the item's rows.
fn pair_rows<U: Unit, F: Format>(
    plan: &Plan<'_>,
    item: &Item,
    large: &Tensor,
    block: usize,
    tap: usize,
    part: usize,
    low: &mut [Chunk],
    high: &mut [Chunk],
) {
    let (geometry, g) = (plan.geometry, large.grid);
    let ([_, height, width], stride) = (plan.small.grid.size, geometry.stride);
    let per_row = width.div_ceil(2);
    for (i, row) in item.rows.clone().enumerate() {
        let at = tap_start(geometry, &g, item.sample, block, tap, [row / height, row % height]);
        let to = i * per_row..(i + 1) * per_row;
        assert!(at + width * stride[2] < g.len(), "a tap leaves its tensor");
        let from = &raw const large.data[at * F::CHUNKS + part];
        let (low, high) = (low[to.clone()].as_mut_ptr(), high[to].as_mut_ptr());
        // SAFETY: the CPU has the unit; voxels and pairs are inside (an odd row's last pair reads one voxel more,
        // which meets a zero).
        unsafe { pairs::<U::Vector>(from, stride[2] * F::CHUNKS, per_row, low, high) };
    }
}

/// Pairs the patches of the image along the item's rows.
fn pair_patches<U: Unit, F: Format>(
    plan: &Plan<'_>,
    item: &Item,
    image: &Image,
    block: usize,
    part: usize,
    patches: &mut Vec<Chunk>,
    low: &mut [Chunk],
    high: &mut [Chunk],
) {
    let [_, height, width] = plan.small.grid.size;
    let per_row = width.div_ceil(2);
    grow(patches, 2 * per_row);
    for (i, row) in item.rows.clone().enumerate() {
        let voxel = [row / height, row % height, 0];
        let blocks = block..block + 1;
        image.patches(plan.geometry, item.sample, voxel, width, blocks, |x, _, k, bits| {
            patches[x].0[k] = (bits >> (16 * part)) as u16;
        });
        let to = i * per_row..(i + 1) * per_row;
        let (low, high) = (low[to.clone()].as_mut_ptr(), high[to].as_mut_ptr());
        // SAFETY: the CPU has the unit; patches and pairs are there.
        unsafe { pairs::<U::Vector>(patches.as_ptr(), 1, per_row, low, high) };
    }
}

/// Adds the partial sums in their order and puts them where PyTorch has them.
fn add_partials<F: Format>(plan: &Plan<'_>, partials: &[Wide], gradient: &mut [f32]) {
    let (taps, length) = (plan.cut.taps, plan.cut.partial(&plan.small.grid));
    let counts: Vec<usize> = match plan.large {
        Large::Tensors(tensors) => {
            let of = |&(t, b): &(usize, usize)| (tensors[t].grid.channels - b * BLOCK).min(BLOCK);
            plan.cut.blocks.iter().map(of).collect()
        }
        Large::Image(image) => {
            let all = image.patch(plan.geometry);
            plan.cut.blocks.iter().map(|&(_, b)| (all - b * BLOCK).min(BLOCK)).collect()
        }
    };
    let of_small = counts.iter().sum::<usize>() * taps;
    assert_eq!(gradient.len(), plan.small.grid.channels * of_small, "weight gradient");
    gradient.par_chunks_mut(of_small).enumerate().for_each(|(channel, mut gradient)| {
        let (block, half, row) = (channel / BLOCK, channel % BLOCK / 16, channel % 16);
        for (i, &count) in counts.iter().enumerate() {
            let (out, rest) = gradient.split_at_mut(count * taps);
            gradient = rest;
            out.fill(0.0);
            let pair = (block * counts.len() + i) * taps * TAP_SUMS;
            for chunk in 0..plan.cut.chunks {
                let sums = &partials[chunk * length + pair..][..taps * TAP_SUMS];
                for tap in 0..taps {
                    for c in 0..count {
                        let (list, column) = match F::GROUP {
                            1 => (c / 16, c % 16),
                            _ => pair_place(c),
                        };
                        let at = ((tap * 2 + list) * 2 + half) * 256 + row * 16 + column;
                        out[c * taps + tap] += sums[at / BLOCK].0[at % BLOCK];
                    }
                }
            }
        }
    });
}
