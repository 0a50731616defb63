//! Resampling of one channel: within each plane along its rows' axis and its columns' axis, then along axis 0.
//!
//! Between the two, a slab of output rows of all source planes is held in f64: at most [`SLAB_BYTES`], or
//! [`MIN_SLAB_ROWS`] rows. Axis 0 comes last since slabs overlap along the axis they cut, and rows are usually the longer
//! axis.

use super::axis::{Axis, LANES, Order, Row, Sink, Source, Tile};
use ndarray::{ArrayViewMut2, ArrayViewMut3, Axis as Along, s};
use rayon::prelude::*;
use std::ops::Range;

/// What a slab may take.
const SLAB_BYTES: usize = 64 << 20;

/// Fewer rows would spend most of the time on the prefilter's run-up.
const MIN_SLAB_ROWS: usize = 48;

/// Resamples all axes with one order, clipped to the image's range. C order in and out.
pub(super) fn resize(
    x: &[f32],
    shape: [usize; 3],
    target: [usize; 3],
    order: Order,
    out: &mut [f32],
) {
    let plane = Plane::new([shape[1], shape[2]], [target[1], target[2]], order);
    let depth = Axis::new(shape[0], target[0], order);
    let clip = Clip::to_range(x);
    if depth.is_identity() {
        plane.resize_each(x, out, |_| clip);
    } else {
        along_depth(x, &depth, &plane, slab_rows(shape[0], target), |_| None, Some(clip), out);
    }
}

/// Resamples within each plane, clipped to that plane's range, then along axis 0 with its own order, not clipped.
pub(super) fn resize_separately(
    x: &[f32],
    shape: [usize; 3],
    target: [usize; 3],
    order: Order,
    coarse_order: Order,
    out: &mut [f32],
) {
    let plane = Plane::new([shape[1], shape[2]], [target[1], target[2]], order);
    let depth = Axis::new(shape[0], target[0], coarse_order);
    if depth.is_identity() {
        plane.resize_each(x, out, Clip::to_range);
    } else if coarse_order == Order::Nearest {
        resize_repeated(x, &depth, &plane, out);
    } else {
        let each: Vec<Clip> = x.par_chunks(plane.source_len()).map(Clip::to_range).collect();
        let slab = slab_rows(shape[0], target);
        along_depth(x, &depth, &plane, slab, |z| Some(each[z]), None, out);
    }
}

/// Bytes that resampling takes at most beside source and result.
pub(super) fn slab_bytes(source_planes: usize, target: [usize; 3]) -> usize {
    slab_rows(source_planes, target).saturating_mul(row_bytes(source_planes, target))
}

/// A row of all source planes; saturating, as targets are asked about before they are known to fit into memory.
fn row_bytes(source_planes: usize, target: [usize; 3]) -> usize {
    source_planes.saturating_mul(target[2]).saturating_mul(size_of::<f64>())
}

/// Output rows per slab.
fn slab_rows(source_planes: usize, target: [usize; 3]) -> usize {
    (SLAB_BYTES / row_bytes(source_planes, target)).max(MIN_SLAB_ROWS).min(target[1])
}

/// Output planes are copies of the nearest resized source plane; each is resized once.
fn resize_repeated(x: &[f32], depth: &Axis, plane: &Plane, out: &mut [f32]) {
    let size = plane.target_len();
    let (mut rest, mut runs, mut k) = (out, Vec::new(), 0);
    while k < depth.target() {
        let source = depth.tap(k).first;
        let repeats = (k..depth.target()).take_while(|&i| depth.tap(i).first == source).count();
        let (run, after) = rest.split_at_mut(repeats * size);
        runs.push((source, run));
        (rest, k) = (after, k + repeats);
    }
    runs.into_par_iter().for_each_init(Scratch::default, |scratch, (source, run)| {
        let source = &x[source * plane.source_len()..][..plane.source_len()];
        let clip = Clip::to_range(source);
        let (first, repeats) = run.split_at_mut(size);
        plane.resize(source, 0..plane.rows.target(), scratch, &Rounded(clip), first);
        repeats.chunks_exact_mut(size).for_each(|r| r.copy_from_slice(first));
    });
}

/// Each plane, `slab` output rows at a time, then these along axis 0. `clip_plane` is asked for each source plane.
fn along_depth(
    x: &[f32],
    depth: &Axis,
    plane: &Plane,
    slab: usize,
    clip_plane: impl Fn(usize) -> Option<Clip> + Sync,
    clip: Option<Clip>,
    out: &mut [f32],
) {
    let (rows, width) = (plane.rows.target(), plane.columns.target());
    let planes = x.len() / plane.source_len();
    let mut between = vec![0.0; planes * slab * width];
    let shape = (depth.target(), rows, width);
    let mut out = ArrayViewMut3::from_shape(shape, out).expect("the target's shape");
    for first in (0..rows).step_by(slab) {
        let here = first..rows.min(first + slab);
        let size = here.len() * width;
        let sources = x.par_chunks(plane.source_len()).enumerate();
        let pairs = sources.zip(between.par_chunks_exact_mut(size));
        pairs.for_each_init(Scratch::default, |scratch, ((z, source), to)| {
            plane.resize(source, here.clone(), scratch, &Exact(clip_plane(z)), to);
        });
        let mut out = out.slice_mut(s![.., here, ..]);
        let rows = out.axis_iter_mut(Along(1)).into_par_iter().enumerate();
        rows.for_each_init(Tile::default, |tile, (row, mut out)| {
            for x0 in (0..width).step_by(LANES) {
                let x1 = width.min(x0 + LANES);
                let source = Column { values: &between[row * width..], stride: size, x: x0..x1 };
                let mut sink = Planes { out: out.slice_mut(s![.., x0..x1]), clip };
                depth.resample(0..depth.target(), &source, tile, &mut sink);
            }
        });
    }
}

/// Positions of axis 0 of some neighbouring lines; `values` begins with their row in the first plane.
struct Column<'a> {
    values: &'a [f64],
    stride: usize,
    x: Range<usize>,
}

impl Source for Column<'_> {
    #[inline(always)]
    fn load(&self, positions: Range<usize>, rows: &mut [Row]) {
        for (z, row) in positions.zip(rows) {
            let values = &self.values[z * self.stride..][self.x.clone()];
            row.0[..values.len()].copy_from_slice(values);
        }
    }
}

/// Output planes' part of one row.
struct Planes<'a> {
    out: ArrayViewMut2<'a, f32>,
    clip: Option<Clip>,
}

impl Sink for Planes<'_> {
    #[inline(always)]
    fn store(&mut self, rows: &[Row]) {
        for (row, out) in rows.iter().zip(self.out.outer_iter_mut()) {
            let out = out.into_slice().expect("neighbours in C order");
            let mut values = [0.0; LANES];
            Rounded(self.clip.unwrap_or(Clip::NONE)).put(&row.0, &mut values);
            out.copy_from_slice(&values[..out.len()]);
        }
    }
}

/// What becomes of resampled values.
trait Store<T>: Sync {
    /// `#[inline(always)]`, as a sink's code is.
    fn put(&self, values: &[f64; LANES], to: &mut [T; LANES]);
}

/// Clipped and rounded to f32.
struct Rounded(Clip);

impl Store<f32> for Rounded {
    #[inline(always)]
    fn put(&self, values: &[f64; LANES], to: &mut [f32; LANES]) {
        for lane in 0..LANES {
            to[lane] = self.0.apply(values[lane]) as f32;
        }
    }
}

/// As they are, or clipped.
struct Exact(Option<Clip>);

impl Store<f64> for Exact {
    #[inline(always)]
    fn put(&self, values: &[f64; LANES], to: &mut [f64; LANES]) {
        *to = *values;
        if let Some(clip) = self.0 {
            to.iter_mut().for_each(|v| *v = clip.apply(*v));
        }
    }
}

/// Resampling of one plane `[row, column]`.
struct Plane {
    rows: Axis,
    columns: Axis,
    source: [usize; 2],
}

/// Reused buffers of one thread.
#[derive(Default)]
struct Scratch {
    tile: Tile,
    /// `[chunk][row]` after the rows' step.
    between: Vec<Row>,
}

impl Plane {
    fn new(source: [usize; 2], target: [usize; 2], order: Order) -> Self {
        let [rows, columns] = [0, 1].map(|i| Axis::new(source[i], target[i], order));
        Self { rows, columns, source }
    }

    fn source_len(&self) -> usize {
        self.source[0] * self.source[1]
    }

    fn target_len(&self) -> usize {
        self.rows.target() * self.columns.target()
    }

    /// Every plane of `x`; the clipping of a plane is made from its source.
    fn resize_each(&self, x: &[f32], out: &mut [f32], clip: impl Fn(&[f32]) -> Clip + Sync) {
        let pairs = out.par_chunks_mut(self.target_len()).zip(x.par_chunks(self.source_len()));
        pairs.for_each_init(Scratch::default, |scratch, (out, source)| {
            let rows = 0..self.rows.target();
            self.resize(source, rows, scratch, &Rounded(clip(source)), out);
        });
    }

    /// The output rows `rows`, to `out`.
    fn resize<T: Copy + Default>(
        &self,
        source: &[f32],
        rows: Range<usize>,
        scratch: &mut Scratch,
        store: &impl Store<T>,
        out: &mut [T],
    ) {
        let (width, target) = (self.source[1], self.columns.target());
        let Scratch { tile, between } = scratch;
        between.resize(width.div_ceil(LANES) * rows.len(), Row::ZERO);
        for (chunk, mut column) in between.chunks_exact_mut(rows.len()).enumerate() {
            let x0 = chunk * LANES;
            let lines = Widened { plane: source, width, x: x0..width.min(x0 + LANES) };
            self.rows.resample(rows.clone(), &lines, tile, &mut column);
        }
        for (group, out) in out.chunks_mut(LANES * target).enumerate() {
            let turned = Turned { chunks: between, rows: rows.len(), first: group * LANES };
            let mut sink = TurnedBack { out, width: target, store };
            self.columns.resample(0..target, &turned, tile, &mut sink);
        }
    }
}

/// Rows of an f32 plane, of which `x` are the lines.
struct Widened<'a> {
    plane: &'a [f32],
    width: usize,
    x: Range<usize>,
}

impl Source for Widened<'_> {
    #[inline(always)]
    fn load(&self, positions: Range<usize>, rows: &mut [Row]) {
        for (y, row) in positions.zip(rows) {
            let values = &self.plane[y * self.width..][self.x.clone()];
            match values.first_chunk::<LANES>() {
                Some(values) => (0..LANES).for_each(|lane| row.0[lane] = values[lane].into()),
                None => row.0.iter_mut().zip(values).for_each(|(to, &from)| *to = from.into()),
            }
        }
    }
}

impl Sink for &mut [Row] {
    #[inline(always)]
    fn store(&mut self, rows: &[Row]) {
        self.copy_from_slice(rows);
    }
}

/// Rows from `first` on as lines, from chunks `[chunk][row]` of columns.
struct Turned<'a> {
    chunks: &'a [Row],
    rows: usize,
    first: usize,
}

impl Source for Turned<'_> {
    #[inline(always)]
    fn load(&self, positions: Range<usize>, rows: &mut [Row]) {
        let lanes = LANES.min(self.rows - self.first);
        for (x, row) in positions.zip(rows) {
            let column = &self.chunks[x / LANES * self.rows + self.first..][..lanes];
            for (to, from) in row.0.iter_mut().zip(column) {
                *to = from.0[x % LANES];
            }
        }
    }
}

/// Rows of `width` from lines.
struct TurnedBack<'a, T, S> {
    out: &'a mut [T],
    width: usize,
    store: &'a S,
}

impl<T: Copy + Default, S: Store<T>> Sink for TurnedBack<'_, T, S> {
    #[inline(always)]
    fn store(&mut self, rows: &[Row]) {
        let lanes = self.out.len() / self.width;
        for (chunk, rows) in rows.chunks(LANES).enumerate() {
            for lane in 0..lanes {
                let mut values = [0.0; LANES];
                values.iter_mut().zip(rows).for_each(|(to, row)| *to = row.0[lane]);
                let mut stored = [T::default(); LANES];
                self.store.put(&values, &mut stored);
                let to = &mut self.out[lane * self.width + chunk * LANES..][..rows.len()];
                to.copy_from_slice(&stored[..rows.len()]);
            }
        }
    }
}

/// A spline overshoots at edges; the result is held within the source's range, as skimage does by default.
#[derive(Debug, Clone, Copy)]
struct Clip {
    low: f64,
    high: f64,
}

impl Clip {
    const NONE: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };

    fn to_range(values: &[f32]) -> Self {
        const PART: usize = 1 << 16;
        let parts = values.par_chunks(PART).map(range);
        let (low, high) = parts.reduce(no_range, |a, b| (a.0.min(b.0), a.1.max(b.1)));
        Self { low: low.into(), high: high.into() }
    }

    #[inline(always)]
    fn apply(self, v: f64) -> f64 {
        // Not `clamp`, which panics where a line of NaN left no range.
        let v = if v < self.low { self.low } else { v };
        if v > self.high { self.high } else { v }
    }
}

fn no_range() -> (f32, f32) {
    (f32::INFINITY, f32::NEG_INFINITY)
}

/// Smallest and largest, in several lanes at once.
fn range(values: &[f32]) -> (f32, f32) {
    const WIDE: usize = 16;
    let (chunks, rest) = values.as_chunks::<WIDE>();
    let (mut low, mut high) = ([no_range().0; WIDE], [no_range().1; WIDE]);
    for chunk in chunks {
        for i in 0..WIDE {
            low[i] = low[i].min(chunk[i]);
            high[i] = high[i].max(chunk[i]);
        }
    }
    let low = low.iter().chain(rest).copied().fold(no_range().0, f32::min);
    let high = high.iter().chain(rest).copied().fold(no_range().1, f32::max);
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_join_without_a_seam() {
        let (shape, target) = ([9, 90, 21], [12, 131, 17]);
        let x: Vec<f32> =
            (0..shape.iter().product()).map(|i: usize| (i * 31 % 97) as f32).collect();
        let plane = Plane::new([90, 21], [131, 17], Order::Cubic);
        let depth = Axis::new(9, 12, Order::Cubic);
        let run = |slab| {
            let mut out = vec![0f32; target.iter().product()];
            along_depth(&x, &depth, &plane, slab, |_| None, None, &mut out);
            out
        };
        let (whole, slabs) = (run(131), run(16));
        for (i, (a, b)) in whole.iter().zip(&slabs).enumerate() {
            // f64 differs in the last places, so f32 by one unit where a value lies halfway.
            assert!((a - b).abs() <= f32::EPSILON * a.abs().max(1e-6), "voxel {i}: {a} and {b}");
        }
    }
}
