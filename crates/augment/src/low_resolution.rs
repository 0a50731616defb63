//! Simulated low resolution: fewer voxels by the nearest one, and back by linear interpolation.

use crate::simd::{self, Body, Level};
use ndarray::ArrayViewMut3;

/// Replaces `channel` `[z, y, x]` by what is left of it after a grid of `round(n · zoom)` voxels per axis (half to even, at
/// least 1); axis `except` keeps all of its voxels.
///
/// Down: output voxel `i` of `m` takes the input voxel that its centre lies in, `⌊(i + ½) · n / m⌋`. Up: linear between
/// voxel centres, beyond the outermost ones their values. PyTorch's `nearest-exact` and `(bi/tri)linear`.
pub fn low_resolution(mut channel: ArrayViewMut3<'_, f32>, zoom: f64, except: Option<usize>) {
    let (nz, ny, nx) = channel.dim();
    let full = [nz, ny, nx];
    let small = reduced(full, zoom, except);
    if small == full {
        return;
    }
    let values = channel.as_slice_mut().expect("a channel of a patch is in standard layout");
    simd::run(LowResolution { values, full, small });
}

/// Shape of the small grid.
pub(crate) fn reduced(full: [usize; 3], zoom: f64, except: Option<usize>) -> [usize; 3] {
    // The zoom is a single-precision number there.
    let zoom = f64::from(zoom as f32);
    std::array::from_fn(|axis| match except {
        Some(kept) if kept == axis => full[axis],
        _ => ((full[axis] as f64 * zoom).round_ties_even() as usize).clamp(1, full[axis]),
    })
}

/// Input voxel of each output voxel on the way down.
fn sources(full: usize, small: usize) -> Vec<usize> {
    let ratio = full as f32 / small as f32;
    let source = |i: usize| ((i as f32 + 0.5) * ratio) as usize;
    (0..small).map(|i| source(i).min(full - 1)).collect()
}

/// Lower neighbour, upper neighbour, weight of the upper one.
type Between = (usize, usize, f32);

fn between(full: usize, small: usize) -> Vec<Between> {
    let ratio = small as f32 / full as f32;
    (0..full)
        .map(|i| {
            let at = ((i as f32 + 0.5) * ratio - 0.5).max(0.0);
            let low = (at as usize).min(small - 1);
            (low, (low + 1).min(small - 1), at - low as f32)
        })
        .collect()
}

/// Down and up in one pass: first along x, where fewest rows are left, then along y and z.
///
/// A plane of the small grid is taken from its input plane when an output plane first needs it. That one never lies behind
/// the input, so that outputs replace no voxel that is still to be read.
struct LowResolution<'a> {
    values: &'a mut [f32],
    full: [usize; 3],
    small: [usize; 3],
}

impl Body for LowResolution<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: Level) {
        let Self { values, full, small } = self;
        let [z, y, x]: [Vec<Between>; 3] = std::array::from_fn(|a| between(full[a], small[a]));
        let from: [Vec<usize>; 3] = std::array::from_fn(|a| sources(full[a], small[a]));
        // Along x, both steps are one choice of two input voxels.
        let x: Vec<Between> = x.iter().map(|&(a, b, t)| (from[2][a], from[2][b], t)).collect();
        let area = full[1] * full[2];
        let mut rows = vec![0.0f32; small[1] * full[2]];
        let mut enlarge = |source: &[f32], plane: &mut [f32]| {
            for (&y, row) in from[1].iter().zip(rows.chunks_exact_mut(full[2])) {
                let line = &source[y * full[2]..][..full[2]];
                for (out, &(low, high, t)) in row.iter_mut().zip(&x) {
                    *out = line[low] * (1.0 - t) + line[high] * t;
                }
            }
            for (&between, out) in y.iter().zip(plane.chunks_exact_mut(full[2])) {
                blend(&rows, between, out);
            }
        };
        // Planes of the small grid, enlarged along y and x: plane k in place k modulo 2.
        let mut planes = vec![0.0f32; 2 * area];
        let mut made = 0;
        for (i, &(low, high, t)) in z.iter().enumerate() {
            while made <= high {
                let source = &values[from[0][made] * area..][..area];
                enlarge(source, &mut planes[made % 2 * area..][..area]);
                made += 1;
            }
            blend(&planes, (low % 2, high % 2, t), &mut values[i * area..][..area]);
        }
    }
}

/// Between two of the parts of `all` that are as long as `out`.
#[inline(always)]
fn blend(all: &[f32], (low, high, t): Between, out: &mut [f32]) {
    let n = out.len();
    let (low, high) = (&all[low * n..][..n], &all[high * n..][..n]);
    for i in 0..n {
        out[i] = low[i] * (1.0 - t) + high[i] * t;
    }
}
