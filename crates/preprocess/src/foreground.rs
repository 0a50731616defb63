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
