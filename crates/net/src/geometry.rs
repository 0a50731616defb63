//! Convolution and transposed convolution, forward and backward, as three operations between a *large* grid and a
//! *small* one (`small = ⌊(large + 2·pad − kernel) / stride⌋ + 1`):
//!
//! | | convolution | transposed convolution |
//! | --- | --- | --- |
//! | forward | gather, large → small | scatter, small → large |
//! | gradient of the input | scatter | gather |
//! | gradient of the weights | outer products | outer products |
//!
//! PyTorch's weight shapes are `[small channels, large channels, z, y, x]` for both, so one packing serves both. The
//! large side may be two tensors (a concatenation that is never made).

/// Which side of the weights `[small][large][tap]` is the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    LargeToSmall,
    SmallToLarge,
}

/// Kernel, stride and padding per axis z, y, x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub pad: [usize; 3],
}

impl Geometry {
    /// A convolution with padding (kernel − 1) / 2.
    pub(crate) fn convolution(kernel: [usize; 3], stride: [usize; 3]) -> Self {
        Self { kernel, stride, pad: kernel.map(|k| (k - 1) / 2) }
    }

    /// A transposed convolution whose kernel is its stride.
    pub(crate) fn transposed(stride: [usize; 3]) -> Self {
        Self { kernel: stride, stride, pad: [0; 3] }
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The small size that belongs to a large one.
    pub(crate) fn small(&self, large: [usize; 3]) -> [usize; 3] {
        [0, 1, 2].map(|a| (large[a] + 2 * self.pad[a] - self.kernel[a]) / self.stride[a] + 1)
    }

    pub(crate) fn position(&self, tap: usize) -> [usize; 3] {
        let [_, ky, kx] = self.kernel;
        [tap / (ky * kx), tap / kx % ky, tap % kx]
    }

    /// The taps by which small voxels reach large voxels `class + i · stride`, each with the small voxel that it takes for
    /// i = 0; and how many such voxels there are.
    pub(crate) fn class_taps(
        &self,
        class: [usize; 3],
        large: [usize; 3],
    ) -> (Vec<([isize; 3], usize)>, [usize; 3]) {
        let extent = [0, 1, 2].map(|a| large[a].saturating_sub(class[a]).div_ceil(self.stride[a]));
        let taps = (0..self.taps()).filter_map(|index| {
            let k = self.position(index);
            // Large voxel = small · stride − pad + k, so small = (class + pad − k) / stride + i, when that divides.
            let reach = [0, 1, 2].map(|a| (class[a] + self.pad[a]) as isize - k[a] as isize);
            let divides = (0..3).all(|a| reach[a].rem_euclid(self.stride[a] as isize) == 0);
            divides.then(|| ([0, 1, 2].map(|a| reach[a] / self.stride[a] as isize), index))
        });
        (taps.collect(), extent)
    }
}
