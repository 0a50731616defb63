//! One resampling pass through a [`Warp`], straight from the case.
//!
//! Reading from the case itself takes the place of nnU-Net's enlarged intermediate patch: what rotates in from beyond
//! the patch is real data as long as the case has any.

use crate::spatial::{OUTSIDE, Warp};
use crate::spline::{Block, REACH, cubic_weights};
use ndarray::{ArrayView3, ArrayViewMut3, s};

/// Linear interpolation and rounding to the nearest voxel look one voxel further, and rounding of the map's borders one
/// more.
const NEAR: usize = 2;

fn shape<T>(view: &ArrayView3<'_, T>) -> [usize; 3] {
    let (z, y, x) = view.dim();
    [z, y, x]
}

/// Whether `p` lies within the voxel centres of a case of this shape.
#[inline]
fn inside(p: [f64; 3], shape: [usize; 3]) -> bool {
    (0..3).all(|a| p[a] >= 0.0 && p[a] <= (shape[a] - 1) as f64)
}

/// Whether `p` has a voxel of the case among its neighbours.
#[inline]
fn beside(p: [f64; 3], shape: [usize; 3]) -> bool {
    (0..3).all(|a| p[a] > -1.0 && p[a] < shape[a] as f64)
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
    let Some(region) = warp.region(full, if order == 3 { REACH + 2 } else { NEAR }) else {
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
    let origin = [z0, y0, x0];
    match (order, warp.planes) {
        (3, planes) => {
            block.prefilter(warp.interpolated());
            block.mirror_borders();
            if planes {
                fill(&mut out, warp, |p| inside(p, full), |p| cubic_in_plane(&block, origin, p));
            } else {
                fill(&mut out, warp, |p| inside(p, full), |p| cubic(&block, origin, p));
            }
        }
        (1, false) => fill(&mut out, warp, |p| beside(p, full), |p| linear(&block, origin, p)),
        (1, true) => {
            fill(&mut out, warp, |p| beside(p, full), |p| linear_in_plane(&block, origin, p));
        }
        _ => fill(&mut out, warp, |p| inside(p, full), |p| nearest(&block, origin, p)),
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

#[inline]
fn linear(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [stride_z, stride_y, _] = block.strides();
    // p > −1, so p + 1 can be truncated; it counts from the block's border of one voxel, which holds zeros.
    let [(z, tz), (y, ty), (x, tx)]: [(usize, f32); 3] =
        std::array::from_fn(|a| split(p[a] + 1.0, origin[a]));
    let first = z * stride_z + y * stride_y + x;
    let row = |at: usize| {
        let taps = &block.data[at..at + 2];
        taps[0] + tx * (taps[1] - taps[0])
    };
    let plane = |at: usize| {
        let (low, high) = (row(at), row(at + stride_y));
        low + ty * (high - low)
    };
    let (low, high) = (plane(first), plane(first + stride_z));
    low + tz * (high - low)
}

#[inline]
fn linear_in_plane(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [stride_z, stride_y, _] = block.strides();
    let [(z, _), (y, ty), (x, tx)]: [(usize, f32); 3] =
        std::array::from_fn(|a| split(p[a] + 1.0, origin[a]));
    let first = z * stride_z + y * stride_y + x;
    let row = |at: usize| {
        let taps = &block.data[at..at + 2];
        taps[0] + tx * (taps[1] - taps[0])
    };
    let (low, high) = (row(first), row(first + stride_y));
    low + ty * (high - low)
}

fn nearest(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [z, y, x]: [usize; 3] = std::array::from_fn(|a| (p[a] + 0.5) as usize - origin[a]);
    block.data[block.row(z, y) + x]
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
    let full = shape(&case);
    let Some(region) = warp.region(full, NEAR) else {
        out.fill(OUTSIDE);
        return;
    };
    let classes = Classes::of(case, region, warp.planes);
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.each_in_row(z, y, |x, p| {
                row[x] = match order {
                    _ if !beside(p, full) => OUTSIDE,
                    0 => classes.nearest(p),
                    _ => classes.heaviest(p),
                }
            });
        }
    }
}

/// The classes of a region with a border of one voxel [`OUTSIDE`].
struct Classes {
    data: Vec<i16>,
    strides: [usize; 3],
    origin: [usize; 3],
    /// From a voxel's lower to its upper neighbour along each axis; 0 where nothing is interpolated.
    steps: [usize; 3],
}

impl Classes {
    fn of(case: ArrayView3<'_, i16>, region: [(usize, usize); 3], planes: bool) -> Self {
        let [(z0, z1), (y0, y1), (x0, x1)] = region;
        let [nz, ny, nx] = region.map(|(low, high)| high - low + 2);
        let mut data = vec![OUTSIDE; nz * ny * nx];
        for z in z0..z1 {
            for y in y0..y1 {
                let start = ((z - z0 + 1) * ny + y - y0 + 1) * nx + 1;
                let target = &mut data[start..start + x1 - x0];
                target.iter_mut().zip(case.slice(s![z, y, x0..x1])).for_each(|(t, &c)| *t = c);
            }
        }
        let strides = [ny * nx, nx, 1];
        let steps = if planes { [0, nx, 1] } else { strides };
        Self { data, strides, origin: [z0, y0, x0], steps }
    }

    /// Index of the neighbour below `p`, and the fractions.
    #[inline]
    fn below(&self, p: [f64; 3]) -> (usize, [f32; 3]) {
        let [(z, tz), (y, ty), (x, tx)]: [(usize, f32); 3] =
            std::array::from_fn(|a| split(p[a] + 1.0, self.origin[a]));
        (z * self.strides[0] + y * self.strides[1] + x, [tz, ty, tx])
    }

    fn nearest(&self, p: [f64; 3]) -> i16 {
        let (first, t) = self.below(p);
        let steps: usize = (0..3).filter(|&a| t[a] >= 0.5).map(|a| self.steps[a]).sum();
        self.data[first + steps]
    }

    #[inline]
    fn heaviest(&self, p: [f64; 3]) -> i16 {
        let (first, t) = self.below(p);
        let [dz, dy, dx] = self.steps;
        let corners: [i16; 8] = std::array::from_fn(|i| {
            self.data[first + (i >> 2) * dz + ((i >> 1) & 1) * dy + (i & 1) * dx]
        });
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
