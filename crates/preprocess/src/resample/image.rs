//! Resampling of one channel: planes along axis 0, tiles of lines within them.
//!
//! Memory beside input and output is a slab of output planes in f64, of at most [`SLAB_BYTES`] or [`MIN_SLAB`] planes.

use super::axis::{Axis, LANES, Order, Row};
use rayon::prelude::*;

/// What a slab of f64 planes may take.
const SLAB_BYTES: usize = 64 << 20;

/// Fewer planes would spend most of the time on the prefilter's run-up along axis 0.
const MIN_SLAB: usize = 16;

/// Resamples all axes with one order, clipped to the image's range. C order in and out.
pub(super) fn resize(x: &[f32], shape: [usize; 3], target: [usize; 3], order: Order) -> Vec<f32> {
    let plane = Plane::new([shape[1], shape[2]], [target[1], target[2]], order);
    let depth = Axis::new(shape[0], target[0], order);
    let clip = Clip::to_range(x);
    let mut out = vec![0.0; target.iter().product()];
    if depth.is_identity() {
        plane.resize_each(x, &mut out, |_| move |v| clip.apply(v) as f32);
    } else {
        let load = |z: usize, row: usize, x0: usize, to: &mut [f64]| {
            widen(&x[(z * shape[1] + row) * shape[2] + x0..], to);
        };
        let slab = slab_planes(&plane);
        along_depth(&depth, &plane, slab, load, |v| clip.apply(v) as f32, &mut out);
    }
    out
}

/// Resamples within each plane, clipped to that plane's range, then along axis 0 with its own order, not clipped.
pub(super) fn resize_separately(
    x: &[f32],
    shape: [usize; 3],
    target: [usize; 3],
    order: Order,
    coarse_order: Order,
) -> Vec<f32> {
    let plane = Plane::new([shape[1], shape[2]], [target[1], target[2]], order);
    let depth = Axis::new(shape[0], target[0], coarse_order);
    let mut out = vec![0.0; target.iter().product()];
    if depth.is_identity() {
        plane.resize_each(x, &mut out, |source| {
            let clip = Clip::to_range(source);
            move |v| clip.apply(v) as f32
        });
    } else if coarse_order == Order::Nearest {
        resize_repeated(x, &depth, &plane, &mut out);
    } else {
        let mut between = vec![0f64; shape[0] * plane.target_len()];
        plane.resize_each(x, &mut between, |source| {
            let clip = Clip::to_range(source);
            move |v| clip.apply(v)
        });
        let [rows, width] = [target[1], target[2]];
        let unchanged = Plane::new([rows, width], [rows, width], order);
        let load = |z: usize, row: usize, x0: usize, to: &mut [f64]| {
            let at = (z * rows + row) * width + x0;
            to.copy_from_slice(&between[at..at + to.len()]);
        };
        let slab = slab_planes(&unchanged);
        along_depth(&depth, &unchanged, slab, load, |v| v as f32, &mut out);
    }
    out
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
        plane.resize_from(source, scratch, |v| clip.apply(v) as f32, first);
        repeats.chunks_exact_mut(size).for_each(|r| r.copy_from_slice(first));
    });
}

/// Output planes per slab.
fn slab_planes(plane: &Plane) -> usize {
    let [rows, width] = plane.source;
    (SLAB_BYTES / (rows * width.div_ceil(LANES) * size_of::<Row>())).max(MIN_SLAB)
}

/// Axis 0 first, `slab` planes at a time, then each plane. `load(z, row, x, to)` reads the source from `x` on.
fn along_depth(
    depth: &Axis,
    plane: &Plane,
    slab: usize,
    load: impl Fn(usize, usize, usize, &mut [f64]) + Sync,
    store: impl Fn(f64) -> f32 + Sync,
    out: &mut [f32],
) {
    let [rows, width] = plane.source;
    let chunks = width.div_ceil(LANES);
    let planes = slab.min(depth.target());
    // [row][chunk][plane] of [lane]: each tile along axis 0 writes one contiguous piece.
    let mut between = vec![[0.0; LANES]; rows * chunks * planes];
    for (s, out) in out.chunks_mut(planes * plane.target_len()).enumerate() {
        let first = s * planes;
        let outputs = first..first + out.len() / plane.target_len();
        between.par_chunks_mut(planes).enumerate().for_each_init(Vec::new, |tile, (t, column)| {
            let (row, x0) = (t / chunks, t % chunks * LANES);
            let lanes = LANES.min(width - x0);
            depth.resample(outputs.clone(), tile, column, |z, to| {
                load(z, row, x0, &mut to[..lanes]);
            });
        });
        let each = out.par_chunks_mut(plane.target_len()).enumerate();
        each.for_each_init(Scratch::default, |scratch, (p, out)| {
            let load = |row: usize, x0: usize, to: &mut [f64]| {
                let at = (row * chunks + x0 / LANES) * planes + p;
                to.copy_from_slice(&between[at][..to.len()]);
            };
            plane.resize(load, scratch, &store, out);
        });
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
    tile: Vec<Row>,
    /// `[chunk][row]` after the rows' step.
    between: Vec<Row>,
    line: Vec<Row>,
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

    /// Every plane of `x`; `store` of a plane is made from its source.
    fn resize_each<T: Copy + Send, S: Fn(f64) -> T>(
        &self,
        x: &[f32],
        out: &mut [T],
        store: impl Fn(&[f32]) -> S + Sync,
    ) {
        let pairs = out.par_chunks_mut(self.target_len()).zip(x.par_chunks(self.source_len()));
        pairs.for_each_init(Scratch::default, |scratch, (out, source)| {
            self.resize_from(source, scratch, store(source), out);
        });
    }

    fn resize_from<T: Copy>(
        &self,
        source: &[f32],
        scratch: &mut Scratch,
        store: impl Fn(f64) -> T,
        out: &mut [T],
    ) {
        let width = self.source[1];
        self.resize(|row, x0, to| widen(&source[row * width + x0..], to), scratch, store, out);
    }

    /// `load(row, x, to)` reads a source row from `x` on, which is a multiple of [`LANES`].
    fn resize<T: Copy>(
        &self,
        load: impl Fn(usize, usize, &mut [f64]),
        scratch: &mut Scratch,
        store: impl Fn(f64) -> T,
        out: &mut [T],
    ) {
        let width = self.source[1];
        let rows = self.rows.target();
        scratch.between.resize(width.div_ceil(LANES) * rows, [0.0; LANES]);
        for (chunk, column) in scratch.between.chunks_exact_mut(rows).enumerate() {
            let x0 = chunk * LANES;
            let lanes = LANES.min(width - x0);
            let load = |row: usize, to: &mut Row| load(row, x0, &mut to[..lanes]);
            if self.rows.is_identity() {
                column.iter_mut().enumerate().for_each(|(row, to)| load(row, to));
            } else {
                self.rows.resample(0..rows, &mut scratch.tile, column, load);
            }
        }
        self.resize_rows(scratch, store, out);
    }

    /// The step along the columns' axis: [`LANES`] rows at a time, turned so that each is a lane.
    fn resize_rows<T: Copy>(&self, scratch: &mut Scratch, store: impl Fn(f64) -> T, out: &mut [T]) {
        let (rows, width) = (self.rows.target(), self.columns.target());
        let Scratch { tile, between, line } = scratch;
        if self.columns.is_identity() {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                for (chunk, out) in out.chunks_mut(LANES).enumerate() {
                    let values = &between[chunk * rows + row];
                    out.iter_mut().zip(values).for_each(|(o, &v)| *o = store(v));
                }
            }
            return;
        }
        line.resize(width, [0.0; LANES]);
        for (group, out) in out.chunks_mut(LANES * width).enumerate() {
            let first = group * LANES;
            let count = out.len() / width;
            self.columns.resample(0..width, tile, line, |x, to| {
                let column = &between[x / LANES * rows + first..][..count];
                to.iter_mut().zip(column).for_each(|(t, values)| *t = values[x % LANES]);
            });
            for (lane, out) in out.chunks_exact_mut(width).enumerate() {
                out.iter_mut().zip(line.iter()).for_each(|(o, values)| *o = store(values[lane]));
            }
        }
    }
}

/// A spline overshoots at edges; the result is held within the source's range, as skimage does by default.
#[derive(Clone, Copy)]
struct Clip {
    low: f64,
    high: f64,
}

impl Clip {
    fn to_range(values: &[f32]) -> Self {
        let none = || (f32::INFINITY, f32::NEG_INFINITY);
        let parts = values
            .par_chunks(1 << 16)
            .map(|part| part.iter().fold(none(), |(low, high), &v| (low.min(v), high.max(v))));
        let (low, high) = parts.reduce(none, |a, b| (a.0.min(b.0), a.1.max(b.1)));
        Self { low: low.into(), high: high.into() }
    }

    fn apply(self, v: f64) -> f64 {
        // Not `clamp`, which panics where a line of NaN left no range.
        v.max(self.low).min(self.high)
    }
}

fn widen(from: &[f32], to: &mut [f64]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t = f.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_join_without_a_seam() {
        let (shape, target) = ([90, 9, 21], [131, 12, 17]);
        let x: Vec<f32> =
            (0..shape.iter().product()).map(|i: usize| (i * 31 % 97) as f32).collect();
        let plane = Plane::new([9, 21], [12, 17], Order::Cubic);
        let depth = Axis::new(90, 131, Order::Cubic);
        let load = |z: usize, row: usize, x0: usize, to: &mut [f64]| {
            widen(&x[(z * 9 + row) * 21 + x0..], to);
        };
        let run = |slab| {
            let mut out = vec![0f32; target.iter().product()];
            along_depth(&depth, &plane, slab, load, |v| v as f32, &mut out);
            out
        };
        let (whole, slabs) = (run(131), run(16));
        for (i, (a, b)) in whole.iter().zip(&slabs).enumerate() {
            // f64 differs in the last places, so f32 by one unit where a value lies halfway.
            assert!((a - b).abs() <= f32::EPSILON * a.abs().max(1e-6), "voxel {i}: {a} and {b}");
        }
    }
}
