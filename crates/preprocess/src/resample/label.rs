//! Resampling of label maps: each label's one-hot map interpolated linearly, and a rule for who wins.
//!
//! Looks at the up to eight voxels around a position instead of at one map per label. Sums and products are taken in
//! scipy's order, so that exact ties fall as they do there.

use super::axis::{Axis, Order};
use artifact::recipe::LabelVote;
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;

/// Who wins among the labels around a voxel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Winner {
    /// The label of the largest weight; of equal ones the nearest voxel's, or the smallest if that is not among them.
    LargestWeight,
    /// The largest label with at least one half; 0 if none has.
    Half,
    /// The label with more than one half; 0 if none has.
    MoreThanHalf,
}

impl From<LabelVote> for Winner {
    fn from(vote: LabelVote) -> Self {
        match vote {
            LabelVote::LargestWeight => Self::LargestWeight,
            LabelVote::Half => Self::Half,
        }
    }
}

/// The source voxels around an output voxel along one axis, with their weights: two, or one where `count` is 1.
#[derive(Clone, Copy)]
struct Corners {
    at: [usize; 2],
    weights: [f64; 2],
    count: usize,
    /// Which of the two is nearest; halfway it is the second.
    nearest: usize,
}

/// All three axes with one order; `winner` matters to linear interpolation alone.
pub(super) fn resize(
    x: ArrayView3<'_, i16>,
    target: [usize; 3],
    order: Order,
    winner: Winner,
) -> Array3<i16> {
    match winner {
        Winner::LargestWeight => resize_by::<LargestWeight>(x, target, order),
        Winner::Half => resize_by::<Half>(x, target, order),
        Winner::MoreThanHalf => resize_by::<MoreThanHalf>(x, target, order),
    }
}

fn resize_by<R: Rule>(x: ArrayView3<'_, i16>, target: [usize; 3], order: Order) -> Array3<i16> {
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
                resize_row::<R>(&Rows::around(source, shape, z, y), &width, uniform, out);
            }
        },
    );
    Array3::from_shape_vec(target, out).expect("as many values as the shape says")
}

fn corners(source: usize, target: usize, order: Order) -> Vec<Corners> {
    let axis = Axis::new(source, target, order);
    let by_distance = Axis::new(source, target, Order::Nearest);
    let count = if order == Order::Nearest || axis.is_identity() { 1 } else { 2 };
    let one = |k: usize| {
        let tap = axis.tap(k);
        // Past the end, the weight is 0.
        let second = (tap.first + 1).min(source - 1);
        let nearest = if count == 1 { 0 } else { by_distance.tap(k).first - tap.first };
        let weights = [tap.weights[0], tap.weights[1]];
        Corners { at: [tap.first, second], weights, count, nearest }
    };
    (0..target).map(one).collect()
}

/// The one, two or four source rows around an output row; unused places repeat the first.
struct Rows<'a> {
    rows: [&'a [i16]; 4],
    weights: [f64; 4],
    count: usize,
    /// Which of the rows is nearest.
    nearest: usize,
}

impl<'a> Rows<'a> {
    fn around(source: &'a [i16], shape: [usize; 3], z: &Corners, y: &Corners) -> Self {
        let row = |z: usize, y: usize| &source[(z * shape[1] + y) * shape[2]..][..shape[2]];
        let mut rows = Self {
            rows: [row(z.at[0], y.at[0]); 4],
            weights: [0.0; 4],
            count: 0,
            nearest: z.nearest * y.count + y.nearest,
        };
        for i in 0..z.count {
            for j in 0..y.count {
                rows.rows[rows.count] = row(z.at[i], y.at[j]);
                rows.weights[rows.count] = z.weights[i] * y.weights[j];
                rows.count += 1;
            }
        }
        rows
    }

    fn vote<R: Rule>(&self, x: &Corners) -> i16 {
        let mut votes = [(0i16, 0f64); 8];
        let mut labels = 0;
        for (row, weight) in self.rows.iter().zip(self.weights).take(self.count) {
            for i in 0..x.count {
                let (label, weight) = (row[x.at[i]], weight * x.weights[i]);
                match votes[..labels].iter_mut().find(|(l, _)| *l == label) {
                    Some((_, sum)) => *sum += weight,
                    None => {
                        votes[labels] = (label, weight);
                        labels += 1;
                    }
                }
            }
        }
        R::winner(&votes[..labels], self.rows[self.nearest][x.at[x.nearest]])
    }
}

/// A [`Winner`]; a type each, so that the loop over voxels is compiled for it.
trait Rule {
    /// From labels with their weights, and the nearest voxel's label, which is one of them.
    fn winner(votes: &[(i16, f64)], nearest: i16) -> i16;
}

struct LargestWeight;
struct Half;
struct MoreThanHalf;

impl Rule for LargestWeight {
    fn winner(votes: &[(i16, f64)], nearest: i16) -> i16 {
        let most = votes.iter().fold(0.0, |most, (_, weight)| weight.max(most));
        let tied = || votes.iter().filter(|(_, weight)| *weight == most).map(|(label, _)| *label);
        if tied().any(|label| label == nearest) {
            return nearest;
        }
        tied().min().unwrap_or(nearest)
    }
}

impl Rule for Half {
    fn winner(votes: &[(i16, f64)], _: i16) -> i16 {
        let winners = votes.iter().filter(|(_, weight)| *weight >= 0.5);
        winners.map(|(label, _)| *label).max().unwrap_or(0)
    }
}

impl Rule for MoreThanHalf {
    fn winner(votes: &[(i16, f64)], _: i16) -> i16 {
        let winner = votes.iter().find(|(_, weight)| *weight > 0.5);
        winner.map_or(0, |(label, _)| *label)
    }
}

/// Most voxels lie amid a single label and need no vote.
fn resize_row<R: Rule>(rows: &Rows<'_>, width: &[Corners], uniform: &mut [bool], out: &mut [i16]) {
    let [a, b, c, d] = rows.rows;
    for (x, uniform) in uniform.iter_mut().enumerate() {
        *uniform = (a[x] == b[x]) & (a[x] == c[x]) & (a[x] == d[x]);
    }
    for (out, corners) in out.iter_mut().zip(width) {
        let [left, right] = corners.at;
        let single = uniform[left] & uniform[right] & (a[left] == a[right]);
        *out = if single { a[left] } else { rows.vote::<R>(corners) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn voted(x: Array3<i16>, target: [usize; 3], winner: Winner) -> Array3<i16> {
        resize(x.view(), target, Order::Linear, winner)
    }

    #[test]
    fn by_half_the_larger_label_wins_a_tie_and_below_one_half_none_does() {
        // Halving puts one half on each of two neighbours.
        let pair = voted(array![[[1, 3, -1, 0]]], [1, 1, 2], Winner::Half);
        assert_eq!(pair, array![[[3, 0]]]);
        // Four labels with one quarter each: nobody's.
        let four = voted(array![[[1, 2], [3, 4]]], [1, 1, 1], Winner::Half);
        assert_eq!(four, array![[[0]]]);
        // Two of four are a half.
        let two = voted(array![[[1, 2], [2, 4]]], [1, 1, 1], Winner::Half);
        assert_eq!(two, array![[[2]]]);
        // Which is not more than a half.
        let two = voted(array![[[1, 2], [2, 4]]], [1, 1, 1], Winner::MoreThanHalf);
        assert_eq!(two, array![[[0]]]);
        let three = voted(array![[[1, 2], [2, 2]]], [1, 1, 1], Winner::MoreThanHalf);
        assert_eq!(three, array![[[2]]]);
    }

    #[test]
    fn by_weight_the_nearest_label_wins_a_tie_or_else_the_smallest() {
        // Halfway, the second voxel counts as the nearest.
        let pair = voted(array![[[3, 1, 0, -1]]], [1, 1, 2], Winner::LargestWeight);
        assert_eq!(pair, array![[[1, -1]]]);
        // Two labels have three eighths each; the nearest voxel's has two.
        let three = array![[[3, 2], [1, 2]], [[2, 1], [1, 3]]];
        assert_eq!(voted(three, [1, 1, 1], Winner::LargestWeight), array![[[1]]]);
        // No label has a half, and none is a hole.
        let four = voted(array![[[1, 2], [3, 2], [2, 4]]], [1, 2, 1], Winner::LargestWeight);
        assert_eq!(four, array![[[2], [2]]]);
    }
}
