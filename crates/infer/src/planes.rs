//! Classes on another grid, plane by plane: no output is ever whole there.
//!
//! The arithmetic is that of [`preprocess::resample::resample`]: f64, one axis after the other in the same order, rounded
//! to f32 at the end. Its clipping to the range of what is interpolated is left out: a weighted mean leaves that range by
//! its rounding only.

use ndarray::{Array3, ArrayView3, ArrayView4, Axis};
use postprocess::decision::Rule;
use preprocess::resample::{Linear, LinearTap};
use rayon::prelude::*;

/// Where each target voxel takes its values from, for interpolations that end or begin with z.
#[derive(Debug)]
pub(crate) struct Taps {
    axes: [Vec<LinearTap>; 3],
    /// Planes are interpolated for themselves before they are mixed: those of anisotropic cases.
    depth_last: bool,
}

/// Of one thread.
#[derive(Default)]
struct Scratch {
    /// Source plane, between two planes.
    mixed: Vec<f64>,
    /// One source row for the nearer plane, one for the farther.
    rows: [Vec<f64>; 2],
    /// A target row.
    values: Vec<f32>,
    /// The largest value so far of each voxel of the target plane.
    best: Vec<f32>,
}

impl Taps {
    /// None for another order of axes.
    pub(crate) fn new(linear: Linear) -> Option<Self> {
        let depth_last = match linear.order {
            [0, 1, 2] => false,
            [1, 2, 0] => true,
            _ => return None,
        };
        Some(Self { axes: linear.axes, depth_last })
    }

    /// Class indices `[z, y, x]` of outputs `[output, z, y, x]`; threads take planes.
    pub(crate) fn classes(&self, maps: ArrayView4<'_, f32>, rule: &Rule) -> Array3<i16> {
        let [depth, height, width] = [0, 1, 2].map(|axis| self.axes[axis].len());
        let mut classes = Array3::<i16>::zeros((depth, height, width));
        let planes = classes.as_slice_mut().unwrap_or_default();
        let planes = planes.par_chunks_mut((height * width).max(1)).zip(&self.axes[0]);
        let maps = maps.as_standard_layout();
        // An unchanged shape is an unchanged grid.
        let same = maps.shape()[1..] == [depth, height, width];
        planes.for_each_init(Scratch::default, |scratch, (plane, depth)| {
            scratch.best.clear();
            scratch.best.resize(height * width, f32::NEG_INFINITY);
            for (output, map) in maps.outer_iter().enumerate() {
                if same {
                    let values = map.index_axis_move(Axis(0), depth.at[0]);
                    let values = values.to_slice().unwrap_or_default();
                    decide(output, values, rule, &mut scratch.best, plane);
                } else {
                    self.see(output, map, depth, rule, scratch, plane);
                }
            }
        });
        classes
    }

    /// Takes an output into account in one target plane.
    fn see(
        &self,
        output: usize,
        map: ArrayView3<'_, f32>,
        depth: &LinearTap,
        rule: &Rule,
        scratch: &mut Scratch,
        plane: &mut [i16],
    ) {
        let (_, rows, columns) = map.dim();
        let map = map.to_slice().unwrap_or_default();
        let [near, far] = depth.at.map(|z| &map[z * rows * columns..][..rows * columns]);
        let Scratch { mixed, rows: lines, values, best } = scratch;
        let width = self.axes[2].len();
        values.resize(width, 0.0);
        if !self.depth_last {
            let [n, f] = depth.weights;
            let both = near.iter().zip(far);
            mixed.clear();
            mixed.extend(both.map(|(&a, &b)| n * f64::from(a) + f * f64::from(b)));
        }
        let targets = plane.chunks_exact_mut(width).zip(best.chunks_exact_mut(width));
        for ((classes, best), row) in targets.zip(&self.axes[1]) {
            if self.depth_last {
                for (line, from) in lines.iter_mut().zip([near, far]) {
                    mix(line, row, |y| from[y * columns..][..columns].iter().map(|&v| v.into()));
                }
                let [n, f] = depth.weights;
                let [near, far] = &*lines;
                for (value, tap) in values.iter_mut().zip(&self.axes[2]) {
                    *value = (n * at(near, tap) + f * at(far, tap)) as f32;
                }
            } else {
                let line = &mut lines[0];
                mix(line, row, |y| mixed[y * columns..][..columns].iter().copied());
                for (value, tap) in values.iter_mut().zip(&self.axes[2]) {
                    *value = at(line, tap) as f32;
                }
            }
            decide(output, values, rule, best, classes);
        }
    }
}

/// A row between two.
fn mix<I: Iterator<Item = f64>>(line: &mut Vec<f64>, tap: &LinearTap, row: impl Fn(usize) -> I) {
    let [near, far] = tap.at.map(row);
    let [n, f] = tap.weights;
    line.clear();
    line.extend(near.zip(far).map(|(a, b)| n * a + f * b));
}

fn at(line: &[f64], tap: &LinearTap) -> f64 {
    tap.weights[0] * line[tap.at[0]] + tap.weights[1] * line[tap.at[1]]
}

/// As [`postprocess::decision::Decision::see`], for a part of a plane.
fn decide(output: usize, values: &[f32], rule: &Rule, best: &mut [f32], classes: &mut [i16]) {
    match rule {
        Rule::Largest => {
            let output = i16::try_from(output).unwrap_or(i16::MAX);
            for ((&value, best), class) in values.iter().zip(best).zip(classes) {
                let larger = value > *best;
                *best = if larger { value } else { *best };
                *class = if larger { output } else { *class };
            }
        }
        Rule::Above { threshold, classes: shown } => {
            let shown = shown[output];
            for (&value, class) in values.iter().zip(classes) {
                *class = if value > *threshold { shown } else { *class };
            }
        }
    }
}
