//! Resampling of images and label maps to another spacing, as nnU-Net does it.
//!
//! Images: cubic splines; label maps: nearest voxel, or one-hot, linear, with a rule for who wins. If voxels are much longer along one axis than
//! along the others, planes across that axis are resampled first and the axis itself by a lower order: interpolating
//! between distant slices invents anatomy.

mod axis;
mod image;
mod label;
mod level;

use artifact::recipe::{LabelVote, Preprocessing};
use axis::Order;
use label::Winner;
use ndarray::{Array3, ArrayView3, ArrayViewMut3};

/// Shape at the new spacing: `round(spacing / new_spacing × shape)`, halves to even as Python rounds, at least 1.
pub fn new_shape(shape: [usize; 3], spacing_mm: [f64; 3], new_spacing_mm: [f64; 3]) -> [usize; 3] {
    std::array::from_fn(|i| {
        let voxels = (spacing_mm[i] / new_spacing_mm[i] * shape[i] as f64).round_ties_even();
        (voxels as usize).max(1)
    })
}

/// The axis to be resampled separately: the one with the largest spacing, where the ratio of the largest to the
/// smallest exceeds the threshold before, else after resampling. None if two axes share the largest spacing.
pub fn coarse_axis(
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    threshold: f64,
) -> Option<usize> {
    let anisotropic = |spacing: &[f64; 3]| {
        let low = spacing.iter().copied().fold(f64::INFINITY, f64::min);
        let high = spacing.iter().copied().fold(0.0, f64::max);
        high / low > threshold
    };
    let spacing = [spacing_mm, new_spacing_mm].into_iter().find(anisotropic)?;
    let high = spacing.iter().copied().fold(0.0, f64::max);
    let mut coarse = (0..3).filter(|&i| spacing[i] == high);
    let axis = coarse.next()?;
    coarse.next().is_none().then_some(axis)
}

/// One channel `[z, y, x]` on a new grid over the same extent; spacings along z, y, x.
///
/// `order` 0, 1 or 3: nearest voxel, linear, cubic spline; the same as `skimage.transform.resize(mode="edge",
/// anti_aliasing=False)` in f64, clipped to the source's range, then rounded to f32. If there's a [`coarse_axis`],
/// planes across it are resampled (and clipped) one by one, then the axis itself with `coarse_order`, the same as
/// `scipy.ndimage.map_coordinates(mode="nearest")`. An unchanged shape returns the image unchanged.
///
/// # Panics
/// If an order is not 0, 1 or 3.
pub fn resample(
    x: ArrayView3<'_, f32>,
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    new_shape: [usize; 3],
    order: u8,
    coarse_order: u8,
    anisotropy_threshold: f64,
) -> Array3<f32> {
    let mut out = vec![0.0; new_shape.iter().product()];
    resample_into(
        x,
        spacing_mm,
        new_spacing_mm,
        new_shape,
        order,
        coarse_order,
        anisotropy_threshold,
        &mut out,
    );
    Array3::from_shape_vec(new_shape, out).expect("as many values as the shape says")
}

/// What [`resample`] returns, in C order, to `out`.
///
/// # Panics
/// If an order is not 0, 1 or 3, or `out` hasn't as many voxels as `new_shape` says.
pub fn resample_into(
    x: ArrayView3<'_, f32>,
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    new_shape: [usize; 3],
    order: u8,
    coarse_order: u8,
    anisotropy_threshold: f64,
    out: &mut [f32],
) {
    let shape: [usize; 3] = x.dim().into();
    let mut result = ArrayViewMut3::from_shape(new_shape, &mut *out).expect("the result's voxels");
    if shape == new_shape {
        return result.assign(&x);
    }
    let (order, coarse_order) = (Order::from(order), Order::from(coarse_order));
    let coarse = coarse_axis(spacing_mm, new_spacing_mm, anisotropy_threshold);
    let [there, back] = coarse_first(coarse.unwrap_or(0));
    let x = x.permuted_axes(there);
    let x = x.as_standard_layout();
    let values = x.as_slice().expect("standard layout");
    let [from, target] = [shape, new_shape].map(|edges| there.map(|i| edges[i]));
    match coarse {
        None => image::resize(values, from, target, order, out),
        Some(0) => image::resize_separately(values, from, target, order, coarse_order, out),
        Some(_) => {
            let mut turned = Array3::zeros(target);
            let out = turned.as_slice_mut().expect("standard layout");
            image::resize_separately(values, from, target, order, coarse_order, out);
            result.assign(&turned.permuted_axes(back));
        }
    }
}

/// Bytes that [`resample`] takes at most, beside an image and its result in C order; saturating.
pub fn working_bytes(
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    new_shape: [usize; 3],
    anisotropy_threshold: f64,
) -> usize {
    if shape == new_shape {
        return 0;
    }
    let coarse = coarse_axis(spacing_mm, new_spacing_mm, anisotropy_threshold).unwrap_or(0);
    let target = coarse_first(coarse)[0].map(|i| new_shape[i]);
    // Where the axis isn't the first, the image is turned there, and its result back.
    let voxels = |shape: [usize; 3]| shape.into_iter().fold(1usize, usize::saturating_mul);
    let turned = if coarse == 0 { 0 } else { voxels(shape).max(voxels(new_shape)) };
    let slab = image::slab_bytes(shape[coarse], target);
    slab.saturating_add(turned.saturating_mul(size_of::<f32>()))
}

/// How label maps are resampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelRules {
    /// 0 nearest voxel, 1 one-hot maps interpolated linearly.
    pub order: u8,
    /// The same along a coarse axis that is resampled on its own.
    pub coarse_order: u8,
    /// Who wins with order 1.
    pub vote: LabelVote,
    /// As in [`coarse_axis`].
    pub anisotropy_threshold: f64,
}

impl From<&Preprocessing> for LabelRules {
    fn from(recipe: &Preprocessing) -> Self {
        Self {
            order: recipe.label_order,
            coarse_order: recipe.label_order_coarse_axis,
            vote: recipe.label_vote,
            anisotropy_threshold: recipe.anisotropy_threshold,
        }
    }
}

/// A label map `[z, y, x]` on a new grid. Order 0 takes the nearest voxel, order 1 lets the labels around a voxel vote
/// with their linear weights. −1 is a label like any other. Rules for a coarse axis as in [`resample`]; along one with
/// order 1 a label needs more than one half, and where none has it is 0, whatever the vote says: nnU-Net's rule.
///
/// # Panics
/// If an order is not 0 or 1.
pub fn resample_label(
    x: ArrayView3<'_, i16>,
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    new_shape: [usize; 3],
    rules: LabelRules,
) -> Array3<i16> {
    let LabelRules { order, coarse_order, vote, anisotropy_threshold } = rules;
    assert!(
        order <= 1 && coarse_order <= 1,
        "label order {order}, {coarse_order}, expected 0 or 1"
    );
    let shape: [usize; 3] = x.dim().into();
    let (order, coarse_order) = (Order::from(order), Order::from(coarse_order));
    if shape == new_shape {
        return x.as_standard_layout().into_owned();
    }
    let winner = Winner::from(vote);
    let Some(coarse) = coarse_axis(spacing_mm, new_spacing_mm, anisotropy_threshold) else {
        return label::resize(x, new_shape, order, winner);
    };
    let mut between = new_shape;
    between[coarse] = shape[coarse];
    let planes = label::resize(x, between, order, winner);
    if shape[coarse] == new_shape[coarse] {
        return planes;
    }
    label::resize(planes.view(), new_shape, coarse_order, Winner::MoreThanHalf)
}

/// Where a voxel along an axis takes its value from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearTap {
    /// The two source voxels; the same one twice at the end of an axis.
    pub at: [usize; 2],
    /// Their weights.
    pub weights: [f64; 2],
}

/// A resampling by orders 0 and 1, for those who do it elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// The axes (0 is z) in the order in which they are interpolated.
    pub order: [usize; 3],
    /// One tap per target voxel along z, y, x.
    pub axes: [Vec<LinearTap>; 3],
}

/// What [`resample`] does to an image of this shape; none where an order is above 1.
pub fn linear(
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
    new_shape: [usize; 3],
    order: u8,
    coarse_order: u8,
    anisotropy_threshold: f64,
) -> Option<Linear> {
    let coarse = coarse_axis(spacing_mm, new_spacing_mm, anisotropy_threshold);
    let order_of = |axis| if coarse == Some(axis) { coarse_order } else { order };
    if (0..3).any(|axis| order_of(axis) > 1) {
        return None;
    }
    let taps = |axis: usize| {
        let (source, target) = (shape[axis], new_shape[axis]);
        let along = axis::Axis::new(source, target, Order::from(order_of(axis)));
        let tap = |k| {
            let axis::Tap { first, weights: [near, far, ..] } = *along.tap(k);
            let next = if far == 0.0 { first } else { (first + 1).min(source - 1) };
            LinearTap { at: [first, next], weights: [near, far] }
        };
        (0..target).map(tap).collect()
    };
    let order = coarse.map_or([0, 1, 2], |coarse| {
        // Planes across the coarse axis, then the axis.
        let [across, rows, columns] = coarse_first(coarse)[0];
        [rows, columns, across]
    });
    Some(Linear { order, axes: [taps(0), taps(1), taps(2)] })
}

/// The order of axes that puts `coarse` first, and its inverse.
fn coarse_first(coarse: usize) -> [[usize; 3]; 2] {
    match coarse {
        0 => [[0, 1, 2], [0, 1, 2]],
        1 => [[1, 0, 2], [1, 0, 2]],
        _ => [[2, 0, 1], [1, 2, 0]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_shapes_round_halves_to_even() {
        assert_eq!(new_shape([5, 7, 10], [1.0; 3], [2.0; 3]), [2, 4, 5]);
        assert_eq!(new_shape([1, 1, 3], [0.1; 3], [9.0; 3]), [1, 1, 1]);
    }

    #[test]
    fn the_coarse_axis_is_looked_for_before_then_after() {
        let fine = [1.0; 3];
        assert_eq!(coarse_axis([1.0, 3.5, 1.1], fine, 3.0), Some(1));
        assert_eq!(coarse_axis([1.0, 3.0, 1.1], fine, 3.0), None);
        assert_eq!(coarse_axis(fine, [1.0, 1.0, 4.0], 3.0), Some(2));
        // Anisotropic, but without one coarsest axis: the target isn't asked any more.
        assert_eq!(coarse_axis([1.25, 0.24, 1.25], [4.0, 1.0, 1.0], 3.0), None);
    }

    /// By its taps, in f64, rounded once.
    fn by_taps(x: &Array3<f32>, linear: &Linear) -> Array3<f32> {
        let mut values = x.mapv(f64::from);
        for axis in linear.order {
            let mut shape: [usize; 3] = values.dim().into();
            shape[axis] = linear.axes[axis].len();
            values = Array3::from_shape_fn(shape, |(z, y, x)| {
                let LinearTap { at, weights } = linear.axes[axis][[z, y, x][axis]];
                let value = |i: usize| {
                    let mut from = [z, y, x];
                    from[axis] = at[i];
                    values[from]
                };
                weights[0] * value(0) + weights[1] * value(1)
            });
        }
        values.mapv(|v| v as f32)
    }

    #[test]
    fn taps_do_what_resampling_does() {
        let x =
            Array3::from_shape_fn((5, 6, 7), |(z, y, x)| ((z * 31 + y * 17 + x * 7) % 23) as f32);
        let shapes = [[9, 4, 11], [5, 6, 7], [3, 12, 7], [5, 9, 5]];
        for spacing in [[1.0; 3], [5.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 5.0]] {
            for shape in shapes {
                for (order, coarse) in [(0, 0), (1, 0), (1, 1), (0, 1)] {
                    let linear = linear([5, 6, 7], spacing, [1.0; 3], shape, order, coarse, 3.0);
                    let found = by_taps(&x, &linear.unwrap());
                    let expected = resample(x.view(), spacing, [1.0; 3], shape, order, coarse, 3.0);
                    for (f, e) in found.iter().zip(&expected) {
                        // f64 may round otherwise where a plane is clipped: a neighbour in f32.
                        assert!((f - e).abs() <= f32::EPSILON * e.abs(), "{f}, expected {e}");
                    }
                }
            }
        }
        assert_eq!(linear([5; 3], [1.0; 3], [1.0; 3], [4; 3], 3, 0, 3.0), None);
    }

    #[test]
    fn an_unchanged_shape_is_a_copy() {
        let x = Array3::from_shape_fn((3, 4, 5), |(z, y, x)| (z * 20 + y * 5 + x) as f32);
        assert_eq!(resample(x.view(), [1.0; 3], [1.01; 3], [3, 4, 5], 3, 0, 3.0), x);
    }
}
