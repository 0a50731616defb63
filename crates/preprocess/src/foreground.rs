//! Foreground locations: where patches can be centred so that they show a class.

use artifact::plan::Plan;
use ndarray::{Array2, ArrayView3};
use rand::{Rng, RngExt};
use stage::{rng, word};

/// nnU-Net's seed for this draw. Cases and classes have streams of their own.
const SEED: u64 = 1234;

/// Voxels that one number in the first column stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The number.
    pub number: i32,
    /// Class indices as in the label map; −1 is outside the nonzero mask.
    pub classes: Vec<i16>,
}

/// What patches of a plan's data set can be centred on: each foreground class, or each region, counted from 1; and, if
/// voxels may be nobody's, all the annotated ones together as −1.
pub fn groups(plan: &Plan) -> Vec<Group> {
    let class = |c: usize| i16::try_from(c).unwrap_or(i16::MAX);
    let annotated = plan
        .ignore
        .as_ref()
        .map(|_| Group { number: -1, classes: (-1..class(plan.labels.len())).collect() });
    let targets: Vec<Vec<usize>> = if plan.regions.is_empty() {
        (1..plan.labels.len()).map(|c| vec![c]).collect()
    } else {
        plan.region_classes()
    };
    let target = |(number, classes): (i32, Vec<usize>)| Group {
        number,
        classes: classes.into_iter().map(class).collect(),
    };
    annotated.into_iter().chain((1..).zip(targets).map(target)).collect()
}

/// Rows (group's number, z, y, x), sorted by group, then position, of a label map `[z, y, x]` of class indices.
///
/// Of each group with n voxels, `max(min(at_most, n), ⌈fraction · n⌉)` are drawn without replacement.
pub fn locations(
    case: &str,
    label: ArrayView3<'_, i16>,
    groups: &[Group],
    at_most: usize,
    fraction: f64,
) -> Array2<i32> {
    // Class −1 is at 0.
    let most = groups.iter().flat_map(|g| &g.classes).copied().max().unwrap_or(0);
    let mut members = vec![Vec::new(); slot(most).unwrap_or(0) + 1];
    for (index, group) in groups.iter().enumerate() {
        for class in group.classes.iter().filter_map(|&c| slot(c)) {
            members[class].push(index);
        }
    }
    let label = label.as_standard_layout();
    let values = label.as_slice().expect("standard layout");
    let voxels = count(values, members.len());
    let mut draws: Vec<_> = groups
        .iter()
        .map(|group| {
            let n: u64 = group.classes.iter().filter_map(|&c| slot(c)).map(|c| voxels[c]).sum();
            Draw {
                left: n,
                wanted: (at_most as u64).min(n).max((fraction * n as f64).ceil() as u64).min(n),
                rng: rng(SEED, &[word(case), group.number.cast_unsigned().into()]),
                rows: Vec::new(),
            }
        })
        .collect();
    // What lies outside and background is seldom drawn from, and fills most of a map: passed over many at a time.
    let skipped: i16 = if members.iter().take(2).all(Vec::is_empty) { 0 } else { i16::MIN };
    let (_, height, width) = label.dim();
    for (index, &class) in foreground(values, skipped) {
        let Some(found) = slot(class).and_then(|c| members.get(c)) else { continue };
        let (z, y, x) = (index / width / height, index / width % height, index % width);
        for &group in found {
            if draws[group].takes() {
                let [z, y, x] = [z, y, x].map(|v| i32::try_from(v).unwrap_or(i32::MAX));
                draws[group].rows.push([groups[group].number, z, y, x]);
            }
        }
    }
    let rows: Vec<[i32; 4]> = draws.into_iter().flat_map(|d| d.rows).collect();
    Array2::from(rows)
}

fn slot(class: i16) -> Option<usize> {
    usize::try_from(i32::from(class) + 1).ok()
}

/// Voxels of each class that has a slot.
fn count(values: &[i16], slots: usize) -> Vec<u64> {
    // Additions to one count wait for each other, and neighbours are mostly of one class: several counts by turns.
    const TURNS: usize = 4;
    let mut counts = vec![[0u64; TURNS]; slots];
    for group in values.chunks(TURNS) {
        for (turn, &class) in group.iter().enumerate() {
            if let Some(n) = slot(class).and_then(|c| counts.get_mut(c)) {
                n[turn] += 1;
            }
        }
    }
    counts.iter().map(|turns| turns.iter().sum()).collect()
}

/// Classes above `skipped`, and some others among them, with their index.
fn foreground(values: &[i16], skipped: i16) -> impl Iterator<Item = (usize, &i16)> {
    const CHUNK: usize = 64;
    let chunks = values.chunks(CHUNK).enumerate();
    let kept =
        chunks.filter(move |(_, chunk)| chunk.iter().fold(false, |any, &c| any | (c > skipped)));
    kept.flat_map(|(n, chunk)| (n * CHUNK..).zip(chunk))
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

    fn each_class(classes: i16) -> Vec<Group> {
        (1..classes).map(|c| Group { number: c.into(), classes: vec![c] }).collect()
    }

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
            let rows = locations("a", label.view(), &each_class(4), most, fraction);
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
    fn groups_overlap_and_may_hold_what_lies_outside() {
        let groups = [
            Group { number: -1, classes: vec![-1, 0, 1, 2] },
            Group { number: 1, classes: vec![1, 2] },
            Group { number: 2, classes: vec![2] },
        ];
        let mut label = label();
        label[[0, 0, 0]] = 3;
        let rows = locations("a", label.view(), &groups, 10_000, 0.0);
        let count = |number| rows.column(0).iter().filter(|&&n| n == number).count();
        // Voxel [0, 0, 0] was of class 1 and is ignored now.
        assert_eq!([count(-1), count(1), count(2)], [1999, 1009, 10]);
        assert!(rows.column(0).iter().is_sorted());
        assert!(rows.rows().into_iter().all(|r| r.iter().skip(1).any(|v| *v != 0)));
    }

    #[test]
    fn draws_depend_on_the_case_and_repeat() {
        let label = label();
        let draw = |id| locations(id, label.view(), &each_class(4), 50, 0.0);
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
    }

    #[test]
    fn every_voxel_is_drawn_equally_often() {
        let label = Array3::<i16>::ones((1, 1, 40));
        let mut hits = [0f64; 40];
        let trials = 4000;
        for trial in 0..trials {
            for row in
                locations(&format!("case {trial}"), label.view(), &each_class(2), 10, 0.0).rows()
            {
                hits[usize::try_from(row[3]).unwrap()] += 1.0;
            }
        }
        // Binomial: mean 1000, variance 4000 · ¼ · ¾; five standard deviations.
        let bound = 5.0 * (f64::from(trials) * 0.25 * 0.75).sqrt();
        assert!(hits.iter().all(|h| (h - 1000.0).abs() < bound), "{hits:?}");
    }
}
