//! Rotation, scaling and elastic deformation as one map from patch voxels to case coordinates; plain crops and flips.

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
    pub(crate) fn each_in_row(&self, z: usize, y: usize, mut visit: impl FnMut(usize, [f64; 3])) {
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
    pub(crate) fn interpolated(&self) -> &'static [usize] {
        if self.planes { &[1, 2] } else { &[0, 1, 2] }
    }

    /// Voxels of the case, first and one past the last per axis, within `reach` of what the patch reads; `None` if it
    /// lies outside altogether.
    pub(crate) fn region(&self, case: [usize; 3], reach: usize) -> Option<[(usize, usize); 3]> {
        let mut half = self.patch.map(|n| 0.5 * (n as f64 - 1.0));
        if let Some(field) = &self.displacement {
            for (h, component) in half.iter_mut().zip(field.outer_iter()) {
                *h += component.iter().fold(0.0, |m: f64, &d| m.max(f64::from(d.abs())));
            }
        }
        let mut region = [(0, 0); 3];
        for axis in 0..3 {
            let extent: f64 = (0..3).map(|a| self.matrix[axis][a].abs() * half[a]).sum();
            let reach = if self.interpolated().contains(&axis) { reach as f64 } else { 0.0 };
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
