//! Simulated low resolution: fewer voxels by the nearest one, and back by linear interpolation.

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
    let reduced = reduce(values, full, small);
    enlarge(&reduced, small, values, full);
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

fn reduce(values: &[f32], full: [usize; 3], small: [usize; 3]) -> Vec<f32> {
    let [z, y, x]: [Vec<usize>; 3] = std::array::from_fn(|axis| {
        let ratio = full[axis] as f32 / small[axis] as f32;
        let source = |i: usize| ((i as f32 + 0.5) * ratio) as usize;
        (0..small[axis]).map(|i| source(i).min(full[axis] - 1)).collect()
    });
    let mut reduced = Vec::with_capacity(small.iter().product());
    for &z in &z {
        for &y in &y {
            let row = &values[(z * full[1] + y) * full[2]..][..full[2]];
            reduced.extend(x.iter().map(|&x| row[x]));
        }
    }
    reduced
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

fn enlarge(reduced: &[f32], small: [usize; 3], values: &mut [f32], full: [usize; 3]) {
    let [z, y, x]: [Vec<Between>; 3] = std::array::from_fn(|a| between(full[a], small[a]));
    let area = small[1] * small[2];
    let mut plane = vec![0.0f32; area];
    let mut line = vec![0.0f32; small[2]];
    for (&(z0, z1, tz), out) in z.iter().zip(values.chunks_exact_mut(full[1] * full[2])) {
        blend(&reduced[z0 * area..][..area], &reduced[z1 * area..][..area], tz, &mut plane);
        for (&(y0, y1, ty), out) in y.iter().zip(out.chunks_exact_mut(full[2])) {
            let (low, high) = (&plane[y0 * small[2]..], &plane[y1 * small[2]..]);
            blend(&low[..small[2]], &high[..small[2]], ty, &mut line);
            for (out, &(x0, x1, tx)) in out.iter_mut().zip(&x) {
                *out = line[x0] * (1.0 - tx) + line[x1] * tx;
            }
        }
    }
}

fn blend(low: &[f32], high: &[f32], t: f32, out: &mut [f32]) {
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low * (1.0 - t) + high * t;
    }
}
