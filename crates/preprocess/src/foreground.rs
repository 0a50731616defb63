//! Foreground locations: where patches can be centred so that they show a class.

use ndarray::{Array2, ArrayView3};
use rand::{Rng, RngExt};
use stage::{rng, word};

/// nnU-Net's seed for this draw. Cases and classes have streams of their own.
const SEED: u64 = 1234;

/// Rows (class index, z, y, x), sorted by class, then position, of a label map `[z, y, x]` of class indices.
///
/// Of each class ≥ 1 with n voxels, `max(min(at_most, n), ⌈fraction · n⌉)` are drawn without replacement.
pub fn locations(
    case: &str,
    label: ArrayView3<'_, i16>,
    classes: usize,
    at_most: usize,
    fraction: f64,
) -> Array2<i32> {
    let mut voxels = vec![0u64; classes];
    for class in label.iter().filter_map(|&l| usize::try_from(l).ok()) {
        if let Some(n) = voxels.get_mut(class) {
            *n += 1;
        }
    }
    let mut draws: Vec<_> = voxels
        .iter()
        .enumerate()
        .map(|(class, &n)| Draw {
            left: n,
            wanted: (at_most as u64).min(n).max((fraction * n as f64).ceil() as u64).min(n),
            rng: rng(SEED, &[word(case), class as u64]),
            rows: Vec::new(),
        })
        .collect();
    for ((z, y, x), &class) in label.indexed_iter() {
        let Ok(class @ 1..) = usize::try_from(class) else { continue };
        if let Some(draw) = draws.get_mut(class)
            && draw.takes()
        {
            draw.rows.push([class, z, y, x].map(|v| i32::try_from(v).unwrap_or(i32::MAX)));
        }
    }
    let rows: Vec<[i32; 4]> = draws.into_iter().skip(1).flat_map(|d| d.rows).collect();
    Array2::from(rows)
}

/// Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S): one pass, result in order.
struct Draw<R> {
    left: u64,
    wanted: u64,
    rng: R,
    rows: Vec<[i32; 4]>,
}

impl<R: Rng> Draw<R> {
    /// Whether the next voxel of the class is drawn.
    fn takes(&mut self) -> bool {
        let takes = self.wanted == self.left || self.rng.random_range(0..self.left) < self.wanted;
        self.left -= 1;
        self.wanted -= u64::from(takes);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    /// Class 1: 1000 voxels, class 2: 10, class 3: none, and −1.
    fn label() -> Array3<i16> {
        let mut label = Array3::from_elem((10, 20, 10), -1);
        for (i, l) in label.iter_mut().enumerate() {
            *l = if i % 2 == 0 { 1 } else { -1 };
        }
        label.iter_mut().skip(1).step_by(2).take(10).for_each(|l| *l = 2);
        label
    }

    #[test]
    fn at_most_so_many_or_a_fraction_are_drawn_without_repeats_in_order() {
        for (most, fraction, expected) in
            [(50, 0.01, [50, 10]), (3, 0.101, [101, 3]), (10_000, 0.0, [1000, 10])]
        {
            let label = label();
            let rows = locations("a", label.view(), 4, most, fraction);
            let count = |class| rows.column(0).iter().filter(|&&c| c == class).count();
            assert_eq!([count(1), count(2)], expected);
            assert_eq!(count(3) + count(0), 0);
            let keys: Vec<Vec<i32>> = rows.rows().into_iter().map(|r| r.to_vec()).collect();
            assert!(keys.is_sorted_by(|a, b| a < b));
            for row in &keys {
                let at = [row[1], row[2], row[3]].map(|v| usize::try_from(v).unwrap());
                assert_eq!(i32::from(label[at]), row[0]);
            }
        }
    }

    #[test]
    fn draws_depend_on_the_case_and_repeat() {
        let label = label();
        let draw = |id| locations(id, label.view(), 4, 50, 0.0);
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
    }

    #[test]
    fn every_voxel_is_drawn_equally_often() {
        let label = Array3::<i16>::ones((1, 1, 40));
        let mut hits = [0f64; 40];
        let trials = 4000;
        for trial in 0..trials {
            for row in locations(&format!("case {trial}"), label.view(), 2, 10, 0.0).rows() {
                hits[usize::try_from(row[3]).unwrap()] += 1.0;
            }
        }
        // Binomial: mean 1000, variance 4000 · ¼ · ¾; five standard deviations.
        let bound = 5.0 * (f64::from(trials) * 0.25 * 0.75).sqrt();
        assert!(hits.iter().all(|h| (h - 1000.0).abs() < bound), "{hits:?}");
    }
}
