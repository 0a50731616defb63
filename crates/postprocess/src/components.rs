//! Connected components of a class in a volume.
//!
//! A component is a largest set of voxels that can be walked through without leaving the class; which steps count is the
//! [`Connectivity`]. Voxels are gathered into runs along x, and runs that touch are joined by union-find: two passes
//! over the runs, memory by their number. Components are numbered by their first voxel in z, y, x order, as
//! `scipy.ndimage.label` numbers them.

use ndarray::{Array3, ArrayView3};
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

/// Neighbouring voxels of one row (fixed z and y).
#[derive(Debug, Clone)]
struct Run {
    /// `z · height + y`.
    row: usize,
    /// From the first x to one past the last.
    x: Range<usize>,
    /// Number of the component.
    component: usize,
}

/// The connected components of one class.
#[derive(Debug, Clone)]
pub struct Components {
    shape: (usize, usize, usize),
    runs: Vec<Run>,
    sizes: Vec<u64>,
}

impl Components {
    /// Components of the voxels of `volume` `[z, y, x]` for which `belongs` says yes.
    pub fn of<T>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
        belongs: impl Fn(&T) -> bool,
    ) -> Self {
        let (_, height, _) = volume.dim();
        let mut runs = Vec::new();
        // Runs of row `r` are `runs[starts[r]..starts[r + 1]]`.
        let mut starts = vec![0];
        for (row, line) in volume.rows().into_iter().enumerate() {
            let mut open = None;
            for (x, value) in line.iter().enumerate() {
                match (belongs(value), open) {
                    (true, None) => open = Some(x),
                    (false, Some(start)) => {
                        runs.push(Run { row, x: start..x, component: 0 });
                        open = None;
                    }
                    _ => {}
                }
            }
            if let Some(start) = open {
                runs.push(Run { row, x: start..line.len(), component: 0 });
            }
            starts.push(runs.len());
        }
        let parents = join(&runs, &starts, height, connectivity);
        let sizes = number(&mut runs, parents);
        Self { shape: volume.dim(), runs, sizes }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// Voxels of each.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
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
        assert_eq!(volume.dim(), self.shape, "the components are those of another volume");
        let largest = self.sizes.iter().copied().max().unwrap_or(0);
        let mut removed = 0;
        for run in self.runs.iter().filter(|run| self.sizes[run.component] < largest) {
            self.fill(volume, run, background);
            removed += run.x.len() as u64;
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

/// Joins the runs of two rows that overlap along x, or come within `reach` of it. Both lists are sorted.
fn join_rows(
    runs: &[Run],
    parents: &mut [usize],
    before: Range<usize>,
    here: Range<usize>,
    reach: usize,
) {
    let (mut a, mut b) = (before.start, here.start);
    while a < before.end && b < here.end {
        let (x, y) = (&runs[a].x, &runs[b].x);
        if x.start < y.end + reach && y.start < x.end + reach {
            let (p, q) = (root(parents, a), root(parents, b));
            parents[p.max(q)] = p.min(q);
        }
        // The run that ends first can't reach the other row's next one, which begins at least one voxel further.
        if x.end <= y.end { a += 1 } else { b += 1 }
    }
}

fn root(parents: &mut [usize], mut run: usize) -> usize {
    while parents[run] != run {
        parents[run] = parents[parents[run]];
        run = parents[run];
    }
    run
}

/// Numbers the components in the order of their first runs; the sizes by number.
fn number(runs: &mut [Run], mut parents: Vec<usize>) -> Vec<u64> {
    let mut sizes = Vec::new();
    for i in 0..runs.len() {
        let first = root(&mut parents, i);
        // A root comes before all its members, so its number is known.
        if first == i {
            runs[i].component = sizes.len();
            sizes.push(0);
        } else {
            runs[i].component = runs[first].component;
        }
        sizes[runs[i].component] += runs[i].x.len() as u64;
    }
    sizes
}
