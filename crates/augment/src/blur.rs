//! Gaussian blur with small widths, as nnU-Net's training does it: short kernels, borders mirrored.

use crate::simd::{self, Body, Level};
use crate::spline::mirror;
use ndarray::ArrayViewMut3;

/// Smooths `channel` `[z, y, x]` along each axis by a Gaussian of these widths (voxels). Voxels beyond the patch are
/// those mirrored about its outermost voxels' centres; axes of one voxel stay as they are.
pub fn blur(mut channel: ArrayViewMut3<'_, f32>, widths: [f64; 3]) {
    let (nz, ny, nx) = channel.dim();
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    simd::run(Blur { values, shape: [nz, ny, nx], widths });
}

struct Blur<'a> {
    values: &'a mut [f32],
    shape: [usize; 3],
    widths: [f64; 3],
}

impl Body for Blur<'_> {
    type Output = ();

    /// Plane by plane along all three axes, so that a plane is still near when the next axis is done.
    #[inline(always)]
    fn run(self, _: Level) {
        let Self { values, shape, widths } = self;
        let [nz, ny, nx] = shape;
        let [along_z, along_y, along_x] = std::array::from_fn(|axis| match shape[axis] {
            1 => vec![1.0],
            _ => kernel(widths[axis]),
        });
        let area = ny * nx;
        let (reach, border) = (along_z.len() / 2, along_x.len() / 2);
        // Planes as they were, of those that were written last: plane k in place k modulo the reach.
        let mut before = vec![0.0f32; reach * area];
        let mut plane = vec![0.0f32; area];
        let mut row = vec![0.0f32; nx + 2 * border];
        for z in 0..nz {
            for (y, out) in plane.chunks_exact_mut(nx).enumerate() {
                out.fill(0.0);
                for (k, &weight) in along_z.iter().enumerate() {
                    let from = mirror((z + k) as isize - reach as isize, nz);
                    let source = if from < z {
                        &before[from % reach * area..]
                    } else {
                        &values[from * area..]
                    };
                    add(out, weight, &source[y * nx..]);
                }
            }
            let here = &mut values[z * area..(z + 1) * area];
            if reach > 0 {
                before[z % reach * area..][..area].copy_from_slice(here);
            }
            for (y, out) in here.chunks_exact_mut(nx).enumerate() {
                let inside = &mut row[border..border + nx];
                inside.fill(0.0);
                for (k, &weight) in along_y.iter().enumerate() {
                    let from = mirror((y + k) as isize - (along_y.len() / 2) as isize, ny);
                    add(inside, weight, &plane[from * nx..]);
                }
                for k in 0..border {
                    row[k] = row[border + mirror(k as isize - border as isize, nx)];
                    row[border + nx + k] = row[border + mirror((nx + k) as isize, nx)];
                }
                out.fill(0.0);
                for (k, &weight) in along_x.iter().enumerate() {
                    add(out, weight, &row[k..]);
                }
            }
        }
    }
}

/// Adds the weighted first of `values` to `sums`.
#[inline(always)]
fn add(sums: &mut [f32], weight: f32, values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
}

/// Normalised weights at −r..=r. There are as many as the odd number nearest to 6 sigma + ½ (batchgeneratorsv2's rule).
pub fn kernel(sigma: f64) -> Vec<f32> {
    let wanted = 6.0 * sigma + 0.5;
    let whole = wanted.round_ties_even();
    let odd = if whole % 2.0 == 1.0 {
        whole
    } else if wanted >= whole {
        whole + 1.0
    } else {
        whole - 1.0
    };
    let radius = (odd.max(1.0) - 1.0) / 2.0;
    if radius == 0.0 {
        // Also for a width of 0, by which nothing can be divided.
        return vec![1.0];
    }
    let weight = |k: usize| {
        let d = (k as f64 - radius) / sigma;
        (-0.5 * d * d).exp()
    };
    let count = 2 * radius as usize + 1;
    let sum: f64 = (0..count).map(weight).sum();
    (0..count).map(|k| (weight(k) / sum) as f32).collect()
}
