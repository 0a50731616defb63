//! Connected components of classes in a volume.
//!
//! A component is a largest set of voxels that can be walked through without leaving the class; which steps count is the
//! [`Connectivity`]. All classes are found in one scan. Voxels are gathered into runs along x, and runs that touch are joined by union-find: two passes
//! over the runs, memory by their number. Components are numbered by their first voxel in z, y, x order, as
//! `scipy.ndimage.label` numbers them.

use ndarray::{Array3, ArrayView3};
use std::collections::BTreeMap;
use std::ops::Range;

/// Which neighbours of a voxel belong to its component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// The 6 that share a face.
    Faces,
    /// The 18 that share a face or an edge.
    Edges,
    /// The 26 that share a face, an edge or a corner: the rule of nnU-Net's postprocessing.
    Corners,
}

impl Connectivity {
    /// Rows before the current one that can touch it, as steps along z and y, and how far along x they reach.
    fn rows(self) -> &'static [(usize, isize, usize)] {
        match self {
            Self::Faces => &[(0, -1, 0), (1, 0, 0)],
            Self::Edges => &[(0, -1, 1), (1, -1, 0), (1, 0, 1), (1, 1, 0)],
            Self::Corners => &[(0, -1, 1), (1, -1, 1), (1, 0, 1), (1, 1, 1)],
        }
    }
}

/// Neighbouring voxels of one row (fixed z and y) and one class.
#[derive(Debug, Clone)]
struct Run {
    /// `z · height + y`.
    row: usize,
    /// From the first x to one past the last.
    x: Range<usize>,
    /// Class; 0 where a mask is looked at.
    class: i32,
    /// Number of the component.
    component: usize,
}

/// The connected components of a mask, or of every class.
#[derive(Debug, Clone)]
pub struct Components {
    shape: (usize, usize, usize),
    runs: Vec<Run>,
    sizes: Vec<u64>,
    classes: Vec<i32>,
}

impl Components {
    /// Components of the voxels of `volume` `[z, y, x]` for which `belongs` says yes.
    pub fn of<T>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
        belongs: impl Fn(&T) -> bool,
    ) -> Self {
        Self::find(volume, connectivity, |value| belongs(value).then_some(0))
    }

    /// Components of every class of class indices `[z, y, x]`; 0 is the background, which has none.
    pub fn of_classes<T: Copy + Into<i32>>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
    ) -> Self {
        Self::find(volume, connectivity, |&value| Some(value.into()).filter(|&class| class != 0))
    }

    fn find<T>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
        class: impl Fn(&T) -> Option<i32>,
    ) -> Self {
        let (_, height, _) = volume.dim();
        let mut runs = Vec::new();
        // Runs of row `r` are `runs[starts[r]..starts[r + 1]]`.
        let mut starts = vec![0];
        for (row, line) in volume.rows().into_iter().enumerate() {
            let mut open: Option<(usize, i32)> = None;
            let ends = line.iter().map(&class).chain([None]).enumerate();
            for (x, here) in ends {
                if open.map(|(_, class)| class) == here {
                    continue;
                }
                if let Some((start, class)) = open {
                    runs.push(Run { row, x: start..x, class, component: 0 });
                }
                open = here.map(|class| (x, class));
            }
            starts.push(runs.len());
        }
        let parents = join(&runs, &starts, height, connectivity);
        let (sizes, classes) = number(&mut runs, parents);
        Self { shape: volume.dim(), runs, sizes, classes }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// Voxels of each.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// How many there are of a class.
    pub fn count_of(&self, class: i32) -> usize {
        self.classes.iter().filter(|&&c| c == class).count()
    }

    /// The number of each voxel's component, from 1; 0 where there is none. `[z, y, x]`.
    pub fn numbered(&self) -> Array3<u32> {
        let mut numbers = Array3::zeros(self.shape);
        for run in &self.runs {
            let number = u32::try_from(run.component + 1).unwrap_or(u32::MAX);
            self.fill(&mut numbers, run, number);
        }
        numbers
    }

    /// Sets every voxel outside the largest component to `background` and returns how many that were. Components of
    /// the same, largest size all stay, as in nnU-Net: nothing tells which is the right one.
    pub fn keep_largest<T: Copy>(&self, volume: &mut Array3<T>, background: T) -> u64 {
        self.keep_largest_of(&[0], volume, background)[0]
    }

    /// As [`Self::keep_largest`] for each of `classes` by itself; how many voxels went from each.
    pub fn keep_largest_of<T: Copy>(
        &self,
        classes: &[i32],
        volume: &mut Array3<T>,
        background: T,
    ) -> Vec<u64> {
        assert_eq!(volume.dim(), self.shape, "the components are those of another volume");
        let mut rules: BTreeMap<i32, (usize, u64)> =
            classes.iter().enumerate().map(|(i, &class)| (class, (i, 0))).collect();
        for (size, class) in self.sizes.iter().zip(&self.classes) {
            if let Some((_, largest)) = rules.get_mut(class) {
                *largest = size.max(largest).to_owned();
            }
        }
        let mut removed = vec![0; classes.len()];
        for run in &self.runs {
            let Some(&(i, largest)) = rules.get(&run.class) else { continue };
            if self.sizes[run.component] < largest {
                self.fill(volume, run, background);
                removed[i] += run.x.len() as u64;
            }
        }
        removed
    }

    fn fill<T: Copy>(&self, volume: &mut Array3<T>, run: &Run, value: T) {
        let (z, y) = (run.row / self.shape.1, run.row % self.shape.1);
        for x in run.x.clone() {
            volume[[z, y, x]] = value;
        }
    }
}

/// Parents of the union-find over runs; a root is the first run of its component.
fn join(runs: &[Run], starts: &[usize], height: usize, connectivity: Connectivity) -> Vec<usize> {
    let mut parents: Vec<usize> = (0..runs.len()).collect();
    for row in 0..starts.len() - 1 {
        let here = starts[row]..starts[row + 1];
        if here.is_empty() {
            continue;
        }
        let (z, y) = (row / height, row % height);
        for &(dz, dy, reach) in connectivity.rows() {
            let Some(z) = z.checked_sub(dz) else { continue };
            let Some(y) = y.checked_add_signed(dy).filter(|&y| y < height) else { continue };
            let other = z * height + y;
            join_rows(runs, &mut parents, starts[other]..starts[other + 1], here.clone(), reach);
        }
    }
    parents
}

/// Joins the runs of a class in two rows that overlap along x, or come within `reach` of it. Both lists are sorted.
fn join_rows(
    runs: &[Run],
    parents: &mut [usize],
    before: Range<usize>,
    here: Range<usize>,
    reach: usize,
) {
    let mut first = here.start;
    for a in before {
        while first < here.end && runs[first].x.end + reach <= runs[a].x.start {
            first += 1;
        }
        // Runs of two classes may follow each other without a gap, so that one run can touch several here, and they it.
        for b in (first..here.end).take_while(|&b| runs[b].x.start < runs[a].x.end + reach) {
            if runs[a].class == runs[b].class {
                let (p, q) = (root(parents, a), root(parents, b));
                parents[p.max(q)] = p.min(q);
            }
        }
    }
}

fn root(parents: &mut [usize], mut run: usize) -> usize {
    while parents[run] != run {
        parents[run] = parents[parents[run]];
        run = parents[run];
    }
    run
}

/// Numbers the components in the order of their first runs; sizes and classes by number.
fn number(runs: &mut [Run], mut parents: Vec<usize>) -> (Vec<u64>, Vec<i32>) {
    let (mut sizes, mut classes) = (Vec::new(), Vec::new());
    for i in 0..runs.len() {
        let first = root(&mut parents, i);
        // A root comes before all its members, so its number is known.
        if first == i {
            runs[i].component = sizes.len();
            sizes.push(0);
            classes.push(runs[i].class);
        } else {
            runs[i].component = runs[first].component;
        }
        sizes[runs[i].component] += runs[i].x.len() as u64;
    }
    (sizes, classes)
}
