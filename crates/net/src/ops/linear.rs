//! Convolution and transposed convolution, forward and backward, as three operations between a *large* grid and a
//! *small* one (`small = ⌊(large + 2·pad − kernel) / stride⌋ + 1`):
//!
//! | | convolution | transposed convolution |
//! | --- | --- | --- |
//! | forward | [`gather`] large → small | [`scatter`] small → large |
//! | gradient of the input | [`scatter`] | [`gather`] |
//! | gradient of the weights | [`outer`] | [`outer`] |
//!
//! PyTorch's weight shapes are `[small channels, large channels, z, y, x]` for both, so one packing serves both. The
//! large side may be two tensors (a concatenation that is never made).

use super::packing::Packed;
use crate::cpu::linear::{self, Tap};
use crate::cpu::outer;
use crate::device::SimdLevel;
use crate::tensor::{LANES, Lane, Layout, Tensor};
use rayon::prelude::*;

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

    /// Where each tap of the large side lies, seen from large voxel `small · stride`.
    fn large_taps(&self, layout: &Layout) -> Vec<Tap> {
        let step = pitches(layout);
        (0..self.taps())
            .map(|index| {
                let k = self.position(index);
                let axis = |a: usize| (k[a] as isize - self.pad[a] as isize) * step[a] as isize;
                Tap { offset: axis(0) + axis(1) + axis(2), index }
            })
            .collect()
    }

    /// The small side must be what the large side gives, and the large halo must hold the padding.
    fn check(&self, large: &Layout, small: &Layout) {
        assert_eq!(large.batch, small.batch, "batch");
        assert_eq!(self.small(large.size), small.size, "small size");
        for a in 0..3 {
            assert!(large.halo[a] >= self.pad[a], "large halo {:?} < {:?}", large.halo, self.pad);
        }
    }
}

/// Lanes per step of z, y, x.
fn pitches(l: &Layout) -> [usize; 3] {
    [l.plane_pitch(), l.row_pitch(), 1]
}

fn check_channels(packed: &Packed, inputs: usize, outputs: usize) {
    assert_eq!(packed.input_channels(), inputs, "input channels of the packed weights");
    assert_eq!(packed.output_channels(), outputs, "output channels of the packed weights");
}

fn check_same_grid(layouts: &[Layout]) {
    for l in layouts {
        assert_eq!(l.with_channels(1), layouts[0].with_channels(1), "tensors of a concatenation");
    }
}

/// small = bias + Σ weight · large (or added to small).
pub(crate) fn gather(
    level: SimdLevel,
    geometry: &Geometry,
    large: &[&Tensor],
    packed: &Packed,
    bias: Option<&[Lane]>,
    small: &mut Tensor,
    accumulate: bool,
) {
    let layouts: Vec<Layout> = large.iter().map(|t| t.layout).collect();
    check_same_grid(&layouts);
    geometry.check(&layouts[0], &small.layout);
    check_channels(packed, layouts.iter().map(|l| l.channels).sum(), small.layout.channels);
    let job = linear::Job {
        inputs: large,
        in_stride: geometry.stride,
        out_stride: [1; 3],
        out_first: [0; 3],
        extent: small.layout.size,
        taps: &geometry.large_taps(&layouts[0]),
        weights: &packed.lanes,
        packed_taps: geometry.taps(),
        bias,
        accumulate,
    };
    linear::run(level, &job, &mut [small]);
}

/// large = bias + Σ weight · small (or added to large): the adjoint of [`gather`]. Runs one kernel call per residue
/// class of the large voxels modulo the stride, each with the taps that reach it.
pub(crate) fn scatter(
    level: SimdLevel,
    geometry: &Geometry,
    small: &Tensor,
    packed: &Packed,
    bias: Option<&[Lane]>,
    large: &mut [&mut Tensor],
    accumulate: bool,
) {
    let layouts: Vec<Layout> = large.iter().map(|t| t.layout).collect();
    check_same_grid(&layouts);
    geometry.check(&layouts[0], &small.layout);
    check_channels(packed, small.layout.channels, layouts.iter().map(|l| l.channels).sum());
    let (l, s) = (layouts[0], small.layout);
    for class in 0..geometry.stride.iter().product() {
        let [_, sy, sx] = geometry.stride;
        let class = [class / (sy * sx), class / sx % sy, class % sx];
        let (taps, extent) = class_taps(geometry, class, &l, &s);
        let job = linear::Job {
            inputs: &[small],
            in_stride: [1; 3],
            out_stride: geometry.stride,
            out_first: class,
            extent,
            taps: &taps,
            weights: &packed.lanes,
            packed_taps: geometry.taps(),
            bias,
            accumulate,
        };
        linear::run(level, &job, large);
    }
}

/// The taps by which small voxels reach large voxels `class + i · stride`, and how many such voxels there are.
fn class_taps(
    geometry: &Geometry,
    class: [usize; 3],
    large: &Layout,
    small: &Layout,
) -> (Vec<Tap>, [usize; 3]) {
    let step = pitches(small);
    let (shifts, extent) = geometry.class_taps(class, large.size);
    let tap = |(shift, index): ([isize; 3], usize)| {
        for a in 0..3 {
            let (halo, size) = (small.halo[a] as isize, small.size[a] as isize);
            let last = extent[a] as isize - 1 + shift[a];
            assert!(extent[a] == 0 || (shift[a] >= -halo && last < size + halo), "small halo");
        }
        Tap { offset: (0..3).map(|a| shift[a] * step[a] as isize).sum(), index }
    };
    (shifts.into_iter().map(tap).collect(), extent)
}

/// Weight gradient `[small channel][large channel][tap]`, overwritten. `scratch` is grown once and then reused.
pub(crate) fn outer(
    level: SimdLevel,
    geometry: &Geometry,
    large: &[&Tensor],
    small: &Tensor,
    scratch: &mut Vec<Lane>,
    gradient: &mut [f32],
) {
    let layouts: Vec<Layout> = large.iter().map(|t| t.layout).collect();
    check_same_grid(&layouts);
    geometry.check(&layouts[0], &small.layout);
    let (l, s) = (layouts[0], small.layout);
    let large_channels: usize = layouts.iter().map(|l| l.channels).sum();
    let taps = geometry.large_taps(&l);
    assert_eq!(gradient.len(), s.channels * large_channels * taps.len(), "weight gradient");
    gradient.fill(0.0);
    let at_once = if same_steps(&layouts) { l.batch } else { 1 };
    let pairs = layouts.iter().map(Layout::blocks).sum::<usize>() * s.blocks();
    for sample in (0..l.batch).step_by(at_once) {
        let job = outer::Job {
            large,
            stride: geometry.stride,
            small,
            taps: &taps,
            samples: (sample, at_once),
            chunks: chunks(pairs, taps.len(), at_once * s.size[0]),
        };
        let length = job.partial_len() * job.chunks;
        if scratch.len() < length {
            scratch.resize(length, Lane::ZERO);
        }
        outer::run(level, &job, &mut scratch[..length]);
        add_partials(level, &job, &scratch[..length], gradient);
    }
}

/// Samples of a concatenation lie equally far apart in both tensors only if both have as many blocks; the kernel
/// knows one distance, so that they go one by one otherwise.
fn same_steps(layouts: &[Layout]) -> bool {
    layouts.iter().all(|l| l.blocks() == layouts[0].blocks())
}

/// How many partial sums: enough tasks for many threads, while the sums stay small beside the activations. A function
/// of the shapes alone, so that the result does not depend on the number of threads.
fn chunks(block_pairs: usize, taps: usize, planes: usize) -> usize {
    const TASKS: usize = 64;
    const PARTIAL_LANES: usize = 1 << 18; // 16 MiB
    let most = (PARTIAL_LANES / (block_pairs * taps * LANES)).max(1);
    TASKS.div_ceil(block_pairs).min(most).min(planes)
}

/// Lanes that [`outer`] needs as scratch.
pub(crate) fn outer_scratch(geometry: &Geometry, large: &[Layout], small: &Layout) -> usize {
    let pairs = large.iter().map(Layout::blocks).sum::<usize>() * small.blocks();
    let planes = if same_steps(large) { small.batch } else { 1 } * small.size[0];
    pairs * geometry.taps() * LANES * chunks(pairs, geometry.taps(), planes)
}

/// Adds the partial sums in their order and puts them where PyTorch has them.
fn add_partials(level: SimdLevel, job: &outer::Job<'_>, partials: &[Lane], gradient: &mut [f32]) {
    let (taps, length) = (job.taps.len(), job.partial_len());
    let per_group = linear::group_blocks(level);
    let small = job.small.layout.blocks();
    let block_channels = |l: Layout| (0..l.blocks()).map(move |b| l.block_channels(b));
    let channels: Vec<usize> = job.large.iter().flat_map(|t| block_channels(t.layout)).collect();
    let of_small = channels.iter().sum::<usize>() * taps;
    let chunks = job.chunks;
    gradient.par_chunks_mut(of_small).enumerate().for_each(|(channel, gradient)| {
        let (block, lane) = (channel / LANES, channel % LANES);
        let group = block / per_group * per_group;
        let blocks = per_group.min(small - group);
        let mut out = gradient.chunks_exact_mut(taps);
        for (i, &count) in channels.iter().enumerate() {
            let start = (i * small + group) * taps * LANES;
            for (a, out) in out.by_ref().take(count).enumerate() {
                for (t, value) in out.iter_mut().enumerate() {
                    let at = start + (t * LANES + a) * blocks + block - group;
                    *value += (0..chunks).map(|c| partials[c * length + at].0[lane]).sum::<f32>();
                }
            }
        }
    });
}

/// Bias gradient of a tensor's channels: the sum over its samples and voxels.
pub(crate) fn bias_gradient(t: &Tensor, gradient: &mut [f32]) {
    let l = t.layout;
    gradient.par_chunks_mut(LANES).enumerate().for_each(|(block, gradient)| {
        let mut sum = [0.0f64; LANES];
        for n in 0..l.batch {
            for z in 0..l.size[0] {
                let plane = t.plane((n * l.blocks() + block) * l.size[0] + z);
                for y in 0..l.size[1] {
                    let start = l.plane_origin() + y * l.row_pitch();
                    let mut row = [0.0f32; LANES];
                    for lane in &plane[start..start + l.size[2]] {
                        for c in 0..LANES {
                            row[c] += lane.0[c];
                        }
                    }
                    for c in 0..LANES {
                        sum[c] += f64::from(row[c]);
                    }
                }
            }
        }
        for (value, sum) in gradient.iter_mut().zip(sum) {
            *value = sum as f32;
        }
    });
}
