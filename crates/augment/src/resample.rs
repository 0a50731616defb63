//! One resampling pass through a [`Warp`], straight from the case.
//!
//! Reading from the case itself takes the place of nnU-Net's enlarged intermediate patch: what rotates in from beyond
//! the patch is real data as long as the case has any.

use crate::simd::{self, Body, Level};
use crate::spatial::{OUTSIDE, Row, Warp};
use crate::spline::{Block, REACH, cubic_weights};
use ndarray::{ArrayView3, ArrayViewMut1, ArrayViewMut3, s};

mod cells;
mod majority;

use cells::{Cells, Grid};
use majority::Undecided;

fn shape<T>(view: &ArrayView3<'_, T>) -> [usize; 3] {
    let (z, y, x) = view.dim();
    [z, y, x]
}

/// Whether `p` lies within the voxel centres of a case of this shape.
#[inline(always)]
fn inside(p: [f64; 3], shape: [usize; 3]) -> bool {
    (0..3).all(|a| p[a] >= 0.0 && p[a] <= (shape[a] - 1) as f64)
}

/// Fills `out` (the warp's patch shape) with the channel `case` `[z, y, x]` read through `warp`.
///
/// - `order` 3: cubic B-spline, 0 beyond the outermost voxel centres: `scipy.ndimage.map_coordinates(mode="constant")`.
///   Coefficients come from the voxels within [`REACH`] of the patch alone.
/// - `order` 1: linear, as though zeros lay around the case: PyTorch's `grid_sample(padding_mode="zeros")`.
/// - `order` 0: the nearest voxel, 0 beyond the outermost voxel centres.
pub fn sample_image(
    case: ArrayView3<'_, f32>,
    warp: &Warp,
    order: u8,
    mut out: ArrayViewMut3<'_, f32>,
) {
    let full = shape(&case);
    match order {
        3 => sample_cubic(case, warp, out),
        1 => simd::run(Linear { grid: Grid::of(&case, warp.planes, 0.0), warp, out }),
        _ => fill(&mut out, warp, |p| inside(p, full), |p| case[nearest(p).map(|v| v as usize)]),
    }
}

/// Rows (z, y) of a patch, in an order in which those that follow each other read the same voxels of a case, however the
/// patch is turned; with a displacement in its own order, which fewer streams from memory make up for.
fn rows_of(warp: &Warp) -> impl Iterator<Item = (usize, usize)> + use<> {
    let [nz, ny, _] = warp.patch;
    let together = if warp.displacement.is_some() { 1 } else { 8 };
    (0..nz).step_by(together).flat_map(move |first| {
        let planes = first..nz.min(first + together);
        (0..ny).flat_map(move |y| planes.clone().map(move |z| (z, y)))
    })
}

/// Copies the first `values` to a row.
#[inline(always)]
fn write_row<T: Copy>(mut row: ArrayViewMut1<'_, T>, values: &[T]) {
    match row.as_slice_mut() {
        Some(row) => row.copy_from_slice(&values[..row.len()]),
        None => row.iter_mut().zip(values).for_each(|(out, value)| *out = *value),
    }
}

/// Linear interpolation of a patch.
struct Linear<'a> {
    grid: Grid<'a, f32>,
    warp: &'a Warp,
    out: ArrayViewMut3<'a, f32>,
}

impl Body for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self, level: Level) {
        let mut cells = Cells::of(self.warp);
        let mut values = vec![0.0; cells.padded()];
        for (z, y) in rows_of(self.warp) {
            cells.fill(&self.grid, self.warp, z, y);
            if cells.any_inner() {
                let corners = cells.corners(&self.grid);
                simd::linear(level, self.grid.data, corners, cells.fractions(), &mut values);
            }
            for x in cells.not_inner() {
                let p = cells.at(x);
                values[x] = if self.grid.is_apart(p) { 0.0 } else { self.grid.linear(p) };
            }
            write_row(self.out.slice_mut(s![z, y, ..]), &values);
        }
    }
}

fn sample_cubic(case: ArrayView3<'_, f32>, warp: &Warp, mut out: ArrayViewMut3<'_, f32>) {
    let full = shape(&case);
    let Some(region) = warp.region(full, REACH + 2) else {
        out.fill(0.0);
        return;
    };
    let mut block = Block::new(region.map(|(low, high)| high - low));
    let [(z0, z1), (y0, y1), (x0, x1)] = region;
    for z in z0..z1 {
        for y in y0..y1 {
            let start = block.row(z - z0, y - y0);
            let target = &mut block.data[start..start + x1 - x0];
            target.iter_mut().zip(case.slice(s![z, y, x0..x1])).for_each(|(t, &v)| *t = v);
        }
    }
    simd::run(Cubic { block, origin: [z0, y0, x0], full, warp, out });
}

/// Cubic interpolation of a patch from the samples of a block that begins at case voxel `origin`.
struct Cubic<'a> {
    block: Block,
    origin: [usize; 3],
    full: [usize; 3],
    warp: &'a Warp,
    out: ArrayViewMut3<'a, f32>,
}

impl Body for Cubic<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self, _: Level) {
        let Self { block, origin, full, warp, out } = &mut self;
        block.prefilter(warp.interpolated());
        block.mirror_borders();
        let known = |p| inside(p, *full);
        if warp.planes {
            fill(out, warp, known, |p| cubic_in_plane(block, *origin, p));
        } else {
            fill(out, warp, known, |p| cubic(block, *origin, p));
        }
    }
}

#[inline(always)]
fn fill(
    out: &mut ArrayViewMut3<'_, f32>,
    warp: &Warp,
    known: impl Fn([f64; 3]) -> bool,
    value: impl Fn([f64; 3]) -> f32,
) {
    let mut from = warp.row();
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.fill_row(z, y, &mut from);
            for (x, out) in row.iter_mut().enumerate() {
                let p = from.point(x);
                *out = if known(p) { value(p) } else { 0.0 };
            }
        }
    }
}

/// Whole voxel below `p` relative to `origin`, and the fraction.
#[inline(always)]
fn split(p: f64, origin: usize) -> (usize, f32) {
    // p ≥ 0 here, so truncation is the floor.
    let whole = p as usize;
    (whole - origin, (p - whole as f64) as f32)
}

#[inline(always)]
fn cubic(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [stride_z, stride_y, _] = block.strides();
    let [(z, tz), (y, ty), (x, tx)]: [(usize, f32); 3] =
        std::array::from_fn(|a| split(p[a], origin[a]));
    let (wz, wy, wx) = (cubic_weights(tz), cubic_weights(ty), cubic_weights(tx));
    // The border of one voxel makes the tap at floor − 1 have the index of floor.
    let first = z * stride_z + y * stride_y + x;
    let mut sum = [0.0f32; 4];
    for i in 0..4 {
        let mut plane = [0.0f32; 4];
        for j in 0..4 {
            let at = first + i * stride_z + j * stride_y;
            let taps = &block.data[at..at + 4];
            for k in 0..4 {
                plane[k] += wy[j] * taps[k];
            }
        }
        for k in 0..4 {
            sum[k] += wz[i] * plane[k];
        }
    }
    sum[0] * wx[0] + sum[1] * wx[1] + sum[2] * wx[2] + sum[3] * wx[3]
}

#[inline(always)]
fn cubic_in_plane(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [_, stride_y, _] = block.strides();
    let (y, ty) = split(p[1], origin[1]);
    let (x, tx) = split(p[2], origin[2]);
    let (wy, wx) = (cubic_weights(ty), cubic_weights(tx));
    let first = block.row(p[0] as usize - origin[0], 0) - stride_y - 1 + y * stride_y + x;
    let mut sum = [0.0f32; 4];
    for j in 0..4 {
        let taps = &block.data[first + j * stride_y..first + j * stride_y + 4];
        for k in 0..4 {
            sum[k] += wy[j] * taps[k];
        }
    }
    sum[0] * wx[0] + sum[1] * wx[1] + sum[2] * wx[2] + sum[3] * wx[3]
}

/// Fills `out` with the classes `case` `[z, y, x]` read through `warp`, as though [`OUTSIDE`] lay around the case.
///
/// With `order` 1 every class is interpolated by itself, linearly, as 0 or 1; a voxel takes the class of the largest
/// weight. Of equal ones it takes that of the nearest voxel, or the smallest if the nearest voxel's is not among them
/// (batchgeneratorsv2's rule). With `order` 0 it takes the nearest voxel's class.
pub fn sample_label(
    case: ArrayView3<'_, i16>,
    warp: &Warp,
    order: u8,
    mut out: ArrayViewMut3<'_, i16>,
) {
    let grid = Grid::of(&case, warp.planes, OUTSIDE);
    if order > 0 {
        return simd::run(Heaviest { grid, warp, out });
    }
    let mut from = warp.row();
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.fill_row(z, y, &mut from);
            let classes = (0..).map(|x| grid.at(nearest(from.point(x))));
            row.iter_mut().zip(classes).for_each(|(out, class)| *out = class);
        }
    }
}

/// The classes of a patch by their linear weights.
struct Heaviest<'a> {
    grid: Grid<'a, i16>,
    warp: &'a Warp,
    out: ArrayViewMut3<'a, i16>,
}

impl Body for Heaviest<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self, level: Level) {
        let mut cells = Cells::of(self.warp);
        let mut classes = vec![OUTSIDE; cells.padded()];
        let mut mixed = vec![0u16; cells.padded() / simd::TOGETHER];
        let mut undecided = Undecided::default();
        for (z, y) in rows_of(self.warp) {
            cells.fill(&self.grid, self.warp, z, y);
            mixed.fill(0);
            if cells.any_inner() {
                let corners = cells.corners(&self.grid);
                simd::classes(level, self.grid.data, corners, &mut classes, &mut mixed);
            }
            for x in cells.not_inner() {
                classes[x] = OUTSIDE;
                let bit = 1 << (x % simd::TOGETHER);
                let mixed = &mut mixed[x / simd::TOGETHER];
                let apart = self.grid.is_apart(cells.at(x));
                *mixed = if apart { *mixed & !bit } else { *mixed | bit };
            }
            write_row(self.out.slice_mut(s![z, y, ..]), &classes);
            // The list is longer than the row; what fills it up may be mixed.
            for x in ones(&mixed).take_while(|&x| x < self.warp.patch[2]) {
                undecided.add(self.grid.cell(cells.at(x)), [z, y, x]);
                if undecided.full() {
                    undecided.decide(|at, class| self.out[at] = class);
                }
            }
        }
        undecided.decide(|at, class| self.out[at] = class);
    }
}

/// Positions of the bits that are set, lowest first.
fn ones(words: &[u16]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(i, &word)| {
        let rest = |word: &u16| Some(word & (word - 1)).filter(|&rest| rest > 0);
        let left = std::iter::successors(Some(word).filter(|&word| word > 0), rest);
        left.map(move |word| i * simd::TOGETHER + word.trailing_zeros() as usize)
    })
}

/// The voxel that `p` lies in.
#[inline(always)]
fn nearest(p: [f64; 3]) -> [i64; 3] {
    p.map(|v| (v + 0.5).floor() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spatial::rotation;
    use ndarray::{Array3, Array4};

    /// By one voxel's rule after the other: what the passes over rows have to give, bit for bit.
    fn by_voxel(case: ArrayView3<'_, f32>, warp: &Warp) -> Array3<f32> {
        let grid = Grid::of(&case, warp.planes, 0.0);
        Array3::from_shape_fn(warp.patch, |(z, y, x)| grid.linear(warp.at(z, y, x)))
    }

    /// The naive definition: sums of weights by class; of equal ones the nearest corner's, else the smallest.
    fn heaviest(case: ArrayView3<'_, i16>, warp: &Warp) -> Array3<i16> {
        let grid = Grid::of(&case, warp.planes, OUTSIDE);
        Array3::from_shape_fn(warp.patch, |(z, y, x)| {
            let (corners, t) = grid.cell(warp.at(z, y, x));
            let t = t.map(f64::from);
            let side = |axis: usize, i: usize| {
                if i >> (2 - axis) & 1 == 1 { t[axis] } else { 1.0 - t[axis] }
            };
            let weight = |class: i16| -> f64 {
                let of_class = (0..8).filter(|&i| corners[i] == class);
                of_class.map(|i| side(0, i) * side(1, i) * side(2, i)).sum()
            };
            let most = corners.iter().map(|&class| weight(class)).fold(0.0, f64::max);
            let nearest = corners[(0..3).filter(|&a| t[a] >= 0.5).map(|a| 4 >> a).sum::<usize>()];
            if weight(nearest) == most {
                return nearest;
            }
            *corners.iter().filter(|&&class| weight(class) == most).min().expect("eight corners")
        })
    }

    /// Maps that stay inside, that leave the case on all sides, that lie apart from it, that fall on voxels and between
    /// them, with a displacement, and in planes; patches whose rows fill no vector.
    fn warps() -> Vec<Warp> {
        let turned = rotation([0.4, -0.7, 0.3]).map(|row| row.map(|v| v * 0.9));
        let straight = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let patch = [9, 11, 37];
        let field = Array4::from_shape_fn((3, 9, 11, 37), |(a, z, y, x)| {
            ((a * 5 + z * 3 + y * 7 + x) % 11) as f32 * 0.31 - 1.5
        });
        let warp = |centre, matrix, displacement, planes| Warp {
            patch,
            centre,
            matrix,
            displacement,
            planes,
        };
        let mut plane = turned;
        plane[0] = [1.0, 0.0, 0.0];
        (plane[1][0], plane[2][0]) = (0.0, 0.0);
        vec![
            warp([14.0, 15.5, 30.25], turned, None, false),
            warp([3.0, 30.0, 50.0], turned, None, false),
            warp([-90.0, 15.0, 30.0], turned, None, false),
            warp([14.0, 15.0, 30.0], straight, None, false),
            warp([14.5, 15.5, 30.5], straight, None, false),
            warp([14.0, 15.0, 30.0], turned, Some(field), false),
            warp([6.0, 15.0, 30.0], plane, None, true),
        ]
    }

    const CASE: [usize; 3] = [29, 32, 61];

    #[test]
    fn images_are_the_same_at_every_level_and_axis_order() {
        let case = Array3::from_shape_fn(CASE, |(z, y, x)| ((z * 7 + y * 13 + x * 3) % 31) as f32);
        for (warp, axes) in warps().iter().flat_map(|w| [[0, 1, 2], [2, 0, 1]].map(|a| (w, a))) {
            let case = case.view().permuted_axes(axes);
            let expected = by_voxel(case, warp);
            for level in Level::available() {
                let mut found = Array3::from_elem(warp.patch, f32::NAN);
                let grid = Grid::of(&case, warp.planes, 0.0);
                simd::run_at(level, Linear { grid, warp, out: found.view_mut() });
                assert!(found == expected, "{level:?}, {axes:?}, {warp:?}");
            }
        }
    }

    /// A case of more than 2³¹ voxels, nearly all of them pages that nobody wrote, with a small one in its far corner.
    #[test]
    fn cases_that_32_bits_cannot_count_are_read_like_others() {
        let small = Array3::from_shape_fn(CASE, |(z, y, x)| ((z * 7 + y * 13 + x * 3) % 3) as i16);
        let mut large = Array3::<i16>::zeros([29, 8606, 8606]);
        assert!(i32::try_from(large.len()).is_err());
        let at = [0, 8606 - CASE[1], 8606 - CASE[2]];
        large.slice_mut(s![.., at[1].., at[2]..]).assign(&small);
        let matrix = rotation([0.4, -0.7, 0.3]).map(|row| row.map(|v| v * 0.7));
        for centre in [[14.0, 15.5, 30.25], [20.0, 20.0, 45.5]] {
            let warp = |shift: [usize; 3]| Warp {
                patch: [5, 6, 20],
                centre: [0, 1, 2].map(|a| centre[a] + shift[a] as f64),
                matrix,
                displacement: None,
                planes: false,
            };
            let mut found = Array3::from_elem([5, 6, 20], 9);
            sample_label(large.view(), &warp(at), 1, found.view_mut());
            assert_eq!(found, heaviest(small.view(), &warp([0; 3])), "{centre:?}");
        }
    }

    #[test]
    fn labels_are_the_same_at_every_level_and_axis_order() {
        // Three classes in all arrangements, and larger patches of one.
        let case = Array3::from_shape_fn(CASE, |(z, y, x)| {
            if (20..40).contains(&x) {
                1
            } else {
                ((z * 7 + y * 13 + x * 3 + z * y % 5) % 3) as i16
            }
        });
        for (warp, axes) in warps().iter().flat_map(|w| [[0, 1, 2], [2, 0, 1]].map(|a| (w, a))) {
            let case = case.view().permuted_axes(axes);
            let expected = heaviest(case, warp);
            for level in Level::available() {
                let mut found = Array3::from_elem(warp.patch, 9);
                let grid = Grid::of(&case, warp.planes, OUTSIDE);
                simd::run_at(level, Heaviest { grid, warp, out: found.view_mut() });
                assert!(found == expected, "{level:?}, {axes:?}, {warp:?}");
            }
        }
    }
}
