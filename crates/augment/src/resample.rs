//! One resampling pass through a [`Warp`], straight from the case.
//!
//! Reading from the case itself takes the place of nnU-Net's enlarged intermediate patch: what rotates in from beyond
//! the patch is real data as long as the case has any.

use crate::spatial::{OUTSIDE, Warp};
use crate::spline::{Block, REACH, cubic_weights};
use ndarray::{ArrayView3, ArrayViewMut3, s};

fn shape<T>(view: &ArrayView3<'_, T>) -> [usize; 3] {
    let (z, y, x) = view.dim();
    [z, y, x]
}

/// Whether `p` lies within the voxel centres of a case of this shape.
#[inline]
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
        1 => {
            let grid = Grid::of(&case, warp.planes, 0.0);
            fill(&mut out, warp, |_| true, |p| grid.linear(p));
        }
        _ => fill(&mut out, warp, |p| inside(p, full), |p| case[nearest(p).map(|v| v as usize)]),
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
    block.prefilter(warp.interpolated());
    block.mirror_borders();
    let origin = [z0, y0, x0];
    if warp.planes {
        fill(&mut out, warp, |p| inside(p, full), |p| cubic_in_plane(&block, origin, p));
    } else {
        fill(&mut out, warp, |p| inside(p, full), |p| cubic(&block, origin, p));
    }
}

#[inline]
fn fill(
    out: &mut ArrayViewMut3<'_, f32>,
    warp: &Warp,
    known: impl Fn([f64; 3]) -> bool,
    value: impl Fn([f64; 3]) -> f32,
) {
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.each_in_row(z, y, |x, p| row[x] = if known(p) { value(p) } else { 0.0 });
        }
    }
}

/// Whole voxel below `p` relative to `origin`, and the fraction.
#[inline]
fn split(p: f64, origin: usize) -> (usize, f32) {
    // p ≥ 0 here, so truncation is the floor.
    let whole = p as usize;
    (whole - origin, (p - whole as f64) as f32)
}

#[inline]
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

#[inline]
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
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.each_in_row(z, y, |x, p| {
                row[x] = if order == 0 { grid.at(nearest(p)) } else { grid.heaviest(p) };
            });
        }
    }
}

/// The voxel that `p` lies in.
#[inline]
fn nearest(p: [f64; 3]) -> [i64; 3] {
    p.map(|v| (v + 0.5).floor() as i64)
}

/// A case as one slice of memory, and the value around it.
struct Grid<'a, T> {
    data: &'a [T],
    shape: [usize; 3],
    strides: [usize; 3],
    /// In memory, from a voxel to its upper neighbour along each axis; 0 where nothing is interpolated.
    steps: [usize; 3],
    /// Coordinates from 0 up to here have all of their neighbours in the case.
    last: [f64; 3],
    outside: T,
}

impl<'a, T: Copy> Grid<'a, T> {
    fn of(case: &'a ArrayView3<'_, T>, planes: bool, outside: T) -> Self {
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
        Self { data, shape, strides, steps, last, outside }
    }

    #[inline]
    fn at(&self, voxel: [i64; 3]) -> T {
        let mut index = 0;
        for a in 0..3 {
            match usize::try_from(voxel[a]) {
                Ok(v) if v < self.shape[a] => index += v * self.strides[a],
                _ => return self.outside,
            }
        }
        self.data[index]
    }

    /// The corners of the cell around `p` (z slowest, x fastest) and the fractions along z, y, x.
    #[inline]
    fn cell(&self, p: [f64; 3]) -> ([T; 8], [f32; 3]) {
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
    #[inline]
    fn linear(&self, p: [f64; 3]) -> f32 {
        let ([a, b, c, d, e, f, g, h], [tz, ty, tx]) = self.cell(p);
        let blend = |low: f32, high: f32, t: f32| low + t * (high - low);
        let (low, high) = (blend(a, b, tx), blend(c, d, tx));
        let front = blend(low, high, ty);
        let (low, high) = (blend(e, f, tx), blend(g, h, tx));
        blend(front, blend(low, high, ty), tz)
    }
}

impl Grid<'_, i16> {
    #[inline]
    fn heaviest(&self, p: [f64; 3]) -> i16 {
        let (corners, t) = self.cell(p);
        if corners[1..].iter().all(|&c| c == corners[0]) { corners[0] } else { decide(corners, t) }
    }
}

/// The class with the largest sum of weights among a cell's corners (z slowest, x fastest), at fractions `t` (z, y, x).
fn decide(corners: [i16; 8], t: [f32; 3]) -> i16 {
    let t = t.map(f64::from);
    let side = |axis: usize, upper: usize| if upper == 1 { t[axis] } else { 1.0 - t[axis] };
    let weights: [f64; 8] =
        std::array::from_fn(|i| side(0, i >> 2) * side(1, (i >> 1) & 1) * side(2, i & 1));
    let weight =
        |class: i16| -> f64 { (0..8).filter(|&i| corners[i] == class).map(|i| weights[i]).sum() };
    let nearest = (0..3).filter(|&a| t[a] >= 0.5).map(|a| 4 >> a).sum::<usize>();
    let nearest = corners[nearest];
    let (mut best, mut most) = (nearest, weight(nearest));
    for (i, &class) in corners.iter().enumerate() {
        if class == best || corners[..i].contains(&class) {
            continue;
        }
        let w = weight(class);
        if w > most || w == most && best != nearest && class < best {
            (best, most) = (class, w);
        }
    }
    best
}
