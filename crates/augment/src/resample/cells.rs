//! The cells of a case that a row of a patch reads: eight voxels around each coordinate.

use super::{Row, shape};
use crate::simd::{Corners, TOGETHER};
use crate::spatial::Warp;
use ndarray::ArrayView3;

/// 2⁵²: added to a smaller whole number, it leaves that number in the lowest bits.
const WHOLE: f64 = 4_503_599_627_370_496.0;

/// The cells of one row.
pub(super) struct Cells {
    row: Row,
    /// Position of each cell's first corner; 0 where not all corners lie in the case, and for cells that fill up the list.
    first: Vec<u32>,
    /// Fractions along z, y, x.
    t: [Vec<f32>; 3],
    /// 1 where all corners lie in the case.
    inner: Vec<u32>,
    count: u32,
}

impl Cells {
    pub(super) fn of(warp: &Warp) -> Self {
        let n = warp.patch[2].next_multiple_of(TOGETHER);
        let t = [0; 3].map(|_| vec![0.0; n]);
        Self { row: warp.row(), first: vec![0; n], t, inner: vec![0; warp.patch[2]], count: 0 }
    }

    /// Length of lists.
    pub(super) fn padded(&self) -> usize {
        self.first.len()
    }

    /// Those of row (z, y) of the patch.
    #[inline(always)]
    pub(super) fn fill<T: Copy>(&mut self, grid: &Grid<'_, T>, warp: &Warp, z: usize, y: usize) {
        warp.fill_row(z, y, &mut self.row);
        let n = self.inner.len();
        let [pz, py, px] = self.row.at.each_ref().map(|at| &at[..n]);
        let [tz, ty, tx] = self.t.each_mut().map(|t| &mut t[..n]);
        let (first, inner) = (&mut self.first[..n], &mut self.inner[..n]);
        let (last, strides) = (grid.last, grid.strides.map(|stride| stride as f64));
        let mut count = 0;
        for x in 0..n {
            let p = [pz[x], py[x], px[x]];
            let within = |a: usize| (p[a] >= 0.0) & (p[a] < last[a]);
            let all = within(0) & within(1) & within(2);
            let whole = p.map(f64::floor);
            tz[x] = (p[0] - whole[0]) as f32;
            ty[x] = (p[1] - whole[1]) as f32;
            tx[x] = (p[2] - whole[2]) as f32;
            let at = whole[0] * strides[0] + whole[1] * strides[1] + whole[2] * strides[2];
            let at = if all { at } else { 0.0 };
            first[x] = (at + WHOLE).to_bits() as u32;
            inner[x] = u32::from(all);
            count += u32::from(all);
        }
        self.count = count;
    }

    pub(super) fn any_inner(&self) -> bool {
        self.count > 0
    }

    /// Voxels whose cells leave the case.
    pub(super) fn not_inner(&self) -> impl Iterator<Item = usize> {
        let some = if self.count as usize == self.inner.len() { &[][..] } else { &self.inner };
        some.iter().enumerate().filter(|(_, inner)| **inner == 0).map(|(x, _)| x)
    }

    /// Case coordinate of voxel `x`.
    pub(super) fn at(&self, x: usize) -> [f64; 3] {
        self.row.point(x)
    }

    pub(super) fn corners<T: Copy>(&self, grid: &Grid<'_, T>) -> Corners<'_> {
        Corners { first: &self.first, steps: grid.steps }
    }

    pub(super) fn fractions(&self) -> [&[f32]; 3] {
        self.t.each_ref().map(|t| &t[..])
    }
}

/// A case as one slice of memory, and the value around it.
pub(super) struct Grid<'a, T> {
    pub(super) data: &'a [T],
    shape: [usize; 3],
    strides: [usize; 3],
    /// In memory, from a voxel to its upper neighbour along each axis; 0 where nothing is interpolated.
    steps: [usize; 3],
    /// Coordinates from 0 up to here have all of their neighbours in the case.
    last: [f64; 3],
    outside: T,
}

impl<'a, T: Copy> Grid<'a, T> {
    pub(super) fn of(case: &'a ArrayView3<'_, T>, planes: bool, outside: T) -> Self {
        let data = case.as_slice_memory_order().expect("the channels of a case are contiguous");
        let shape = shape(case);
        let strides = [0, 1, 2].map(|a| case.strides()[a].unsigned_abs());
        let mut steps = strides;
        let mut last = shape.map(|n| n as f64 - 1.0);
        if planes {
            steps[0] = 0;
            // Whole numbers, all of them voxels.
            last[0] += 0.5;
        }
        if i32::try_from(data.len()).is_err() {
            // Beyond what lists of cells can count: each voxel is looked up by itself, like those at the border.
            last = [0.0; 3];
        }
        Self { data, shape, strides, steps, last, outside }
    }

    #[inline]
    pub(super) fn at(&self, voxel: [i64; 3]) -> T {
        let mut index = 0;
        for a in 0..3 {
            match usize::try_from(voxel[a]) {
                Ok(v) if v < self.shape[a] => index += v * self.strides[a],
                _ => return self.outside,
            }
        }
        self.data[index]
    }

    /// Whether no corner of the cell around `p` lies in the case.
    pub(super) fn is_apart(&self, p: [f64; 3]) -> bool {
        (0..3).any(|a| p[a] < -1.0 || p[a] >= self.shape[a] as f64)
    }

    /// The corners of the cell around `p` (z slowest, x fastest) and the fractions along z, y, x.
    #[inline]
    pub(super) fn cell(&self, p: [f64; 3]) -> ([T; 8], [f32; 3]) {
        if !(0..3).all(|a| p[a] >= 0.0 && p[a] < self.last[a]) {
            return self.cell_at_border(p);
        }
        // p ≥ 0, so truncation is the floor.
        let whole = p.map(|v| v as u32);
        let first: usize = (0..3).map(|a| whole[a] as usize * self.strides[a]).sum();
        let [dz, dy, dx] = self.steps;
        let row = |at: usize| [self.data[at], self.data[at + dx]];
        let [a, b] = row(first);
        let [c, d] = row(first + dy);
        let [e, f] = row(first + dz);
        let [g, h] = row(first + dz + dy);
        let t = std::array::from_fn(|i| (p[i] - f64::from(whole[i])) as f32);
        ([a, b, c, d, e, f, g, h], t)
    }

    #[cold]
    fn cell_at_border(&self, p: [f64; 3]) -> ([T; 8], [f32; 3]) {
        let low = p.map(|v| v.floor() as i64);
        let upper: [i64; 3] = std::array::from_fn(|a| i64::from(self.steps[a] > 0));
        let corners = std::array::from_fn(|i| {
            let bit = [i >> 2, i >> 1, i].map(|v| (v & 1) as i64);
            self.at(std::array::from_fn(|a| low[a] + bit[a] * upper[a]))
        });
        (corners, std::array::from_fn(|a| (p[a] - low[a] as f64) as f32))
    }
}

impl Grid<'_, f32> {
    pub(super) fn linear(&self, p: [f64; 3]) -> f32 {
        let ([a, b, c, d, e, f, g, h], [tz, ty, tx]) = self.cell(p);
        let blend = |low: f32, high: f32, t: f32| low + t * (high - low);
        let (low, high) = (blend(a, b, tx), blend(c, d, tx));
        let front = blend(low, high, ty);
        let (low, high) = (blend(e, f, tx), blend(g, h, tx));
        blend(front, blend(low, high, ty), tz)
    }
}
