//! Every operation in one and in two parts against the f64 definitions, at the vector kernels' own shapes and at some
//! that reach every tile. Factors are rounded to what the parts hold before the definition sees them.

mod linear;
mod norm;
mod residual;

use super::tensor::{BLOCK, Chunk, Grid, Tensor};
use super::{Parts, available, with_parts};
use crate::reference::Grid as Values;
use half::bf16;
use ndarray::{Array5, Zip};

/// Both, or none with a word of why.
fn all_parts() -> Vec<Parts> {
    if available() {
        return vec![Parts::One, Parts::Two];
    }
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    {
        eprintln!("skipped: this machine has no matrix unit (AMX with bfloat16)");
    }
    vec![]
}

/// What is left of numbers in so many parts.
fn rounded(x: &Values, parts: Parts) -> Values {
    x.mapv(|v| {
        let high = bf16::from_f64(v).to_f64();
        match parts {
            Parts::One => high,
            Parts::Two => high + bf16::from_f64(v - high).to_f64(),
        }
    })
}

/// Half a unit in the last place.
fn unit(parts: Parts) -> f64 {
    match parts {
        Parts::One => 2f64.powi(-8),
        Parts::Two => 2f64.powi(-16),
    }
}

/// Reading and writing single channels.
impl Tensor {
    fn place(&self, parts: usize, at: (usize, usize, usize, usize, usize)) -> (usize, usize) {
        let (n, c, z, y, x) = at;
        let pitch = self.grid.pitches();
        let position = self.grid.origin(n, c / BLOCK) + z * pitch[0] + y * pitch[1] + x;
        (position * parts, c % BLOCK)
    }
}

fn empty(shape: (usize, usize, usize, usize, usize), parts: Parts) -> Tensor {
    empty_with(shape, [1; 3], parts)
}

fn empty_with(
    shape: (usize, usize, usize, usize, usize),
    halo: [usize; 3],
    parts: Parts,
) -> Tensor {
    let (batch, channels, d, h, w) = shape;
    Tensor::zeros(Grid { batch, channels, size: [d, h, w], halo }, parts)
}

/// A tensor that holds `x`, with a halo.
fn tensor(x: &Values, parts: Parts) -> Tensor {
    tensor_with(x, [1; 3], parts)
}

fn tensor_with(x: &Values, halo: [usize; 3], parts: Parts) -> Tensor {
    let mut t = empty_with(x.dim(), halo, parts);
    for (at, v) in x.indexed_iter() {
        let (chunk, element) = t.place(parts.count(), at);
        let high = bf16::from_f64(*v);
        t.data[chunk].0[element] = high.to_bits();
        if parts == Parts::Two {
            t.data[chunk + 1].0[element] = bf16::from_f64(v - high.to_f64()).to_bits();
        }
    }
    t
}

fn values(t: &Tensor, parts: Parts) -> Values {
    let g = t.grid;
    Array5::from_shape_fn((g.batch, g.channels, g.size[0], g.size[1], g.size[2]), |at| {
        let (chunk, element) = t.place(parts.count(), at);
        let part = |p: usize| bf16::from_bits(t.data[chunk + p].0[element]).to_f64();
        (0..parts.count()).map(part).sum()
    })
}

/// The halo and the channels of the padding must stay zero: the kernels rely on it.
fn assert_padding_is_zero(t: &Tensor, parts: Parts) {
    let mut left: Vec<Chunk> = t.data.clone();
    for (at, _) in values(t, parts).indexed_iter() {
        let (chunk, element) = t.place(parts.count(), at);
        (0..parts.count()).for_each(|p| left[chunk + p].0[element] = 0);
    }
    assert!(left.iter().all(|chunk| chunk.0 == [0; BLOCK]), "padding was written");
}

/// Values that were stored: off by `sum` before, and by rounding then.
fn assert_stored(what: &str, found: &Values, expected: &Values, parts: Parts, sum: f64) {
    assert_eq!(found.dim(), expected.dim(), "{what}: shape");
    // The sum that is rounded may itself be off, into the next binade.
    let bound = |e: f64| sum + unit(parts) * 1.01 * e.abs();
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
