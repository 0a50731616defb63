//! Resampling of label maps: the label whose linearly interpolated one-hot map reaches one half.
//!
//! Looks at the up to eight voxels around a position instead of at one map per label. Sums and products are taken in
//! scipy's order, so that exact ties fall as they do there.

use super::axis::{Axis, Order};
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;

/// The source voxels around an output voxel along one axis, with their weights: two, or one where `count` is 1.
#[derive(Clone, Copy)]
struct Corners {
    at: [usize; 2],
    weights: [f64; 2],
    count: usize,
}

/// All three axes with one order.
pub(super) fn resize(x: ArrayView3<'_, i16>, target: [usize; 3], order: Order) -> Array3<i16> {
    let shape: [usize; 3] = x.dim().into();
    let [depth, height, width]: [Vec<Corners>; 3] =
        std::array::from_fn(|i| corners(shape[i], target[i], order));
    let x = x.as_standard_layout();
    let source = x.as_slice().expect("standard layout");
    let mut out = vec![0; target.iter().product()];
    let planes = out.par_chunks_mut(target[1] * target[2]).zip(&depth);
    planes.for_each_init(
        || vec![false; shape[2]],
        |uniform, (plane, z)| {
            for (out, y) in plane.chunks_exact_mut(target[2]).zip(&height) {
                resize_row(&Rows::around(source, shape, z, y), &width, uniform, out);
            }
        },
    );
    Array3::from_shape_vec(target, out).expect("as many values as the shape says")
}

fn corners(source: usize, target: usize, order: Order) -> Vec<Corners> {
    let axis = Axis::new(source, target, order);
    let count = if order == Order::Nearest || axis.is_identity() { 1 } else { 2 };
    let one = |k: usize| {
        let tap = axis.tap(k);
        // Past the end, the weight is 0.
        let second = (tap.first + 1).min(source - 1);
        Corners { at: [tap.first, second], weights: [tap.weights[0], tap.weights[1]], count }
    };
    (0..target).map(one).collect()
}

/// The one, two or four source rows around an output row; unused places repeat the first.
struct Rows<'a> {
    rows: [&'a [i16]; 4],
    weights: [f64; 4],
    count: usize,
}

impl<'a> Rows<'a> {
    fn around(source: &'a [i16], shape: [usize; 3], z: &Corners, y: &Corners) -> Self {
        let row = |z: usize, y: usize| &source[(z * shape[1] + y) * shape[2]..][..shape[2]];
        let mut rows = Self { rows: [row(z.at[0], y.at[0]); 4], weights: [0.0; 4], count: 0 };
        for i in 0..z.count {
            for j in 0..y.count {
                rows.rows[rows.count] = row(z.at[i], y.at[j]);
                rows.weights[rows.count] = z.weights[i] * y.weights[j];
                rows.count += 1;
            }
        }
        rows
    }

    /// Labels rise; a later label with at least one half overwrites an earlier one; 0 if none has.
    fn vote(&self, x: &Corners) -> i16 {
        let mut seen = [(0i16, 0f64); 8];
        let mut labels = 0;
        for (row, weight) in self.rows.iter().zip(self.weights).take(self.count) {
            for i in 0..x.count {
                let (label, weight) = (row[x.at[i]], weight * x.weights[i]);
                match seen[..labels].iter_mut().find(|(l, _)| *l == label) {
                    Some((_, sum)) => *sum += weight,
                    None => {
                        seen[labels] = (label, weight);
                        labels += 1;
                    }
                }
            }
        }
        let winners = seen[..labels].iter().filter(|(_, sum)| *sum >= 0.5);
        winners.map(|(label, _)| *label).max().unwrap_or(0)
    }
}

/// Most voxels lie amid a single label and need no vote.
fn resize_row(rows: &Rows<'_>, width: &[Corners], uniform: &mut [bool], out: &mut [i16]) {
    let [a, b, c, d] = rows.rows;
    for (x, uniform) in uniform.iter_mut().enumerate() {
        *uniform = (a[x] == b[x]) & (a[x] == c[x]) & (a[x] == d[x]);
    }
    for (out, corners) in out.iter_mut().zip(width) {
        let [left, right] = corners.at;
        let single = uniform[left] & uniform[right] & (a[left] == a[right]);
        *out = if single { a[left] } else { rows.vote(corners) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn at_a_tie_the_larger_label_wins_and_below_one_half_none_does() {
        // Halving puts one half on each of two neighbours.
        let pair = resize(array![[[1, 3, -1, 0]]].view(), [1, 1, 2], Order::Linear);
        assert_eq!(pair, array![[[3, 0]]]);
        // Four labels with one quarter each: nobody's.
        let four = resize(array![[[1, 2], [3, 4]]].view(), [1, 1, 1], Order::Linear);
        assert_eq!(four, array![[[0]]]);
        // Two of four are a half.
        let two = resize(array![[[1, 2], [2, 4]]].view(), [1, 1, 1], Order::Linear);
        assert_eq!(two, array![[[2]]]);
    }
}
