//! Elastic deformation: white noise per voxel and axis, smoothed by a Gaussian, times a magnitude (Simard et al. 2003).

use crate::simd::{self, Body, Level};
use ndarray::{Array3, Array4, Axis};

/// Outputs that are summed together: they stay in registers over the whole kernel.
const WIDTH: usize = 32;

/// Displacements `[axis, z, y, x]` in voxels: `alpha` × noise smoothed along `axes`.
///
/// `noise` is `[axis, z, y, x]`, uniform in −1..1. Smoothing is `scipy.ndimage.gaussian_filter(mode="constant")`.
pub fn displacements(noise: Array4<f32>, axes: &[usize], alpha: f32, sigma: f64) -> Array4<f32> {
    let mut field = noise;
    for mut component in field.axis_iter_mut(Axis(0)) {
        let smoothed = gaussian(component.to_owned(), axes, sigma);
        component.zip_mut_with(&smoothed, |out, &s| *out = alpha * s);
    }
    field
}

/// Gaussian smoothing along `axes` of `[z, y, x]`: zero outside, kernel cut at 4 sigma.
pub fn gaussian(array: Array3<f32>, axes: &[usize], sigma: f64) -> Array3<f32> {
    let shape = array.dim();
    let data = array.as_standard_layout().into_owned().into_raw_vec_and_offset().0;
    let data = simd::run(Smooth { data, shape: shape.into(), axes, kernel: kernel(sigma) });
    Array3::from_shape_vec(shape, data).expect("smoothing keeps the number of voxels")
}

struct Smooth<'a> {
    data: Vec<f32>,
    shape: [usize; 3],
    axes: &'a [usize],
    kernel: Vec<f32>,
}

impl Body for Smooth<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run(self, _: Level) -> Vec<f32> {
        let Self { mut data, shape, axes, kernel } = self;
        for &axis in axes {
            let inner: usize = shape[axis + 1..].iter().product();
            data = if inner == 1 {
                smooth_rows(&data, shape[axis], &kernel)
            } else {
                smooth_columns(&data, shape[axis], inner, &kernel)
            };
        }
        data
    }
}

/// Normalised weights at −r..=r, r = ⌊4 sigma + ½⌋.
pub(crate) fn kernel(sigma: f64) -> Vec<f32> {
    let radius = (4.0 * sigma + 0.5) as usize;
    let weight = |k: usize| {
        let d = k as f64 - radius as f64;
        (-0.5 * d * d / (sigma * sigma)).exp()
    };
    let sum: f64 = (0..=2 * radius).map(weight).sum();
    (0..=2 * radius).map(|k| (weight(k) / sum) as f32).collect()
}

/// Along the innermost axis of length `n`.
#[inline(always)]
fn smooth_rows(data: &[f32], n: usize, kernel: &[f32]) -> Vec<f32> {
    let radius = kernel.len() / 2;
    let mut out = vec![0.0; data.len()];
    let mut padded = vec![0.0; n + 2 * radius + WIDTH];
    for (source, target) in data.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        padded[radius..radius + n].copy_from_slice(source);
        for start in (0..n).step_by(WIDTH) {
            let mut sum = [0.0f32; WIDTH];
            for (k, &w) in kernel.iter().enumerate() {
                add(&mut sum, w, &padded[start + k..start + k + WIDTH]);
            }
            let width = WIDTH.min(n - start);
            target[start..start + width].copy_from_slice(&sum[..width]);
        }
    }
    out
}

/// Along an axis of length `n` whose neighbours lie `inner` apart.
#[inline(always)]
fn smooth_columns(data: &[f32], n: usize, inner: usize, kernel: &[f32]) -> Vec<f32> {
    let radius = kernel.len() / 2;
    let mut out = vec![0.0; data.len()];
    // A strip of WIDTH columns, copied together, fits into the first-level cache whatever the stride.
    let mut strip = vec![[0.0f32; WIDTH]; n];
    for (source, target) in data.chunks_exact(n * inner).zip(out.chunks_exact_mut(n * inner)) {
        for start in (0..inner).step_by(WIDTH) {
            let width = WIDTH.min(inner - start);
            for (row, line) in strip.iter_mut().zip(source.chunks_exact(inner)) {
                row[..width].copy_from_slice(&line[start..start + width]);
            }
            for (i, line) in target.chunks_exact_mut(inner).enumerate() {
                let mut sum = [0.0f32; WIDTH];
                // The kernel's part that lies inside the array.
                let (from, to) = (radius.saturating_sub(i), kernel.len().min(n + radius - i));
                for (&w, row) in kernel[from..to].iter().zip(&strip[i + from - radius..]) {
                    add(&mut sum, w, row);
                }
                line[start..start + width].copy_from_slice(&sum[..width]);
            }
        }
    }
    out
}

#[inline(always)]
fn add(sum: &mut [f32; WIDTH], weight: f32, values: &[f32]) {
    for (s, v) in sum.iter_mut().zip(values) {
        *s += weight * v;
    }
}
