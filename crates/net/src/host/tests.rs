//! Every operation on every unit of this machine and in every precision against the f64 definitions, at shapes that reach
//! every tile. Factors are rounded to what a precision holds before the definition sees them.

mod linear;
mod norm;
mod residual;
mod vector;

use super::engine::{chosen, table, with_format, with_unit, with_vector};
use super::format::Format;
use super::grid::{BLOCK, Chunk, Grid, Tensor};
use crate::device::{Cpu, Precision};
use crate::reference::Grid as Values;
use half::bf16;
use ndarray::{Array5, Zip};

/// What is left of a number.
fn stored(v: f64, precision: Precision) -> f64 {
    let high = bf16::from_f64(v).to_f64();
    match precision {
        Precision::F32 => f64::from(v as f32),
        Precision::F32Fast => high + bf16::from_f64(v - high).to_f64(),
        Precision::Bf16 => high,
    }
}

fn rounded(x: &Values, cpu: Cpu) -> Values {
    x.mapv(|v| stored(v, cpu.precision()))
}

/// Half a unit in the last place.
fn unit(cpu: Cpu) -> f64 {
    match cpu.precision() {
        Precision::F32 => 2f64.powi(-24),
        Precision::F32Fast => 2f64.powi(-16),
        Precision::Bf16 => 2f64.powi(-8),
    }
}

type Place = (usize, usize, usize, usize, usize);

/// Chunks and channel of a number.
fn place<F: Format>(g: &Grid, (n, c, z, y, x): Place) -> (std::ops::Range<usize>, usize) {
    let pitch = g.pitches();
    let position = g.origin(n, c / BLOCK) + z * pitch[0] + y * pitch[1] + x;
    (position * F::CHUNKS..(position + 1) * F::CHUNKS, c % BLOCK)
}

fn put<F: Format>(t: &mut Tensor, at: Place, bits: u32) {
    let (chunks, channel) = place::<F>(&t.grid, at);
    F::put(&mut t.data[chunks], channel, bits);
}

fn set<F: Format>(t: &mut Tensor, at: Place, v: f64) {
    put::<F>(t, at, F::bits(v as f32));
}

fn get<F: Format>(t: &Tensor, at: Place) -> f64 {
    let (chunks, channel) = place::<F>(&t.grid, at);
    let chunks = &t.data[chunks];
    if F::GROUP == 1 {
        let word = 2 * (channel % 16);
        let half = |i: usize| u32::from(chunks[channel / 16].0[word + i]);
        return f64::from(f32::from_bits(half(0) | half(1) << 16));
    }
    chunks.iter().map(|chunk| bf16::from_bits(chunk.0[channel]).to_f64()).sum()
}

fn empty(shape: Place, cpu: Cpu) -> Tensor {
    empty_with(shape, [1; 3], cpu)
}

fn chunks<F: Format>() -> usize {
    F::CHUNKS
}

fn empty_with(shape: Place, halo: [usize; 3], cpu: Cpu) -> Tensor {
    let (batch, channels, d, h, w) = shape;
    let grid = Grid { batch, channels, size: [d, h, w], halo };
    Tensor::zeros(grid, with_format!(cpu, chunks()))
}

/// A tensor that holds `x`, with a halo.
fn tensor(x: &Values, cpu: Cpu) -> Tensor {
    tensor_with(x, [1; 3], cpu)
}

fn tensor_with(x: &Values, halo: [usize; 3], cpu: Cpu) -> Tensor {
    let mut t = empty_with(x.dim(), halo, cpu);
    for (at, v) in x.indexed_iter() {
        with_format!(cpu, set(&mut t, at, *v));
    }
    t
}

fn values(t: &Tensor, cpu: Cpu) -> Values {
    let g = t.grid;
    Array5::from_shape_fn((g.batch, g.channels, g.size[0], g.size[1], g.size[2]), |at| {
        with_format!(cpu, get(t, at))
    })
}

/// The halo and the channels of the padding must stay zero: the drivers rely on it.
fn assert_padding_is_zero(t: &Tensor, cpu: Cpu) {
    let mut left = Tensor { grid: t.grid, data: t.data.clone(), ..Tensor::default() };
    for (at, _) in values(t, cpu).indexed_iter() {
        with_format!(cpu, put(&mut left, at, 0));
    }
    assert!(left.data.iter().all(|chunk| chunk.0 == Chunk::ZERO.0), "padding was written");
}

/// Values that were stored: off by `sum` before, and by rounding then.
fn assert_stored(what: &str, found: &Values, expected: &Values, cpu: Cpu, sum: f64) {
    assert_eq!(found.dim(), expected.dim(), "{what}: shape");
    // The sum that is rounded may itself be off, into the next binade.
    let bound = |e: f64| sum + unit(cpu) * 1.01 * e.abs();
    let off = |f: f64, e: f64| (f - e).abs() > bound(e) || f.is_nan();
    let misses = Zip::from(found).and(expected).fold(0, |n, f, e| n + usize::from(off(*f, *e)));
    if misses > 0 {
        let mut pairs = found.indexed_iter().zip(expected);
        if let Some(((at, f), e)) = pairs.find(|((_, f), e)| off(**f, **e)) {
            let (all, bound) = (found.len(), bound(*e));
            panic!("{what}: {misses} of {all} off; first at {at:?}: {f} != {e}, bound {bound:.1e}");
        }
    }
}
