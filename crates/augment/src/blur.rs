//! Gaussian blur with small widths, as nnU-Net's training does it: short kernels, borders mirrored.

use crate::spline::mirror;
use ndarray::ArrayViewMut3;

/// Smooths `channel` `[z, y, x]` along each axis by a Gaussian of these widths (voxels). Voxels beyond the patch are
/// those mirrored about its outermost voxels' centres; axes of one voxel stay as they are.
pub fn blur(mut channel: ArrayViewMut3<'_, f32>, widths: [f64; 3]) {
    let (nz, ny, nx) = channel.dim();
    let shape = [nz, ny, nx];
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    for axis in (0..3).filter(|&axis| shape[axis] > 1) {
        let kernel = kernel(widths[axis]);
        match axis {
            2 => rows(values, nx, &kernel),
            1 => columns(values, [nz, ny], [ny * nx, nx], nx, &kernel),
            _ => columns(values, [ny, nz], [nx, ny * nx], nx, &kernel),
        }
    }
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
    let weight = |k: usize| {
        let d = (k as f64 - radius) / sigma;
        (-0.5 * d * d).exp()
    };
    let count = 2 * radius as usize + 1;
    let sum: f64 = (0..count).map(weight).sum();
    (0..count).map(|k| (weight(k) / sum) as f32).collect()
}

/// Along x.
fn rows(values: &mut [f32], n: usize, kernel: &[f32]) {
    let radius = kernel.len() / 2;
    let mut padded = vec![0.0f32; n + 2 * radius];
    for row in values.chunks_exact_mut(n) {
        padded[radius..radius + n].copy_from_slice(row);
        for k in 0..radius {
            padded[k] = row[mirror(k as isize - radius as isize, n)];
            padded[radius + n + k] = row[mirror((n + k) as isize, n)];
        }
        row.fill(0.0);
        for (k, &w) in kernel.iter().enumerate() {
            row.iter_mut().zip(&padded[k..]).for_each(|(out, v)| *out += w * v);
        }
    }
}

/// Along an axis of `count[1]` rows of `nx` values that lie `stride[1]` apart, for each of `count[0]` positions that
/// lie `stride[0]` apart.
fn columns(values: &mut [f32], count: [usize; 2], stride: [usize; 2], nx: usize, kernel: &[f32]) {
    let (n, radius) = (count[1], kernel.len() / 2);
    let mut copy = vec![0.0f32; n * nx];
    for outer in 0..count[0] {
        let row =
            |i: usize| outer * stride[0] + i * stride[1]..outer * stride[0] + i * stride[1] + nx;
        for i in 0..n {
            copy[i * nx..(i + 1) * nx].copy_from_slice(&values[row(i)]);
        }
        for i in 0..n {
            let out = &mut values[row(i)];
            out.fill(0.0);
            for (k, &w) in kernel.iter().enumerate() {
                let from = mirror((i + k) as isize - radius as isize, n);
                out.iter_mut().zip(&copy[from * nx..]).for_each(|(out, v)| *out += w * v);
            }
        }
    }
}
