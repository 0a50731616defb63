//! Resampling of label maps: the label whose linearly interpolated one-hot map reaches one half.
//!
//! Looks at the up to eight voxels around a position instead of at one map per label. Sums and products are taken in
//! scipy's order, so that exact ties fall as they do there.

use super::axis::{Axis, Order, Tap};
use ndarray::{Array3, ArrayView3, Axis as Dim};
use rayon::prelude::*;

/// All three axes with one order.
pub(super) fn resize(x: ArrayView3<'_, i16>, target: [usize; 3], order: Order) -> Array3<i16> {
    let (a, b, c) = x.dim();
    let [za, ya, xa] = [(a, 0), (b, 1), (c, 2)].map(|(n, i)| Axis::new(n, target[i], order));
    let mut out = Array3::zeros(target);
    out.axis_iter_mut(Dim(0)).into_par_iter().enumerate().for_each(|(k, mut plane)| {
        let z = corners(&za, k);
        for ((i, j), out) in plane.indexed_iter_mut() {
            *out = vote(x, &z, &corners(&ya, i), &corners(&xa, j));
        }
    });
    out
}

/// The two source voxels around an output voxel and their weights; one for the nearest-neighbour rule.
struct Corners([(usize, f64); 2], usize);

fn corners(axis: &Axis, k: usize) -> Corners {
    let Tap { first, weights } = *axis.tap(k);
    let (second, used) = axis.second(k);
    Corners([(first, weights[0]), (second, weights[1])], used)
}

/// Labels rise; a later label with at least one half overwrites an earlier one; 0 if none has.
fn vote(x: ArrayView3<'_, i16>, z: &Corners, y: &Corners, c: &Corners) -> i16 {
    let first = x[[z.0[0].0, y.0[0].0, c.0[0].0]];
    let mut seen = [(first, 0f64); 8];
    let mut labels = 0;
    for &(i, wi) in &z.0[..z.1] {
        for &(j, wj) in &y.0[..y.1] {
            for &(k, wk) in &c.0[..c.1] {
                let label = x[[i, j, k]];
                let weight = wi * wj * wk;
                match seen[..labels].iter_mut().find(|(l, _)| *l == label) {
                    Some((_, sum)) => *sum += weight,
                    None => {
                        seen[labels] = (label, weight);
                        labels += 1;
                    }
                }
            }
        }
    }
    if labels == 1 {
        return first;
    }
    let winners = seen[..labels].iter().filter(|(_, sum)| *sum >= 0.5);
    winners.map(|(label, _)| *label).max().unwrap_or(0)
}
