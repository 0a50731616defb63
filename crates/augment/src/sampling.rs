//! Which case and which box of it a sample shows.

use artifact::case::OpenCase;
use artifact::recipe::{Sampling, ShareOf};
use rand::RngExt;

/// Rows of a case's foreground locations that belong to one class or region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Class index, ≥ 1; in a data set with regions the region's number from 1.
    pub class: usize,
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
}

/// The foreground locations of a case, by what they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locations {
    /// Classes or regions that the case has.
    pub classes: Vec<Rows>,
    /// Annotated voxels of any class: first row and count. Only where the data set has an ignore label.
    pub annotated: Option<(usize, usize)>,
}

impl Locations {
    /// Of a case's foreground locations, which are sorted by class; −1 stands for annotated voxels.
    pub fn of(case: &OpenCase) -> Self {
        let mut all = Self::default();
        let Some(locations) = case.foreground() else { return all };
        for (row, &class) in locations.column(0).iter().enumerate() {
            let Ok(class) = usize::try_from(class) else {
                all.annotated = Some((0, row + 1));
                continue;
            };
            match all.classes.last_mut() {
                Some(last) if last.class == class => last.count += 1,
                _ => all.classes.push(Rows { class, first: row, count: 1 }),
            }
        }
        all
    }

    /// A row to centre a box on, and what it shows. Forced: a class drawn uniformly among those of the case, then one
    /// of its rows. Otherwise an annotated voxel, which a forced box falls back to as well.
    pub fn draw(&self, rng: &mut impl rand::Rng, forced: bool) -> Option<(usize, Aim)> {
        if forced && !self.classes.is_empty() {
            let class = self.classes[rng.random_range(0..self.classes.len())];
            let row = class.first + rng.random_range(0..class.count);
            return Some((row, Aim::Foreground(class.class)));
        }
        let (first, count) = self.annotated?;
        Some((first + rng.random_range(0..count), Aim::Annotated))
    }
}

/// What a box was centred on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// On nothing: it lies anywhere.
    Anywhere,
    /// An annotated voxel, in a data set with an ignore label.
    Annotated,
    /// A voxel of this class (or region, counted from 1).
    Foreground(usize),
}

/// First sample of a batch that must show foreground; `batch` where none must.
pub fn first_forced(batch: usize, rule: &Sampling) -> usize {
    let share = rule.foreground_fraction;
    match rule.foreground_count {
        ShareOf::Rounded => (batch as f64 * (1.0 - share)).round_ties_even() as usize,
        ShareOf::MoreThan if share <= 0.0 => batch,
        ShareOf::MoreThan => batch.saturating_sub((batch as f64 * share).floor() as usize + 1),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        fraction: Vec<Fraction>,
    }

    #[derive(Deserialize)]
    struct Fraction {
        foreground_fraction: f64,
        first: Vec<usize>,
    }

    #[test]
    fn as_many_samples_are_forced_as_by_nnunet() {
        let golden: Golden =
            toml::from_str(include_str!("../tests/golden/v2/foreground.toml")).unwrap();
        for Fraction { foreground_fraction, first } in golden.fraction {
            let rule = Sampling { foreground_fraction, foreground_count: ShareOf::Rounded };
            let found: Vec<usize> = (1..=512).map(|batch| first_forced(batch, &rule)).collect();
            assert_eq!(found, first, "{foreground_fraction}");
        }
    }

    #[test]
    fn more_than_a_third_is_more_than_a_third_of_any_batch() {
        let rule = |foreground_fraction| Sampling {
            foreground_fraction,
            foreground_count: ShareOf::MoreThan,
        };
        // As the recipe writes it.
        let third = rule(0.333_333_333_333_333_3);
        for batch in 1..=10_000 {
            let forced = batch - first_forced(batch, &third);
            assert!(3 * forced > batch && 3 * (forced - 1) <= batch, "{forced} of {batch}");
            assert_eq!(first_forced(batch, &rule(0.0)), batch);
            assert_eq!(first_forced(batch, &rule(1.0)), 0);
        }
    }
}
