//! What the cases measure: target spacing, order of the axes, shapes after resampling.
//!
//! Arrays are z, y, x; after [`transpose`] they are in plan order, coarsest axis first.

use artifact::fingerprint::Fingerprint;

/// No image has more voxels along an axis.
pub const LONGEST_EDGE: usize = 1 << 20;

/// Spacing and cropped shape of one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Voxel distance in mm.
    pub spacing_mm: [f64; 3],
    /// Voxels of the nonzero box.
    pub shape: [usize; 3],
}

impl Grid {
    /// Shape at another spacing: `round(shape × old / new)`, half to even, as nnU-Net resamples; from 1 to
    /// [`LONGEST_EDGE`], so that a wild spacing in one header can't overflow a voxel count.
    pub fn resampled(&self, spacing_mm: [f64; 3]) -> [usize; 3] {
        std::array::from_fn(|i| {
            let edge = self.shape[i] as f64 * (self.spacing_mm[i] / spacing_mm[i]);
            (edge.round_ties_even() as usize).clamp(1, LONGEST_EDGE)
        })
    }
}

/// Grids of all cases, image axes.
pub fn grids(fingerprint: &Fingerprint) -> Vec<Grid> {
    let cases = fingerprint.cases.iter();
    cases.map(|case| Grid { spacing_mm: case.spacing_mm, shape: case.cropped_shape }).collect()
}

/// Grids in plan order.
pub fn transposed(grids: &[Grid], transpose: [usize; 3]) -> Vec<Grid> {
    let grid = |g: &Grid| Grid {
        spacing_mm: transpose.map(|axis| g.spacing_mm[axis]),
        shape: transpose.map(|axis| g.shape[axis]),
    };
    grids.iter().map(grid).collect()
}

/// Percentile of the cases' spacings, per axis.
pub fn target_spacing(grids: &[Grid], percentile: f64) -> [f64; 3] {
    std::array::from_fn(|axis| {
        quantile(grids.iter().map(|g| g.spacing_mm[axis]), percentile / 100.0)
    })
}

/// Plan axis `i` is image axis `transpose[i]`: the axis of the coarsest target spacing first (the first of several equal
/// ones), the others in their order, as nnU-Net does.
pub fn transpose(spacing_mm: [f64; 3]) -> [usize; 3] {
    first_axis(coarsest(spacing_mm))
}

/// As [`transpose`]; but two-dimensional images have no coarse axis: the one along which all of them are one voxel thick
/// comes first, whatever spacing their headers give it.
pub fn transpose_flat_first(spacing_mm: [f64; 3], grids: &[Grid]) -> [usize; 3] {
    let flat = (0..3).find(|&axis| grids.iter().all(|g| g.shape[axis] == 1));
    first_axis(flat.unwrap_or_else(|| coarsest(spacing_mm)))
}

/// The axis of the largest spacing, the first of several equal ones.
pub fn coarsest(spacing_mm: [f64; 3]) -> usize {
    let mut first = 0;
    for axis in 1..3 {
        if spacing_mm[axis] > spacing_mm[first] {
            first = axis;
        }
    }
    first
}

fn first_axis(first: usize) -> [usize; 3] {
    match first {
        0 => [0, 1, 2],
        1 => [1, 0, 2],
        _ => [2, 0, 1],
    }
}

/// Median shape of the cases at a spacing, per axis; may end in .5.
pub fn median_shape(grids: &[Grid], spacing_mm: [f64; 3]) -> [f64; 3] {
    let shapes: Vec<[usize; 3]> = grids.iter().map(|g| g.resampled(spacing_mm)).collect();
    std::array::from_fn(|axis| median(shapes.iter().map(|s| s[axis] as f64)))
}

/// Rounded half to even.
pub fn rounded(shape: [f64; 3]) -> [usize; 3] {
    shape.map(|edge| edge.round_ties_even() as usize)
}

/// Voxels of a box.
pub fn voxels(shape: [f64; 3]) -> f64 {
    shape.iter().product()
}

/// The middle value, or the mean of the two middle ones, as NumPy's `median`; 0 for no values. Its last digit may differ
/// from that of [`quantile`] at one half.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Linearly interpolated quantile as NumPy's `percentile` gives it by default, to the last digit: from the nearer of the
/// two neighbours; 0 for no values.
pub fn quantile(values: impl Iterator<Item = f64>, fraction: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = fraction.clamp(0.0, 1.0) * last as f64;
    let below = (position.floor() as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    let part = position - below as f64;
    if part >= 0.5 { high - (high - low) * (1.0 - part) } else { low + (high - low) * part }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(spacing_mm: [f64; 3], shape: [usize; 3]) -> Grid {
        Grid { spacing_mm, shape }
    }

    #[test]
    fn the_coarsest_axis_comes_first_and_ties_keep_their_order() {
        let thick = [grid([1.0; 3], [9; 3])];
        assert_eq!(transpose([1.0, 1.0, 1.0]), [0, 1, 2]);
        assert_eq!(transpose([3.0, 1.0, 1.0]), [0, 1, 2]);
        assert_eq!(transpose([1.0, 3.0, 1.0]), [1, 0, 2]);
        assert_eq!(transpose([0.5, 1.0, 2.0]), [2, 0, 1]);
        assert_eq!(transpose([0.5, 2.0, 2.0]), [1, 0, 2]);
        let flat = [grid([1.0, 2.0, 2.0], [1, 9, 9]), grid([1.0, 2.0, 2.0], [1, 5, 7])];
        assert_eq!(transpose_flat_first([1.0, 2.0, 2.0], &flat), [0, 1, 2]);
        assert_eq!(transpose_flat_first([1.0, 2.0, 2.0], &[flat[0], thick[0]]), [1, 0, 2]);
    }

    #[test]
    fn resampled_edges_round_half_to_even_and_never_vanish() {
        let g = grid([1.0, 1.0, 0.1], [5, 7, 4]);
        assert_eq!(g.resampled([2.0, 2.0, 1.0]), [2, 4, 1]);
        assert_eq!(g.resampled([1.0, 1.0, 0.1]), [5, 7, 4]);
    }

    #[test]
    fn medians_are_per_axis_and_interpolated() {
        let cases = [grid([1.0, 1.0, 2.0], [10, 4, 8]), grid([3.0, 1.0, 1.0], [10, 7, 8])];
        assert_eq!(target_spacing(&cases, 50.0), [2.0, 1.0, 1.5]);
        // Shapes at that spacing: [5, 4, 11] (10.67 rounds up) and [15, 7, 5] (5.33 rounds down).
        assert_eq!(median_shape(&cases, [2.0, 1.0, 1.5]), [10.0, 5.5, 8.0]);
        assert_eq!(rounded([10.0, 5.5, 6.5]), [10, 6, 6]);
        assert_eq!(quantile([4.0, 1.0, 3.0].into_iter(), 0.25), 2.0);
        assert_eq!(quantile([7.0].into_iter(), 0.9), 7.0);
    }

    /// Values of NumPy 2.4.
    #[test]
    fn quantiles_and_medians_are_numpy_s_to_the_last_digit() {
        // From the lower neighbour this would be 2.1006315000000004.
        assert_eq!(quantile([3.296479, 0.904784].into_iter(), 0.5), 2.1006315);
        assert_eq!(quantile([8.00842, 2.640902].into_iter(), 0.5), 5.324661);
        let four = [1.772980782169941, 1.445258825795082, 7.30738018477278, 6.751347090079117];
        assert_eq!(quantile(four.into_iter(), 0.5), 4.262163936124528);
        assert_eq!(median(four.into_iter()), 4.262163936124529);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!((median([].into_iter()), quantile([].into_iter(), 0.5)), (0.0, 0.0));
    }
}
