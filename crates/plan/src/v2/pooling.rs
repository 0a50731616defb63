//! Which axes are halved where: nnU-Net's rule of spacings.

use artifact::recipe::V2Planning;
use std::ops::Range;

/// Strides, kernels and the patch padded up to what they divide. Axes outside of those pooled have edge 1, stride 1, kernel 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    /// Voxels; every edge a multiple of [`Self::divisor`].
    pub patch: [usize; 3],
    /// Stride into each stage.
    pub strides: Vec<[usize; 3]>,
    /// Kernel of each stage.
    pub kernels: Vec<[usize; 3]>,
}

impl Pooling {
    /// Pools `axes` of a box of `edges` voxels (a median may end in .5) at a spacing in mm.
    ///
    /// Of the axes that are still long enough, those are halved whose voxels are less than `similar_spacing_below` times
    /// coarser than the finest of them; one axis alone only while it has `min_edge_pooled_alone` voxels. A kernel becomes 3
    /// as soon as its axis is that similar to the finest of all, and stays 3; in the deepest stage all are 3.
    ///
    /// DEPARTURE: where that pools nothing, similar axes of two or more voxels are pooled once, so that there is a U-Net.
    /// nnU-Net plans a network of one stage there, which has no output and can't be trained.
    pub fn new(
        axes: Range<usize>,
        spacing_mm: [f64; 3],
        edges: [f64; 3],
        planning: &V2Planning,
    ) -> Self {
        let (mut spacing, mut left) = (spacing_mm, edges);
        let mut kernel = [1; 3];
        let (mut strides, mut kernels) = (vec![[1; 3]], Vec::new());
        let finest = |among: &[usize], spacing: &[f64; 3]| {
            among.iter().map(|&axis| spacing[axis]).fold(f64::INFINITY, f64::min)
        };
        let all: Vec<usize> = axes.clone().collect();
        loop {
            let long = |&axis: &usize| left[axis] >= 2.0 * planning.min_bottleneck_edge as f64;
            let mut pooled: Vec<usize> = all.iter().copied().filter(long).collect();
            let limit = finest(&pooled, &spacing);
            pooled.retain(|&axis| spacing[axis] / limit < planning.similar_spacing_below);
            let enough = match pooled[..] {
                [] => false,
                [axis] => left[axis] >= planning.min_edge_pooled_alone as f64,
                _ => true,
            };
            if !enough {
                if strides.len() > 1 {
                    break;
                }
                pooled = all.iter().copied().filter(|&axis| left[axis] > 1.0).collect();
                let limit = finest(&pooled, &spacing);
                pooled.retain(|&axis| spacing[axis] / limit < planning.similar_spacing_below);
                if pooled.is_empty() {
                    break;
                }
            }
            let limit = finest(&all, &spacing);
            for &axis in &all {
                if spacing[axis] / limit < planning.similar_spacing_below {
                    kernel[axis] = 3;
                }
            }
            let mut stride = [1; 3];
            for &axis in &pooled {
                stride[axis] = 2;
                spacing[axis] *= 2.0;
                left[axis] = (left[axis] / 2.0).ceil();
            }
            strides.push(stride);
            kernels.push(kernel);
        }
        kernels.push(std::array::from_fn(|axis| if axes.contains(&axis) { 3 } else { 1 }));
        let mut pooling = Self { patch: [1; 3], strides, kernels };
        let divisor = pooling.divisor();
        for axis in axes {
            pooling.patch[axis] = (edges[axis].ceil() as usize).next_multiple_of(divisor[axis]);
        }
        pooling
    }

    /// Every patch edge must be a multiple of this.
    pub fn divisor(&self) -> [usize; 3] {
        let count = |axis: usize| self.strides.iter().filter(|s| s[axis] == 2).count();
        [0, 1, 2].map(|axis| 1 << count(axis))
    }
}
