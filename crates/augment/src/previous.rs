//! What a cascade's second stage sees of the first stage's prediction: its classes, changed so that the second stage
//! doesn't learn to copy them, as one channel per foreground class.
//!
//! Everything works on class indices. As channels of 0 and 1 the classes exclude each other before and after every
//! change (a class that gains voxels takes them from the others), so nothing is lost.

use ndarray::ArrayViewMut3;

/// A morphological operation with a ball.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Every voxel within the radius of one of the class joins it.
    Dilate,
    /// Every voxel within the radius of one that isn't of the class leaves it.
    Erode,
    /// Eroded, then dilated.
    Open,
    /// Dilated, then eroded.
    Close,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dilate, Self::Erode, Self::Open, Self::Close];
}

/// A morphological change of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Morphology {
    /// Class index, from 1.
    pub class: i16,
    /// What is done.
    pub operation: Operation,
    /// Radius of the ball, voxels.
    pub radius: usize,
}

/// A connected component of one class that vanishes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Removal {
    /// Class index, from 1.
    pub class: i16,
    /// Which of the `n` components that are small enough, in the order of their first voxels: number `⌊which · n⌋`.
    pub which: f64,
}

/// Changes one class of `classes` `[z, y, x]`. Voxels that it gains leave their class, voxels that it loses are
/// background. Beyond the patch there is neither foreground to grow from nor background to shrink from.
pub fn change(classes: &mut ArrayViewMut3<'_, i16>, morphology: Morphology) {
    let Morphology { class, operation, radius } = morphology;
    let (nz, ny, nx) = classes.dim();
    let shape = [nz, ny, nx];
    let mut member: Vec<bool> = classes.iter().map(|&c| c == class).collect();
    match operation {
        Operation::Dilate => dilate(&mut member, shape, radius),
        Operation::Erode => erode(&mut member, shape, radius),
        Operation::Open => {
            erode(&mut member, shape, radius);
            dilate(&mut member, shape, radius);
        }
        Operation::Close => {
            dilate(&mut member, shape, radius);
            erode(&mut member, shape, radius);
        }
    }
    for (c, member) in classes.iter_mut().zip(member) {
        if member {
            *c = class;
        } else if *c == class {
            *c = 0;
        }
    }
}

fn erode(member: &mut [bool], shape: [usize; 3], radius: usize) {
    member.iter_mut().for_each(|m| *m = !*m);
    dilate(member, shape, radius);
    member.iter_mut().for_each(|m| *m = !*m);
}

/// Adds every voxel within `radius` of a member: by the squared Euclidean distance to the nearest member, exact as far
/// as the radius goes, one axis after the other.
fn dilate(member: &mut [bool], shape: [usize; 3], radius: usize) {
    let limit = i16::try_from(radius * radius).unwrap_or(MOST);
    let [nz, ny, nx] = shape;
    let mut squared: Vec<i16> = vec![FAR; member.len()];
    for (row, out) in member.chunks_exact(nx).zip(squared.chunks_exact_mut(nx)) {
        distances_in_row(row, radius, out);
    }
    let mut lines = vec![FAR; (ny.max(nz) + 2 * radius) * nx];
    for plane in squared.chunks_exact_mut(ny * nx) {
        lines[radius * nx..(radius + ny) * nx].copy_from_slice(plane);
        lines[(radius + ny) * nx..(2 * radius + ny) * nx].fill(FAR);
        for (y, row) in plane.chunks_exact_mut(nx).enumerate() {
            nearest_of(&lines[y * nx..(y + 2 * radius + 1) * nx], radius, row);
        }
    }
    lines.fill(FAR);
    for y in 0..ny {
        let row = |z: usize| (z * ny + y) * nx..(z * ny + y + 1) * nx;
        for z in 0..nz {
            lines[(radius + z) * nx..(radius + z + 1) * nx].copy_from_slice(&squared[row(z)]);
        }
        for z in 0..nz {
            nearest_of(&lines[z * nx..(z + 2 * radius + 1) * nx], radius, &mut squared[row(z)]);
        }
    }
    member.iter_mut().zip(squared).for_each(|(m, d)| *m = d <= limit);
}

/// A squared distance beyond every radius that can be drawn (64), to which two squared steps can be added in i16.
const FAR: i16 = 20_000;

/// The largest squared distance that counts as near: below [`FAR`] by more than nothing.
const MOST: i16 = FAR - 1;

/// Squared distance to the nearest member of a row, [`FAR`] beyond `radius`.
fn distances_in_row(row: &[bool], radius: usize, out: &mut [i16]) {
    let mut since = radius + 1;
    for (&member, out) in row.iter().zip(out.iter_mut()) {
        since = next_distance(member, since, radius, out);
    }
    since = radius + 1;
    for (&member, out) in row.iter().zip(out.iter_mut()).rev() {
        since = next_distance(member, since, radius, out);
    }
}

/// One step further from the last member; at most `radius` + 1.
fn next_distance(member: bool, since: usize, radius: usize, out: &mut i16) -> usize {
    let since = if member { 0 } else { (since + 1).min(radius + 1) };
    if since <= radius {
        *out = (*out).min((since * since) as i16);
    }
    since
}

/// Per column of `lines` (2 · radius + 1 rows around the wanted one): the smallest of distance² + step².
fn nearest_of(lines: &[i16], radius: usize, out: &mut [i16]) {
    let nx = out.len();
    out.copy_from_slice(&lines[radius * nx..(radius + 1) * nx]);
    for (i, line) in lines.chunks_exact(nx).enumerate() {
        let step = i.abs_diff(radius);
        let square = (step * step) as i16;
        for (o, &d) in out.iter_mut().zip(line) {
            *o = (*o).min(d + square);
        }
    }
}

/// Clears one connected component (voxels that share a face, an edge or a corner) of a class of `classes` `[z, y, x]`,
/// among those smaller than `max_fraction` of the patch.
pub fn remove(classes: &mut ArrayViewMut3<'_, i16>, removal: Removal, max_fraction: f64) {
    let (nz, ny, nx) = classes.dim();
    let limit = classes.len() as f64 * max_fraction;
    let mut walk = Walk {
        shape: [nz, ny, nx],
        open: classes.iter().map(|&c| c == removal.class).collect(),
        found: Vec::new(),
    };
    let mut small = Vec::new();
    for first in 0..walk.open.len() {
        if walk.open[first] {
            walk.component(first);
            if (walk.found.len() as f64) < limit {
                small.push(first);
            }
        }
    }
    if small.is_empty() {
        return;
    }
    let chosen = small[((removal.which * small.len() as f64) as usize).min(small.len() - 1)];
    walk.open.iter_mut().zip(classes.iter()).for_each(|(open, &c)| *open = c == removal.class);
    walk.component(chosen);
    for &voxel in &walk.found {
        classes[[voxel / (ny * nx), voxel / nx % ny, voxel % nx]] = 0;
    }
}

/// A walk through connected voxels.
struct Walk {
    shape: [usize; 3],
    /// Voxels that can be walked to and weren't yet.
    open: Vec<bool>,
    /// Voxels of the last component.
    found: Vec<usize>,
}

impl Walk {
    fn component(&mut self, first: usize) {
        let [nz, ny, nx] = self.shape;
        self.found.clear();
        self.found.push(first);
        self.open[first] = false;
        let mut done = 0;
        while let Some(&voxel) = self.found.get(done) {
            done += 1;
            let (z, y, x) = (voxel / (ny * nx), voxel / nx % ny, voxel % nx);
            for z in z.saturating_sub(1)..(z + 2).min(nz) {
                for y in y.saturating_sub(1)..(y + 2).min(ny) {
                    for x in x.saturating_sub(1)..(x + 2).min(nx) {
                        let next = (z * ny + y) * nx + x;
                        if std::mem::take(&mut self.open[next]) {
                            self.found.push(next);
                        }
                    }
                }
            }
        }
    }
}
