//! Rotation, scaling and elastic deformation as one map from patch voxels to case coordinates; plain crops and flips.

use ndarray::{Array4, ArrayView1, ArrayView3, ArrayViewMut3, s};

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

/// Case coordinates of a row of the patch.
#[derive(Debug)]
pub(crate) struct Row {
    /// Per axis, in the order of the row's voxels.
    pub(crate) at: [Vec<f64>; 3],
    /// Distance of each voxel from the row's middle.
    from_centre: Vec<f64>,
}

impl Row {
    /// Case coordinate that voxel `x` reads.
    #[inline(always)]
    pub(crate) fn point(&self, x: usize) -> [f64; 3] {
        [self.at[0][x], self.at[1][x], self.at[2][x]]
    }
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
        let mut row = self.row();
        self.fill_row(z, y, &mut row);
        row.point(x)
    }

    /// Room for [`Self::fill_row`].
    pub(crate) fn row(&self) -> Row {
        let width = self.patch[2];
        let half = 0.5 * (width as f64 - 1.0);
        Row {
            from_centre: (0..width).map(|x| x as f64 - half).collect(),
            at: [0; 3].map(|_| vec![0.0; width]),
        }
    }

    /// Case coordinates of row (z, y) of the patch.
    #[inline(always)]
    pub(crate) fn fill_row(&self, z: usize, y: usize, row: &mut Row) {
        let half = self.patch.map(|n| 0.5 * (n as f64 - 1.0));
        let (from_z, from_y) = (z as f64 - half[0], y as f64 - half[1]);
        let field = self.displacement.as_ref().map(|field| {
            let z = z.min(field.dim().1 - 1);
            let row = |axis: usize| field.slice(s![axis, z, y, ..]).to_slice();
            [0, 1, 2].map(|axis| row(axis).expect("a displacement is in standard layout"))
        });
        for (axis, at) in row.at.iter_mut().enumerate() {
            let (m, centre) = (self.matrix[axis], self.centre[axis]);
            let Some(field) = &field else {
                let base = centre + m[0] * from_z + m[1] * from_y;
                for (at, from_x) in at.iter_mut().zip(&row.from_centre) {
                    *at = base + m[2] * from_x;
                }
                continue;
            };
            let moved = field[0].iter().zip(field[1]).zip(field[2]).map(|((&dz, &dy), &dx)| {
                [from_z + f64::from(dz), from_y + f64::from(dy), f64::from(dx)]
            });
            for ((at, from_x), v) in at.iter_mut().zip(&row.from_centre).zip(moved) {
                *at = centre + m[0] * v[0] + m[1] * v[1] + m[2] * (from_x + v[2]);
            }
        }
    }

    /// Case coordinates of all patch voxels, `[axis, z, y, x]`.
    pub fn coordinates(&self) -> Array4<f64> {
        let [nz, ny, nx] = self.patch;
        let mut coordinates = Array4::zeros((3, nz, ny, nx));
        let mut row = self.row();
        for (z, y) in (0..nz).flat_map(|z| (0..ny).map(move |y| (z, y))) {
            self.fill_row(z, y, &mut row);
            for (axis, at) in row.at.iter().enumerate() {
                coordinates.slice_mut(s![axis, z, y, ..]).assign(&ArrayView1::from(at));
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
    let mut overlap = [(0, 0); 3];
    for a in 0..3 {
        let low = lower[a].max(0);
        let high = (lower[a] + patch[a] as i64).min(case_shape[a] as i64);
        if low >= high {
            return out.fill(outside);
        }
        overlap[a] = (low as usize, high as usize);
    }
    if (0..3).any(|a| overlap[a].1 - overlap[a].0 < patch[a]) {
        out.fill(outside);
    }
    let [(z0, z1), (y0, y1), (x0, x1)] = overlap;
    let [z, y, x] = [0, 1, 2].map(|a| (overlap[a].0 as i64 - lower[a]) as usize);
    out.slice_mut(s![z..z + z1 - z0, y..y + y1 - y0, x..x + x1 - x0]).assign(&case.slice(s![
        z0..z1,
        y0..y1,
        x0..x1
    ]));
}

/// Reverses a volume in standard layout along each axis that `flips` names, in place and in one pass.
pub fn mirror<T: Copy>(mut volume: ArrayViewMut3<'_, T>, flips: [bool; 3]) {
    if flips == [false; 3] {
        return;
    }
    let (nz, ny, nx) = volume.dim();
    let values = volume.as_slice_mut().expect("a patch is in standard layout");
    let opposite = |flip: bool, i: usize, n: usize| if flip { n - 1 - i } else { i };
    for (z, y) in (0..nz).flat_map(|z| (0..ny).map(move |y| (z, y))) {
        let here = (z * ny + y) * nx;
        let there = (opposite(flips[0], z, nz) * ny + opposite(flips[1], y, ny)) * nx;
        if there < here {
            continue;
        }
        if there == here {
            if flips[2] {
                values[here..here + nx].reverse();
            }
            continue;
        }
        let (before, after) = values.split_at_mut(there);
        let (row, other) = (&mut before[here..here + nx], &mut after[..nx]);
        row.swap_with_slice(other);
        if flips[2] {
            row.reverse();
            other.reverse();
        }
    }
}
