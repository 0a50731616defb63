//! Which case and which box of it a sample shows.

use artifact::case::OpenCase;
use rand::RngExt;

/// Rows of a case's foreground locations that belong to one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassRows {
    /// Class index, ≥ 1.
    pub class: usize,
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
}

/// The rows of each class in the case's foreground locations, which are sorted by class.
pub fn class_rows(case: &OpenCase) -> Vec<ClassRows> {
    let mut rows: Vec<ClassRows> = Vec::new();
    let Some(locations) = case.foreground() else { return rows };
    for (row, &class) in locations.column(0).iter().enumerate() {
        let class = usize::try_from(class).expect("classes were checked when the case was opened");
        match rows.last_mut() {
            Some(last) if last.class == class => last.count += 1,
            _ => rows.push(ClassRows { class, first: row, count: 1 }),
        }
    }
    rows
}

/// First sample of a batch that must show foreground: `round(batch × (1 − fraction))`, half to even, and at most the
/// last one; none (`batch`) if `fraction` is 0.
pub fn first_forced(batch: usize, fraction: f64) -> usize {
    if fraction <= 0.0 {
        return batch;
    }
    let free = (batch as f64 * (1.0 - fraction)).round_ties_even() as usize;
    free.min(batch.saturating_sub(1))
}

/// Smallest and largest first voxel (inclusive) of a box along one axis: inside the case where it fits, otherwise
/// centred on it, with both positions allowed where the rest is odd.
///
/// nnU-Net draws a larger box, made for rotation, and cuts the patch from its middle; its bounds are these, up to the
/// rounding of half voxels.
pub fn bounds(case: usize, patch: usize) -> (i64, i64) {
    let (case, patch) = (signed(case), signed(patch));
    let pad = (patch - case).max(0);
    let lower = (-pad).div_euclid(2);
    let upper = case + pad / 2 + pad % 2 - patch;
    (lower, upper)
}

/// A random box of `patch` voxels: its first voxel, which may lie outside of the case.
pub fn free_box(rng: &mut impl rand::Rng, case: [usize; 3], patch: [usize; 3]) -> [i64; 3] {
    std::array::from_fn(|axis| {
        let (lower, upper) = bounds(case[axis], patch[axis]);
        rng.random_range(lower..=upper)
    })
}

/// The box around `voxel`: it begins half a patch before it, not before the lower bound; the upper bound does not hold,
/// so that voxels at the case's end come to lie in the middle of patches too.
pub fn box_around(voxel: [usize; 3], case: [usize; 3], patch: [usize; 3]) -> [i64; 3] {
    std::array::from_fn(|axis| {
        let lower = bounds(case[axis], patch[axis]).0;
        lower.max(signed(voxel[axis]) - signed(patch[axis] / 2))
    })
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).expect("an array edge")
}
