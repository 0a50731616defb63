//! What one launch of the convolution kernel computes: which taps of the input reach which output voxels.

use super::{check_same_grid, filled_groups, groups, pair};
use crate::cuda::tensor::{Element, Layout};
use crate::geometry::Geometry;

/// Output voxels `first + v · out_stride`, v below `extent`, and the taps that reach them: input voxel
/// `v · in_stride + offset`.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub first: [usize; 3],
    pub extent: [usize; 3],
    pub taps: Vec<Tap>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub offset: [isize; 3],
    /// In the packed weights.
    pub index: usize,
}

impl Class {
    pub(super) fn offsets(&self) -> Vec<[isize; 3]> {
        self.taps.iter().map(|t| t.offset).collect()
    }
}

/// What is to be computed, but for the tensors' addresses.
#[derive(Debug)]
pub(super) struct Job {
    pub inputs: Vec<Layout>,
    pub outputs: Vec<Layout>,
    pub in_stride: [usize; 3],
    pub out_stride: [usize; 3],
    pub classes: Vec<Class>,
    pub element: Element,
}

impl Job {
    pub(super) fn gather(
        geometry: &Geometry,
        large: &[Layout],
        small: &Layout,
        element: Element,
    ) -> Self {
        check(geometry, large, small);
        let taps = (0..geometry.taps())
            .map(|index| {
                let k = geometry.position(index);
                let offset = [0, 1, 2].map(|a| k[a] as isize - geometry.pad[a] as isize);
                Tap { offset, index }
            })
            .collect();
        Self {
            inputs: large.to_vec(),
            outputs: vec![*small],
            in_stride: geometry.stride,
            out_stride: [1; 3],
            classes: vec![Class { first: [0; 3], extent: small.size, taps }],
            element,
        }
    }

    /// A class for each residue of the large voxels modulo the stride.
    pub(super) fn scatter(
        geometry: &Geometry,
        small: &Layout,
        large: &[Layout],
        element: Element,
    ) -> Self {
        check(geometry, large, small);
        let [_, sy, sx] = geometry.stride;
        let classes = (0..geometry.stride.iter().product())
            .map(|class| {
                class_of(geometry, [class / (sy * sx), class / sx % sy, class % sx], large[0].size)
            })
            .filter(|class| class.extent.iter().all(|n| *n > 0))
            .collect();
        Self {
            inputs: vec![*small],
            outputs: large.to_vec(),
            in_stride: [1; 3],
            out_stride: geometry.stride,
            classes,
            element,
        }
    }

    pub(super) fn input_channels(&self) -> [usize; 2] {
        pair(self.inputs.iter().map(|l| l.channels))
    }

    pub(super) fn output_channels(&self) -> [usize; 2] {
        pair(self.outputs.iter().map(|l| l.channels))
    }

    /// 1 or 2: whether numbers are multiplied as sums of two.
    pub(super) fn halves(&self) -> usize {
        if self.element == Element::F32 { 2 } else { 1 }
    }

    /// Most groups of a chunk of input channels.
    pub(super) fn chunk_groups(&self) -> usize {
        self.inputs.iter().map(|l| filled_groups(groups(l.channels)).min(4)).max().unwrap_or(1)
    }
}

fn check(geometry: &Geometry, large: &[Layout], small: &Layout) {
    check_same_grid(large);
    assert_eq!(large[0].batch, small.batch, "batch");
    assert_eq!(geometry.small(large[0].size), small.size, "small size");
    assert!(geometry.kernel.iter().all(|k| *k <= 3), "kernel {:?}", geometry.kernel);
    assert!(geometry.stride.iter().all(|s| *s <= 2), "stride {:?}", geometry.stride);
}

/// The taps by which small voxels reach large voxels `class + v · stride`.
fn class_of(geometry: &Geometry, class: [usize; 3], large: [usize; 3]) -> Class {
    let extent = [0, 1, 2].map(|a| large[a].saturating_sub(class[a]).div_ceil(geometry.stride[a]));
    let mut taps = Vec::new();
    for index in 0..geometry.taps() {
        let k = geometry.position(index);
        // Large voxel = small · stride − pad + k, so small = (class + pad − k) / stride + v, when that divides.
        let reach = [0, 1, 2].map(|a| (class[a] + geometry.pad[a]) as isize - k[a] as isize);
        let stride = geometry.stride.map(|s| s as isize);
        if (0..3).all(|a| reach[a].rem_euclid(stride[a]) == 0) {
            taps.push(Tap { offset: [0, 1, 2].map(|a| reach[a] / stride[a]), index });
        }
    }
    Class { first: class, extent, taps }
}
