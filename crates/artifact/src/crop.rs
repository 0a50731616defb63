//! Which voxels of an image hold data: part of the case format's definition (where label is −1, where the crop box lies).
//!
//! The rule is nnU-Net's: a voxel counts if any channel is not 0 there; holes are filled; the box is the smallest
//! that holds the result. Fingerprint, preprocessing and inference must agree on it, hence it stands here.

use ndarray::{Array3, ArrayView4};
use std::ops::Range;

/// Voxels `[z, y, x]` with data in any channel of `[channel, z, y, x]`, holes filled.
///
/// A hole is a region of zeros that no path over faces (6-connectivity) joins to the volume's outside, as
/// `scipy.ndimage.binary_fill_holes` defines it.
pub fn nonzero_mask(channels: ArrayView4<'_, f32>) -> Array3<bool> {
    let (_, depth, height, width) = channels.dim();
    let mut mask = Array3::from_elem((depth, height, width), false);
    for channel in channels.outer_iter() {
        // NaN counts as data, as in NumPy's `!= 0`.
        mask.zip_mut_with(&channel, |m, &v| *m |= v != 0.0);
    }
    fill_holes(mask)
}

/// Smallest box around the mask's voxels along z, y, x; the whole volume if the mask is empty, since an image of
/// nothing but zeros has no part worth cutting out.
pub fn bounding_box(mask: &Array3<bool>) -> [Range<usize>; 3] {
    let (depth, height, width) = mask.dim();
    let mut low = [depth, height, width];
    let mut high = [0; 3];
    for (z, slice) in mask.outer_iter().enumerate() {
        for (y, row) in slice.outer_iter().enumerate() {
            let Some(first) = row.iter().position(|&m| m) else { continue };
            let last = row.iter().rposition(|&m| m).unwrap_or(first);
            for (axis, (from, to)) in [(z, z), (y, y), (first, last)].into_iter().enumerate() {
                low[axis] = low[axis].min(from);
                high[axis] = high[axis].max(to + 1);
            }
        }
    }
    if high[0] == 0 {
        return [0..depth, 0..height, 0..width];
    }
    [low[0]..high[0], low[1]..high[1], low[2]..high[2]]
}

/// Everything that the outside can't reach becomes true.
///
/// Works on runs of false voxels along x, joined into regions by union-find: one pass, memory by the number of runs.
fn fill_holes(mask: Array3<bool>) -> Array3<bool> {
    let (depth, height, width) = mask.dim();
    // Standard layout: made by `from_elem`.
    let mut voxels = mask.into_raw_vec_and_offset().0;
    let mut regions = Regions::new();
    let mut rows: Vec<Range<usize>> = Vec::with_capacity(depth * height);
    for (row, line) in voxels.chunks_exact(width.max(1)).enumerate() {
        let (z, y) = (row / height, row % height);
        let start = regions.runs.len();
        let edge = z == 0 || z + 1 == depth || y == 0 || y + 1 == height;
        for run in false_runs(line) {
            let open = edge || run.start == 0 || run.end == width;
            regions.push(run, open);
        }
        let here = start..regions.runs.len();
        if y > 0 {
            regions.join_touching(rows[row - 1].clone(), here.clone());
        }
        if z > 0 {
            regions.join_touching(rows[row - height].clone(), here.clone());
        }
        rows.push(here);
    }
    for (row, runs) in rows.into_iter().enumerate() {
        for id in runs {
            if !regions.reached(id) {
                let run = regions.runs[id].clone();
                voxels[row * width + run.start..row * width + run.end].fill(true);
            }
        }
    }
    Array3::from_shape_vec((depth, height, width), voxels).expect("same shape as before")
}

/// Maximal stretches of false.
fn false_runs(line: &[bool]) -> impl Iterator<Item = Range<usize>> {
    let mut x = 0;
    std::iter::from_fn(move || {
        let start = x + line[x..].iter().position(|m| !m)?;
        x = line[start..].iter().position(|&m| m).map_or(line.len(), |n| start + n);
        Some(start..x)
    })
}

/// Union-find over runs; a region knows whether it reaches the outside. Region 0 is the outside.
struct Regions {
    runs: Vec<Range<usize>>,
    parent: Vec<usize>,
}

impl Regions {
    fn new() -> Self {
        Self { runs: Vec::new(), parent: vec![0] }
    }

    fn push(&mut self, run: Range<usize>, open: bool) {
        self.runs.push(run);
        self.parent.push(if open { 0 } else { self.parent.len() });
    }

    fn root(&mut self, mut node: usize) -> usize {
        while self.parent[node] != node {
            self.parent[node] = self.parent[self.parent[node]];
            node = self.parent[node];
        }
        node
    }

    /// Joins the runs of two neighbouring rows that share an x. Both lists are sorted.
    fn join_touching(&mut self, above: Range<usize>, here: Range<usize>) {
        let (mut a, mut b) = (above.start, here.start);
        while a < above.end && b < here.end {
            let (run_a, run_b) = (self.runs[a].clone(), self.runs[b].clone());
            if run_a.start < run_b.end && run_b.start < run_a.end {
                let (p, q) = (self.root(a + 1), self.root(b + 1));
                // The smaller wins, so that the outside, 0, stays a root.
                self.parent[p.max(q)] = p.min(q);
            }
            if run_a.end <= run_b.end { a += 1 } else { b += 1 }
        }
    }

    fn reached(&mut self, run: usize) -> bool {
        self.root(run + 1) == 0
    }
}
