//! Rotation, scaling and elastic deformation as one map from patch voxels to case coordinates, and one resampling
//! pass through it, straight from the case.
//!
//! Reading from the case itself takes the place of nnU-Net's enlarged intermediate patch: what rotates in from beyond
//! the patch is real data as long as the case has any. Coordinates outside the case's voxel centres give the fill value
//! (0, label −1), as `scipy.ndimage.map_coordinates(mode="constant")` does.

use crate::spline::{Block, REACH, cubic_weights};
use ndarray::{Array4, ArrayView3, ArrayViewMut3, s};

/// Label outside of the case and outside of the nonzero mask.
pub const OUTSIDE: i16 = -1;

/// A map from the voxels of a patch to the coordinates of a case.
///
/// Voxel `v` of the patch, counted from the patch's centre, reads the case at
/// `centre + matrix · (v + displacement[v])`.
#[derive(Debug, Clone)]
pub struct Warp {
    /// Patch shape.
    pub patch: [usize; 3],
    /// Case coordinate (voxel centres are integers) of the patch's centre.
    pub centre: [f64; 3],
    /// Rotation times scale, applied to column vectors.
    pub matrix: [[f64; 3]; 3],
    /// `[axis, z, y, x]` in voxels; depth 1 = the same for all z.
    pub displacement: Option<Array4<f32>>,
    /// Slice by slice: nothing moves or is interpolated along axis 0.
    pub planes: bool,
}

/// Rotation matrix of batchgenerators' order, angles in radians about axes 0, 1, 2: for column vectors
/// (R₀ R₁ R₂)ᵀ, where each R turns the two other axes.
pub fn rotation([a, b, c]: [f64; 3]) -> [[f64; 3]; 3] {
    let (sa, ca) = a.sin_cos();
    let (sb, cb) = b.sin_cos();
    let (sc, cc) = c.sin_cos();
    let product = multiply(
        multiply(
            [[1.0, 0.0, 0.0], [0.0, ca, -sa], [0.0, sa, ca]],
            [[cb, 0.0, sb], [0.0, 1.0, 0.0], [-sb, 0.0, cb]],
        ),
        [[cc, -sc, 0.0], [sc, cc, 0.0], [0.0, 0.0, 1.0]],
    );
    std::array::from_fn(|i| std::array::from_fn(|j| product[j][i]))
}

fn multiply(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

impl Warp {
    /// Case coordinate that patch voxel (z, y, x) reads.
    pub fn at(&self, z: usize, y: usize, x: usize) -> [f64; 3] {
        let mut found = [0.0; 3];
        self.each_in_row(z, y, |column, p| {
            if column == x {
                found = p;
            }
        });
        found
    }

    /// Calls `visit(x, case coordinate)` for a whole row of the patch.
    #[inline]
    fn each_in_row(&self, z: usize, y: usize, mut visit: impl FnMut(usize, [f64; 3])) {
        let half = self.patch.map(|n| 0.5 * (n as f64 - 1.0));
        let (from_z, from_y) = (z as f64 - half[0], y as f64 - half[1]);
        let m = &self.matrix;
        let Some(field) = &self.displacement else {
            let base: [f64; 3] =
                std::array::from_fn(|i| self.centre[i] + m[i][0] * from_z + m[i][1] * from_y);
            for x in 0..self.patch[2] {
                let from_x = x as f64 - half[2];
                visit(x, std::array::from_fn(|i| base[i] + m[i][2] * from_x));
            }
            return;
        };
        let z = z.min(field.dim().1 - 1);
        let rows = [0, 1, 2].map(|axis| field.slice(s![axis, z, y, ..]));
        for x in 0..self.patch[2] {
            let d = [0, 1, 2].map(|axis| f64::from(rows[axis][x]));
            let v = [from_z + d[0], from_y + d[1], x as f64 - half[2] + d[2]];
            visit(
                x,
                std::array::from_fn(|i| {
                    self.centre[i] + m[i][0] * v[0] + m[i][1] * v[1] + m[i][2] * v[2]
                }),
            );
        }
    }

    /// Case coordinates of all patch voxels, `[axis, z, y, x]`.
    pub fn coordinates(&self) -> Array4<f64> {
        let [nz, ny, nx] = self.patch;
        let mut coordinates = Array4::zeros((3, nz, ny, nx));
        for z in 0..nz {
            for y in 0..ny {
                self.each_in_row(z, y, |x, p| {
                    for axis in 0..3 {
                        coordinates[[axis, z, y, x]] = p[axis];
                    }
                });
            }
        }
        coordinates
    }

    /// The axes along which values are interpolated.
    fn interpolated(&self) -> &'static [usize] {
        if self.planes { &[1, 2] } else { &[0, 1, 2] }
    }

    /// Voxels of the case, first and one past the last per axis, that the patch can depend on; `None` if it lies
    /// outside altogether.
    fn region(&self, case: [usize; 3]) -> Option<[(usize, usize); 3]> {
        let mut half = self.patch.map(|n| 0.5 * (n as f64 - 1.0));
        if let Some(field) = &self.displacement {
            for (h, component) in half.iter_mut().zip(field.outer_iter()) {
                *h += component.iter().fold(0.0, |m: f64, &d| m.max(f64::from(d.abs())));
            }
        }
        let mut region = [(0, 0); 3];
        for axis in 0..3 {
            let extent: f64 = (0..3).map(|a| self.matrix[axis][a].abs() * half[a]).sum();
            let reach = if self.interpolated().contains(&axis) { (REACH + 2) as f64 } else { 0.0 };
            let low = (self.centre[axis] - extent - reach).floor().max(0.0);
            let high = (self.centre[axis] + extent + reach).ceil().min(case[axis] as f64 - 1.0);
            if low > high {
                return None;
            }
            region[axis] = (low as usize, high as usize + 1);
        }
        Some(region)
    }
}

/// Whether `p` lies within the voxel centres of a case of this shape.
#[inline]
fn inside(p: [f64; 3], shape: [usize; 3]) -> bool {
    (0..3).all(|a| p[a] >= 0.0 && p[a] <= (shape[a] - 1) as f64)
}

fn shape<T>(view: &ArrayView3<'_, T>) -> [usize; 3] {
    let (z, y, x) = view.dim();
    [z, y, x]
}

/// Fills `out` (the warp's patch shape) with the channel `case` `[z, y, x]` read through `warp`; 0 outside.
///
/// `order` is 3 (cubic B-spline), 1 (linear) or 0 (nearest). Cubic coefficients come from the voxels within
/// [`REACH`] of the patch alone.
pub fn sample_image(
    case: ArrayView3<'_, f32>,
    warp: &Warp,
    order: u8,
    mut out: ArrayViewMut3<'_, f32>,
) {
    let full = shape(&case);
    let Some(region) = warp.region(full) else {
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
    if order == 3 {
        block.prefilter(warp.interpolated());
    }
    block.mirror_borders();
    let origin = [z0, y0, x0];
    match (order, warp.planes) {
        (3, false) => fill(&mut out, warp, full, |p| cubic(&block, origin, p)),
        (3, true) => fill(&mut out, warp, full, |p| cubic_in_plane(&block, origin, p)),
        (1, _) => fill(&mut out, warp, full, |p| linear(&block, origin, p)),
        _ => fill(&mut out, warp, full, |p| nearest(&block, origin, p)),
    }
}

fn fill(
    out: &mut ArrayViewMut3<'_, f32>,
    warp: &Warp,
    full: [usize; 3],
    value: impl Fn([f64; 3]) -> f32,
) {
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.each_in_row(z, y, |x, p| row[x] = if inside(p, full) { value(p) } else { 0.0 });
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

fn linear(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [stride_z, stride_y, _] = block.strides();
    let [(z, tz), (y, ty), (x, tx)]: [(usize, f32); 3] =
        std::array::from_fn(|a| split(p[a], origin[a]));
    let first = block.row(z, y) + x;
    let mut sum = 0.0;
    for (dz, wz) in [(0, 1.0 - tz), (1, tz)] {
        for (dy, wy) in [(0, 1.0 - ty), (1, ty)] {
            let at = first + dz * stride_z + dy * stride_y;
            sum += wz * wy * ((1.0 - tx) * block.data[at] + tx * block.data[at + 1]);
        }
    }
    sum
}

fn nearest(block: &Block, origin: [usize; 3], p: [f64; 3]) -> f32 {
    let [z, y, x]: [usize; 3] = std::array::from_fn(|a| (p[a] + 0.5) as usize - origin[a]);
    block.data[block.row(z, y) + x]
}

/// Fills `out` with the labels `case` `[z, y, x]` read through `warp`; [`OUTSIDE`] outside.
///
/// With `order` 1 every class is interpolated by itself, linearly, as 0 or 1; a voxel takes the largest class that
/// reaches ½, the background if none does (batchgenerators' rule). With `order` 0 it takes the nearest voxel's class.
pub fn sample_label(
    case: ArrayView3<'_, i16>,
    warp: &Warp,
    order: u8,
    mut out: ArrayViewMut3<'_, i16>,
) {
    let full = shape(&case);
    let Some(region) = warp.region(full) else {
        out.fill(OUTSIDE);
        return;
    };
    let [(z0, z1), (y0, y1), (x0, x1)] = region;
    let near = case.slice(s![z0..z1, y0..y1, x0..x1]);
    let near = near.as_standard_layout();
    let labels = near.as_slice().expect("standard layout");
    let shape = region.map(|(low, high)| high - low);
    let origin = [z0, y0, x0];
    let class = |p: [f64; 3]| match order {
        _ if !inside(p, full) => OUTSIDE,
        0 => {
            let [z, y, x]: [usize; 3] = std::array::from_fn(|a| (p[a] + 0.5) as usize - origin[a]);
            labels[(z * shape[1] + y) * shape[2] + x]
        }
        _ => class_at(labels, shape, std::array::from_fn(|a| p[a] - origin[a] as f64)),
    };
    for (z, mut plane) in out.outer_iter_mut().enumerate() {
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            warp.each_in_row(z, y, |x, p| row[x] = class(p));
        }
    }
}

/// The largest class whose linear weight at `p` reaches ½; 0 if none does.
#[inline]
fn class_at(labels: &[i16], shape: [usize; 3], p: [f64; 3]) -> i16 {
    let mut offsets = [[0; 2]; 3];
    let mut weights = [[0.0; 2]; 3];
    let mut stride = 1;
    for a in [2, 1, 0] {
        let low = p[a] as usize;
        offsets[a] = [low * stride, (low + 1).min(shape[a] - 1) * stride];
        let t = p[a] - low as f64;
        weights[a] = [1.0 - t, t];
        stride *= shape[a];
    }
    let corner =
        |i: usize| labels[offsets[0][i >> 2] + offsets[1][(i >> 1) & 1] + offsets[2][i & 1]];
    let corners: [i16; 8] = std::array::from_fn(corner);
    if corners[1..].iter().all(|&c| c == corners[0]) {
        return corners[0];
    }
    let mut best = None;
    for (i, class) in corners.into_iter().enumerate() {
        if best.is_some_and(|b| class <= b) || corners[..i].contains(&class) {
            continue;
        }
        let weight: f64 = (0..8)
            .filter(|&i| corners[i] == class)
            .map(|i| weights[0][i >> 2] * weights[1][(i >> 1) & 1] * weights[2][i & 1])
            .sum();
        if weight >= 0.5 {
            best = Some(class);
        }
    }
    best.unwrap_or(0)
}

/// Fills `out` with the box of `case` that begins at `lower`; `outside` where it leaves the case.
pub fn crop<T: Copy>(
    case: ArrayView3<'_, T>,
    lower: [i64; 3],
    outside: T,
    mut out: ArrayViewMut3<'_, T>,
) {
    let (case_shape, patch) = (case.dim(), out.dim());
    let case_shape = [case_shape.0, case_shape.1, case_shape.2];
    let patch = [patch.0, patch.1, patch.2];
    out.fill(outside);
    let mut overlap = [(0, 0); 3];
    for a in 0..3 {
        let low = lower[a].max(0);
        let high = (lower[a] + patch[a] as i64).min(case_shape[a] as i64);
        if low >= high {
            return;
        }
        overlap[a] = (low as usize, high as usize);
    }
    let [(z0, z1), (y0, y1), (x0, x1)] = overlap;
    let [z, y, x] = [0, 1, 2].map(|a| (overlap[a].0 as i64 - lower[a]) as usize);
    out.slice_mut(s![z..z + z1 - z0, y..y + y1 - y0, x..x + x1 - x0]).assign(&case.slice(s![
        z0..z1,
        y0..y1,
        x0..x1
    ]));
}

/// Reverses an array along an axis, in place.
pub fn mirror<T, D: ndarray::Dimension + ndarray::RemoveAxis>(
    array: &mut ndarray::ArrayViewMut<'_, T, D>,
    axis: ndarray::Axis,
) {
    let n = array.len_of(axis);
    let (mut front, back) = array.view_mut().split_at(axis, n / 2);
    let (_, mut back) = back.split_at(axis, n - 2 * (n / 2));
    back.invert_axis(axis);
    ndarray::Zip::from(&mut front).and(&mut back).for_each(std::mem::swap);
}
