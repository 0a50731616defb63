//! Connected components of classes in a volume.
//!
//! A component is a largest set of voxels that can be walked through without leaving the class; which steps count is the
//! [`Connectivity`]. All classes are found in one scan. Voxels are gathered into runs along x, and runs that touch are joined by union-find: two passes
//! over the runs, memory by their number. Slabs of planes are done in parallel, then joined. Components are numbered by their first voxel in z, y, x order, as
//! `scipy.ndimage.label` numbers them.

use ndarray::{Array3, ArrayView1, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use rayon::prelude::*;
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
    fn rows(self) -> &'static [(usize, isize, u32)] {
        match self {
            Self::Faces => &[(0, -1, 0), (1, 0, 0)],
            Self::Edges => &[(0, -1, 1), (1, -1, 0), (1, 0, 1), (1, 1, 0)],
            Self::Corners => &[(0, -1, 1), (1, -1, 1), (1, 0, 1), (1, 1, 1)],
        }
    }
}

/// Neighbouring voxels of one row (fixed z and y) and one class.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The first x and one past the last.
    from: u32,
    to: u32,
    /// Class; 0 where a mask is looked at.
    class: i32,
}

/// The runs of consecutive rows, and which of them belong together.
#[derive(Debug, Clone)]
struct Runs {
    all: Vec<Run>,
    /// Runs of row `r`, which is `z · height + y`, are `all[starts[r]..starts[r + 1]]`.
    starts: Vec<usize>,
    /// Of the union-find: a run of the same component, itself or an earlier one. A root is a component's first run.
    parents: Vec<u32>,
}

/// The connected components of a mask, or of every class.
#[derive(Debug, Clone)]
pub struct Components {
    shape: (usize, usize, usize),
    /// Parents are numbers of components here.
    runs: Runs,
    sizes: Vec<u64>,
    classes: Vec<i32>,
}

impl Components {
    /// Components of the voxels of `volume` `[z, y, x]` for which `belongs` says yes.
    pub fn of<T: Copy + PartialEq + Sync>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
        belongs: impl Fn(&T) -> bool + Sync,
    ) -> Self {
        Self::find(volume, connectivity, |value| belongs(value).then_some(0))
    }

    /// Components of every class of class indices `[z, y, x]`; 0 is the background, which has none.
    pub fn of_classes<T: Copy + Into<i32> + PartialEq + Sync>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
    ) -> Self {
        Self::find(volume, connectivity, |&value| Some(value.into()).filter(|&class| class != 0))
    }

    fn find<T: Copy + PartialEq + Sync>(
        volume: ArrayView3<'_, T>,
        connectivity: Connectivity,
        class: impl Fn(&T) -> Option<i32> + Sync,
    ) -> Self {
        let (_, height, _) = volume.dim();
        let slabs: Vec<Runs> = volume
            .axis_chunks_iter(Axis(0), SLAB)
            .into_par_iter()
            .map(|slab| {
                let mut runs = Runs::of(slab, &class);
                runs.join(0..runs.rows(), height, connectivity);
                runs
            })
            .collect();
        let mut runs = Runs::with_room(&slabs);
        for slab in slabs {
            let first = runs.rows();
            runs.append(slab);
            // Rows of a slab's first plane are the ones that touch the slab before.
            runs.join(first..runs.rows().min(first + height), height, connectivity);
        }
        let (sizes, classes) = runs.number();
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
        let write = |(run, component): (Run, usize), row: &mut [u32]| {
            row[run.range()].fill(u32::try_from(component + 1).unwrap_or(u32::MAX));
        };
        self.each_row(numbers.view_mut(), |runs, row| runs.for_each(|run| write(run, row)));
        numbers
    }

    /// Sets every voxel outside the largest component to `background` and returns how many that were. Components of
    /// the same, largest size all stay, as in nnU-Net: nothing tells which is the right one.
    pub fn keep_largest<T: Copy + Send + Sync>(
        &self,
        volume: &mut Array3<T>,
        background: T,
    ) -> u64 {
        self.keep_largest_of(&[0], volume, background)[0]
    }

    /// As [`Self::keep_largest`] for each of `classes` by itself; how many voxels went from each.
    pub fn keep_largest_of<T: Copy + Send + Sync>(
        &self,
        classes: &[i32],
        volume: &mut Array3<T>,
        background: T,
    ) -> Vec<u64> {
        assert_eq!(volume.dim(), self.shape, "the components are those of another volume");
        let mut largest: BTreeMap<i32, u64> = classes.iter().map(|&class| (class, 0)).collect();
        for (&size, class) in self.sizes.iter().zip(&self.classes) {
            if let Some(largest) = largest.get_mut(class) {
                *largest = size.max(*largest);
            }
        }
        let sizes_and_classes = || self.sizes.iter().zip(&self.classes);
        let goes: Vec<bool> = sizes_and_classes()
            .map(|(size, class)| largest.get(class).is_some_and(|largest| size < largest))
            .collect();
        self.each_row(volume.view_mut(), |runs, row| {
            runs.filter(|(_, component)| goes[*component])
                .for_each(|(run, _)| row[run.range()].fill(background));
        });
        let gone = |class: i32| {
            let of_class =
                sizes_and_classes().zip(&goes).filter(|((_, c), goes)| **goes && **c == class);
            of_class.map(|((size, _), _)| size).sum()
        };
        classes.iter().map(|&class| gone(class)).collect()
    }

    /// Has `work` change every row of a volume `[z, y, x]` by its runs, each with its component.
    fn each_row<T: Copy + Send + Sync>(
        &self,
        mut volume: ArrayViewMut3<'_, T>,
        work: impl Fn(&mut dyn Iterator<Item = (Run, usize)>, &mut [T]) + Sync,
    ) {
        let height = self.shape.1;
        let plane = |(z, mut plane): (usize, ArrayViewMut2<'_, T>)| {
            for (y, mut row) in plane.outer_iter_mut().enumerate() {
                let range = self.runs.of_row(z * height + y);
                if range.is_empty() {
                    continue;
                }
                let components = self.runs.parents[range.clone()].iter().map(|&c| c as usize);
                let mut runs = self.runs.all[range].iter().copied().zip(components);
                match row.as_slice_mut() {
                    Some(row) => work(&mut runs, row),
                    None => {
                        let mut copy = row.to_vec();
                        work(&mut runs, &mut copy);
                        row.assign(&ArrayView1::from(&copy));
                    }
                }
            }
        };
        volume.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(plane);
    }
}

/// Planes whose runs are found and joined by one task.
const SLAB: usize = 16;

impl Run {
    fn range(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

impl Runs {
    /// Those of a volume `[z, y, x]`, each by itself.
    fn of<T: Copy + PartialEq>(
        volume: ArrayView3<'_, T>,
        class: &impl Fn(&T) -> Option<i32>,
    ) -> Self {
        let mut runs = Self { all: Vec::new(), starts: vec![0], parents: Vec::new() };
        for line in volume.rows() {
            match line.as_slice() {
                Some(line) => runs.add_row(line, class),
                None => runs.add_row(&line.to_vec(), class),
            }
        }
        runs.parents = (0..number_of(runs.all.len())).collect();
        runs
    }

    fn add_row<T: Copy + PartialEq>(&mut self, line: &[T], class: &impl Fn(&T) -> Option<i32>) {
        let mut open: Option<Run> = None;
        let mut from = 0;
        while from < line.len() {
            let to = from + equal(&line[from..]);
            let here = class(&line[from]);
            match (&mut open, here) {
                (Some(run), Some(class)) if run.class == class => run.to = number_of(to),
                (_, class) => {
                    let next = |class| Run { from: number_of(from), to: number_of(to), class };
                    self.all.extend(std::mem::replace(&mut open, class.map(next)));
                }
            }
            from = to;
        }
        self.all.extend(open);
        self.starts.push(self.all.len());
    }

    /// None, with room for those of all slabs.
    fn with_room(slabs: &[Self]) -> Self {
        let (rows, runs) = slabs
            .iter()
            .fold((0, 0), |(rows, runs), slab| (rows + slab.rows(), runs + slab.all.len()));
        let mut starts = Vec::with_capacity(rows + 1);
        starts.push(0);
        Self { all: Vec::with_capacity(runs), starts, parents: Vec::with_capacity(runs) }
    }

    /// Those of the rows that follow.
    fn append(&mut self, next: Self) {
        let before = self.all.len();
        let offset = number_of(before);
        self.all.extend(next.all);
        self.starts.extend(next.starts[1..].iter().map(|start| before + start));
        self.parents.extend(next.parents.iter().map(|parent| offset + parent));
    }

    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn of_row(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// Joins the runs of `rows` with those before them that they touch; `height` rows are a plane.
    fn join(&mut self, rows: Range<usize>, height: usize, connectivity: Connectivity) {
        for row in rows {
            let here = self.of_row(row);
            if here.is_empty() {
                continue;
            }
            let (z, y) = (row / height, row % height);
            for &(dz, dy, reach) in connectivity.rows() {
                let Some(z) = z.checked_sub(dz) else { continue };
                let Some(y) = y.checked_add_signed(dy).filter(|&y| y < height) else { continue };
                self.join_rows(self.of_row(z * height + y), here.clone(), reach);
            }
        }
    }

    /// Joins the runs of a class in two rows that overlap along x, or come within `reach` of it. Both lists are sorted.
    fn join_rows(&mut self, before: Range<usize>, here: Range<usize>, reach: u32) {
        let mut first = here.start;
        for a in before {
            let run = self.all[a];
            while first < here.end && self.all[first].to + reach <= run.from {
                first += 1;
            }
            // Runs of two classes may follow each other without a gap, so that one run can touch several here, and they it.
            for b in first..here.end {
                let other = self.all[b];
                if other.from >= run.to + reach {
                    break;
                }
                if run.class == other.class {
                    let (p, q) = (self.root(a), self.root(b));
                    self.parents[p.max(q)] = number_of(p.min(q));
                }
            }
        }
    }

    fn root(&mut self, mut run: usize) -> usize {
        loop {
            let parent = self.parents[run];
            if parent as usize == run {
                return run;
            }
            let grandparent = self.parents[parent as usize];
            self.parents[run] = grandparent;
            run = grandparent as usize;
        }
    }

    /// Numbers the components in the order of their first runs, and makes these numbers of the parents; sizes and classes by
    /// number.
    fn number(&mut self) -> (Vec<u64>, Vec<i32>) {
        let (mut sizes, mut classes) = (Vec::new(), Vec::new());
        for i in 0..self.all.len() {
            let parent = self.parents[i] as usize;
            let run = self.all[i];
            // A parent comes before its children, so its component is known.
            let component = if parent == i { sizes.len() } else { self.parents[parent] as usize };
            if parent == i {
                sizes.push(0);
                classes.push(run.class);
            }
            self.parents[i] = number_of(component);
            sizes[component] += run.range().len() as u64;
        }
        (sizes, classes)
    }
}

/// How many values at the beginning of `line` are equal.
fn equal<T: Copy + PartialEq>(line: &[T]) -> usize {
    const SINGLY: usize = 8;
    const TOGETHER: usize = 32;
    let value = line[0];
    let mut n = 1;
    while n < line.len().min(SINGLY) {
        if line[n] != value {
            return n;
        }
        n += 1;
    }
    let alike = |part: &[T]| part.iter().fold(true, |all, v| all & (*v == value));
    while line.len() - n >= TOGETHER && alike(&line[n..n + TOGETHER]) {
        n += TOGETHER;
    }
    n + line[n..].iter().take_while(|v| **v == value).count()
}

/// A position or a number of runs in 32 bits.
fn number_of(value: usize) -> u32 {
    u32::try_from(value).expect("fewer than 2³² runs, and voxels in a row")
}
