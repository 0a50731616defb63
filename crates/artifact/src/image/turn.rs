//! Axes of an image in another order and direction: how images get to RAS and predictions back.

use crate::nifti::{Geometry, Volume};
use ndarray::{ArrayBase, Axis, Ix3, Ix4, RawData};

/// A signed permutation of array axes (z, y, x); no voxel is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// New axis `i` is old axis `axes[i]`.
    pub axes: [usize; 3],
    /// New axis `i` runs against the old one.
    pub flip: [bool; 3],
}

impl Turn {
    /// Leaves everything as it is.
    pub const NONE: Self = Self { axes: [0, 1, 2], flip: [false; 3] };

    /// Only another order.
    pub fn of_transpose(axes: [usize; 3]) -> Self {
        Self { axes, flip: [false; 3] }
    }

    /// The way back.
    pub fn inverse(self) -> Self {
        let mut back = Self::NONE;
        for (new, &old) in self.axes.iter().enumerate() {
            back.axes[old] = new;
            back.flip[old] = self.flip[new];
        }
        back
    }

    /// This one, then `next`.
    pub fn then(self, next: Self) -> Self {
        Self {
            axes: next.axes.map(|axis| self.axes[axis]),
            flip: std::array::from_fn(|i| next.flip[i] ^ self.flip[next.axes[i]]),
        }
    }

    /// What is said per axis, such as a shape, in the new order.
    pub fn order<T: Copy>(self, old: [T; 3]) -> [T; 3] {
        self.axes.map(|axis| old[axis])
    }

    /// `[z, y, x]` turned, without moving a voxel.
    pub fn view<S: RawData>(self, array: ArrayBase<S, Ix3>) -> ArrayBase<S, Ix3> {
        let mut array = array.permuted_axes(self.axes);
        for axis in (0..3).filter(|&axis| self.flip[axis]) {
            array.invert_axis(Axis(axis));
        }
        array
    }

    /// `[channel, z, y, x]` turned, without moving a voxel.
    pub fn channels<S: RawData>(self, array: ArrayBase<S, Ix4>) -> ArrayBase<S, Ix4> {
        let [a, b, c] = self.axes;
        let mut array = array.permuted_axes([0, a + 1, b + 1, c + 1]);
        for axis in (0..3).filter(|&axis| self.flip[axis]) {
            array.invert_axis(Axis(axis + 1));
        }
        array
    }
}

impl Geometry {
    /// The same voxels in other axes. The header stays that of the file.
    #[must_use]
    pub fn turned(&self, turn: Turn) -> Self {
        // Array axes z, y, x are image axes 2, 1, 0.
        let mut first = [0.0; 3];
        let mut direction = self.direction;
        for (new, &old) in turn.axes.iter().enumerate() {
            let sign = if turn.flip[new] { -1.0 } else { 1.0 };
            if turn.flip[new] {
                first[2 - old] = self.shape[old].saturating_sub(1) as f64;
            }
            for (to, from) in direction.iter_mut().zip(self.direction) {
                // `+ 0.0` turns −0 into 0.
                to[2 - new] = sign * from[2 - old] + 0.0;
            }
        }
        Self {
            shape: turn.order(self.shape),
            spacing_mm: turn.order(self.spacing_mm),
            origin_mm: self.position(first),
            direction,
            header: self.header.clone(),
        }
    }
}

impl Volume {
    /// The same voxels in other axes, C order.
    #[must_use]
    pub fn turned(self, turn: Turn) -> Self {
        if turn == Turn::NONE {
            return self;
        }
        let geometry = self.geometry.turned(turn);
        let channels = turn.channels(self.channels.view()).as_standard_layout().into_owned();
        Self { geometry, channels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, Array4};

    fn all() -> Vec<Turn> {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let flips = (0..8).map(|bits| [0, 1, 2].map(|axis| bits >> axis & 1 == 1));
        flips.flat_map(|flip| orders.map(|axes| Turn { axes, flip })).collect()
    }

    #[test]
    fn turns_compose_and_undo_each_other() {
        let array = Array3::from_shape_fn((2, 3, 4), |(z, y, x)| 100 * z + 10 * y + x);
        for a in all() {
            assert_eq!(a.inverse().view(a.view(array.view())), array);
            assert_eq!(a.then(a.inverse()), Turn::NONE);
            for b in all() {
                assert_eq!(a.then(b).view(array.view()), b.view(a.view(array.view())));
            }
        }
    }

    #[test]
    fn voxels_stay_where_they_are_in_space() {
        let mut geometry = Geometry::plain([2, 3, 4], [3.0, 2.0, 1.5]);
        geometry.origin_mm = [-7.0, 11.0, 5.0];
        let (sin, cos) = 0.3f64.sin_cos();
        geometry.direction = [[cos, 0.0, -sin], [sin, 0.0, cos], [0.0, -1.0, 0.0]];
        let channels = Array4::from_shape_fn((2, 2, 3, 4), |(c, z, y, x)| {
            (1000 * c + 100 * z + 10 * y + x) as f32
        });
        let volume = Volume { geometry, channels };
        for turn in all() {
            let turned = volume.clone().turned(turn);
            assert!(turned.channels.is_standard_layout());
            for ((c, z, y, x), value) in turned.channels.indexed_iter() {
                let number = *value as usize % 1000;
                let from = [number % 10, number / 10 % 10, number / 100].map(|n| n as f64);
                let expected = volume.geometry.position(from);
                let found = turned.geometry.position([x, y, z].map(|n| n as f64));
                let away = (0..3).map(|i| (found[i] - expected[i]).abs()).fold(0.0, f64::max);
                // A few roundings of numbers below 32 mm.
                assert!(away < 1e-13 && *value as usize / 1000 == c, "{turn:?}: {away}");
            }
        }
    }
}
