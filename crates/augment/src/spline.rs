//! Cubic B-spline interpolation, as `scipy.ndimage.map_coordinates(order=3, mode="constant")` defines it.
//!
//! Samples become B-spline coefficients by a recursive filter per axis (Unser 1999, box 2), mirrored about the centre
//! of the first and last sample; a value between samples is the sum of 4 coefficients per axis.

/// The pole of the cubic B-spline's inverse filter, √3 − 2.
pub const POLE: f64 = -0.267_949_192_431_122_7;

/// A sample this far away changes a coefficient by `|POLE|^16 ≈ 7e-10` of its value: below the rounding of f32.
pub const REACH: usize = 16;

/// The product of the filter's two gains: (1 − POLE)(1 − 1/POLE).
const GAIN: f32 = 6.0;

/// Terms of the causal pass's first sum, which runs on through the mirrored samples; `|POLE|^24 ≈ 2e-14`.
const TERMS: usize = 24;

/// Rows of the innermost axis that are filtered together, so that the recursion has independent work per step.
const LANES: usize = 16;

/// A block of f32 with room of one voxel before and two after along every axis, where [`Block::mirror_borders`] puts
/// the coefficients that interpolation reads beyond the edges.
#[derive(Debug)]
pub struct Block {
    /// Voxels inside, z, y, x.
    pub shape: [usize; 3],
    /// z, y, x with borders, C order.
    pub data: Vec<f32>,
}

/// Border before and after the inside.
const BORDER: (usize, usize) = (1, 2);

impl Block {
    /// A block of zeros.
    pub fn new(shape: [usize; 3]) -> Self {
        let voxels = shape.iter().map(|n| n + BORDER.0 + BORDER.1).product();
        Self { shape, data: vec![0.0; voxels] }
    }

    /// Distance in `data` between neighbours along each axis.
    pub fn strides(&self) -> [usize; 3] {
        let [_, ny, nx] = self.shape.map(|n| n + BORDER.0 + BORDER.1);
        [ny * nx, nx, 1]
    }

    /// Position in `data` of voxel (z, y, 0).
    pub fn row(&self, z: usize, y: usize) -> usize {
        let [sz, sy, _] = self.strides();
        (z + BORDER.0) * sz + (y + BORDER.0) * sy + BORDER.0
    }

    /// Turns samples into cubic B-spline coefficients along `axes`; axes of one voxel stay as they are.
    #[inline(always)]
    pub fn prefilter(&mut self, axes: &[usize]) {
        for &axis in axes {
            if self.shape[axis] < 2 {
                continue;
            }
            match axis {
                0 => {
                    for y in 0..self.shape[1] {
                        self.filter_columns(self.row(0, y), self.strides()[0], self.shape[0]);
                    }
                }
                1 => {
                    for z in 0..self.shape[0] {
                        self.filter_columns(self.row(z, 0), self.strides()[1], self.shape[1]);
                    }
                }
                _ => self.filter_rows(),
            }
        }
    }

    /// Filters all columns x of `n` rows that begin at `start` and lie `stride` apart, a whole row per step.
    #[inline(always)]
    fn filter_columns(&mut self, start: usize, stride: usize, n: usize) {
        let nx = self.shape[2];
        let pole = POLE as f32;
        let row = |k: usize| start + k * stride..start + k * stride + nx;
        // First coefficient of the causal pass: the geometric sum over the mirrored samples.
        let mut first = vec![0.0f32; nx];
        let mut weight = 1.0f64;
        for k in 0..TERMS {
            let w = weight as f32;
            let source = &self.data[row(mirror(k as isize, n))];
            first.iter_mut().zip(source).for_each(|(f, s)| *f += w * s);
            weight *= POLE;
        }
        self.data[row(0)].copy_from_slice(&first);
        for k in 1..n {
            let (before, here) = self.data.split_at_mut(start + k * stride);
            let previous = &before[row(k - 1)];
            here[..nx].iter_mut().zip(previous).for_each(|(c, p)| *c += pole * p);
        }
        let (before, last) = self.data.split_at_mut(start + (n - 1) * stride);
        let scale = (POLE / (POLE * POLE - 1.0)) as f32;
        let previous = &before[row(n - 2)];
        last[..nx].iter_mut().zip(previous).for_each(|(c, p)| *c = scale * (pole * p + *c));
        for k in (0..n - 1).rev() {
            let (here, after) = self.data.split_at_mut(start + (k + 1) * stride);
            let next = &after[..nx];
            here[row(k)].iter_mut().zip(next).for_each(|(c, next)| *c = pole * (next - *c));
        }
        for k in 0..n {
            self.data[row(k)].iter_mut().for_each(|c| *c *= GAIN);
        }
    }

    /// Filters along x, [`LANES`] rows at a time.
    #[inline(always)]
    fn filter_rows(&mut self) {
        let [nz, ny, nx] = self.shape;
        let starts: Vec<usize> = (0..nz)
            .flat_map(|z| (0..ny).map(move |y| (z, y)))
            .map(|(z, y)| self.row(z, y))
            .collect();
        let mut lanes = vec![[0.0f32; LANES]; nx];
        for group in starts.chunks(LANES) {
            for (lane, &start) in group.iter().enumerate() {
                let source = &self.data[start..start + nx];
                lanes.iter_mut().zip(source).for_each(|(l, &s)| l[lane] = s);
            }
            filter_lanes(&mut lanes);
            for (lane, &start) in group.iter().enumerate() {
                let target = &mut self.data[start..start + nx];
                target.iter_mut().zip(&lanes).for_each(|(t, l)| *t = l[lane]);
            }
        }
    }

    /// Fills the borders with the mirrored inside, axis by axis.
    pub fn mirror_borders(&mut self) {
        let strides = self.strides();
        let full = self.shape.map(|n| n + BORDER.0 + BORDER.1);
        for axis in 0..3 {
            let n = self.shape[axis];
            for outside in [-1, n as isize, n as isize + 1] {
                let (to, from) = ((outside + 1) as usize, mirror(outside, n) + BORDER.0);
                let (a, b) = ((axis + 1) % 3, (axis + 2) % 3);
                for i in 0..full[a] {
                    for j in 0..full[b] {
                        let at = i * strides[a] + j * strides[b];
                        self.data[at + to * strides[axis]] = self.data[at + from * strides[axis]];
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn filter_lanes(c: &mut [[f32; LANES]]) {
    let n = c.len();
    let pole = POLE as f32;
    let mut first = [0.0f32; LANES];
    let mut weight = 1.0f64;
    for k in 0..TERMS {
        let source = c[mirror(k as isize, n)];
        for lane in 0..LANES {
            first[lane] += weight as f32 * source[lane];
        }
        weight *= POLE;
    }
    c[0] = first;
    for k in 1..n {
        let previous = c[k - 1];
        for lane in 0..LANES {
            c[k][lane] += pole * previous[lane];
        }
    }
    let scale = (POLE / (POLE * POLE - 1.0)) as f32;
    let previous = c[n - 2];
    for lane in 0..LANES {
        c[n - 1][lane] = scale * (pole * previous[lane] + c[n - 1][lane]);
    }
    for k in (0..n - 1).rev() {
        let next = c[k + 1];
        for lane in 0..LANES {
            c[k][lane] = pole * (next[lane] - c[k][lane]);
        }
    }
    c.iter_mut().flatten().for_each(|v| *v *= GAIN);
}

/// Index of the sample that `k` mirrors to: … 2 1 | 0 1 2 … n−1 | n−2 n−3 …
pub fn mirror(k: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as isize - 1);
    let k = k.rem_euclid(period);
    k.min(period - k) as usize
}

/// Weights of the coefficients at floor − 1, floor, floor + 1, floor + 2, for the fraction `t` in 0..1.
#[inline(always)]
pub fn cubic_weights(t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    let w0 = s * s * s * (1.0 / 6.0);
    let w3 = t * t * t * (1.0 / 6.0);
    let w1 = 2.0 / 3.0 - 0.5 * t * t * (2.0 - t);
    [w0, w1, 1.0 - w0 - w1 - w3, w3]
}
