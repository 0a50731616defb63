//! A volume in device memory: tiles out of it, views of a network onto it, and what they come to.

use super::Context;
use super::tensor::{Element, Tensor, kernel, small};
use kernels::{Buffer, GpuError, Pointer, Stream};

/// As in `kernels/window.cu`.
const THREADS: u32 = 256;
const MOST_SAMPLES: usize = 8;

kernels::arguments! {
    struct WindowCutArgs {
        image: Pointer,
        views: Pointer,
        cursor: Pointer,
        to: Pointer,
        view_count: u32,
        channels: u32,
        image_size: [u32; 3],
        patch: [u32; 3],
        before: [u32; 3],
        extent: [u32; 3],
    }
}

kernels::arguments! {
    struct WindowAddArgs {
        logits: Pointer,
        views: Pointer,
        cursor: Pointer,
        curves: Pointer,
        sums: Pointer,
        weights: Pointer,
        view_count: u32,
        first_sample: u32,
        samples: u32,
        channels: u32,
        activation: u32,
        smallest: f32,
        image_size: [u32; 3],
        patch: [u32; 3],
        before: [u32; 3],
        extent: [u32; 3],
    }
}

kernels::arguments! {
    struct WindowNextArgs {
        cursor: Pointer,
        batch: u32,
        unused: u32,
    }
}

kernels::arguments! {
    struct WindowMeansArgs {
        sums: Pointer,
        weights: Pointer,
        finite: Pointer,
        voxels: u32,
        channels: u32,
    }
}

kernels::arguments! {
    struct WindowClassesArgs {
        maps: Pointer,
        taps: [Pointer; 3],
        region_classes: Pointer,
        classes: Pointer,
        voxels: u32,
        outputs: u32,
        target_voxels: u32,
        rule: u32,
        stride: [u32; 3],
        target_stride: [u32; 3],
        target_size: [u32; 3],
        threshold: f32,
    }
}

/// What becomes of logits before they are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    None = 0,
    Softmax = 1,
    Sigmoid = 2,
}

/// A tile and a flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// First voxel of the part of the image that the tile covers.
    pub first: [usize; 3],
    /// Which axes are flipped.
    pub flip: [bool; 3],
}

/// How tiles lie. Axes are z, y, x.
#[derive(Debug, Clone)]
pub(crate) struct Tiling {
    pub image: [usize; 3],
    pub patch: [usize; 3],
    /// Voxels of a patch ahead of its part of the image.
    pub before: [usize; 3],
    /// Of that part.
    pub extent: [usize; 3],
    /// Flips of a tile, which are neighbours in the list of views: a power of two.
    pub flips: usize,
    /// The Gaussian along each axis.
    pub curves: [Vec<f64>; 3],
    /// The weight where the Gaussian is 0.
    pub smallest: f32,
    pub activation: Activation,
}

impl Tiling {
    /// Bytes of a volume so tiled.
    pub(crate) fn bytes(
        image: [usize; 3],
        patch: [usize; 3],
        channels: usize,
        outputs: usize,
        views: usize,
    ) -> u64 {
        let voxels = image.iter().product::<usize>();
        let curves = 8 * patch.iter().sum::<usize>();
        (4 * voxels * (channels + outputs + 1) + 16 * views + curves) as u64
    }
}

/// An image, and the sums of a network's views of it.
#[derive(Debug)]
pub(crate) struct Volume {
    tiling: Tiling,
    channels: usize,
    outputs: usize,
    views: usize,
    /// f32 `[channel][z][y][x]`.
    image: Buffer,
    /// f32 `[output][z][y][x]`.
    sums: Buffer,
    /// f32 `[z][y][x]`.
    weights: Buffer,
    /// As `WindowView` in the kernels.
    table: Buffer,
    curves: Buffer,
    /// The next view.
    cursor: Buffer,
}

impl Volume {
    /// Empty sums for an image `[channel][z][y][x]`.
    pub(crate) fn new(
        ctx: &Context,
        tiling: Tiling,
        image: &[f32],
        outputs: usize,
        views: &[View],
    ) -> Result<Self, GpuError> {
        let voxels: usize = tiling.image.iter().product();
        assert!(
            tiling.flips.is_power_of_two() && tiling.flips <= MOST_SAMPLES,
            "flips of three axes"
        );
        let (gpu, stream) = (&ctx.gpu, &ctx.stream);
        let table: Vec<u32> = views.iter().flat_map(View::words).collect();
        let curves = tiling.curves.concat();
        let volume = Self {
            channels: image.len() / voxels,
            outputs,
            views: views.len(),
            image: gpu.buffer(4 * image.len())?,
            sums: gpu.buffer(4 * outputs * voxels)?,
            weights: gpu.buffer(4 * voxels)?,
            table: gpu.buffer(4 * table.len())?,
            curves: gpu.buffer(8 * curves.len())?,
            cursor: gpu.buffer(4)?,
            tiling,
        };
        stream.upload(volume.image.pointer(), image)?;
        stream.upload(volume.table.pointer(), &table)?;
        stream.upload(volume.curves.pointer(), &curves)?;
        for sums in [&volume.sums, &volume.weights] {
            stream.fill(sums.pointer(), 0, sums.bytes())?;
        }
        Ok(volume)
    }

    /// All that [`Volume::cut`] and [`Volume::add`] build into their launches.
    pub(crate) fn key(&self) -> String {
        let Self { tiling, channels, outputs, views, image, sums, weights, table, curves, cursor } =
            self;
        let buffers = [image, sums, weights, table, curves, cursor].map(Buffer::pointer);
        format!("{tiling:?} {channels} {outputs} {views} {buffers:?}")
    }

    /// Back to the first view.
    pub(crate) fn rewind(&self, stream: &Stream) -> Result<(), GpuError> {
        stream.fill(self.cursor.pointer(), 0, 4)
    }

    /// The next views to a network's input; zeros for those beyond the last.
    pub(crate) fn cut(&self, ctx: &Context, to: &Tensor) {
        let (tiling, layout) = (&self.tiling, &to.layout);
        assert_eq!((tiling.patch, self.channels), (layout.size, layout.channels), "network input");
        let arguments = WindowCutArgs {
            image: self.image.pointer(),
            views: self.table.pointer(),
            cursor: self.cursor.pointer(),
            to: to.pointer,
            view_count: small(self.views),
            channels: small(self.channels),
            image_size: tiling.image.map(small),
            patch: tiling.patch.map(small),
            before: tiling.before.map(small),
            extent: tiling.extent.map(small),
        };
        let grid = [blocks(layout.voxels()), layout.pitch() / 8, layout.batch];
        ctx.launch(kernel!(to.element, "window_cut"), grid, THREADS, 0, &arguments);
    }

    /// Adds the logits of these views, and goes on to the next.
    pub(crate) fn add(&self, ctx: &Context, logits: &Tensor) {
        let (tiling, layout) = (&self.tiling, &logits.layout);
        assert_eq!((tiling.patch, self.outputs), (layout.size, layout.channels), "logits");
        assert_eq!(logits.element, Element::F32, "logits");
        // Flips of a tile are added at once: whole tiles, or parts of one.
        assert!(layout.batch.is_power_of_two(), "a batch of {} views", layout.batch);
        let samples = layout.batch.min(tiling.flips);
        for first_sample in (0..layout.batch).step_by(samples) {
            let arguments = WindowAddArgs {
                logits: logits.pointer,
                views: self.table.pointer(),
                cursor: self.cursor.pointer(),
                curves: self.curves.pointer(),
                sums: self.sums.pointer(),
                weights: self.weights.pointer(),
                view_count: small(self.views),
                first_sample: small(first_sample),
                samples: small(samples),
                channels: small(self.outputs),
                activation: tiling.activation as u32,
                smallest: tiling.smallest,
                image_size: tiling.image.map(small),
                patch: tiling.patch.map(small),
                before: tiling.before.map(small),
                extent: tiling.extent.map(small),
            };
            let grid = [blocks(tiling.extent.iter().product()), 1, 1];
            ctx.launch("window_add", grid, THREADS, 0, &arguments);
        }
        let cursor = self.cursor.pointer();
        let next = WindowNextArgs { cursor, batch: small(layout.batch), unused: 0 };
        ctx.launch("window_next", [1; 3], 32, 0, &next);
    }

    /// Sums divided by weights. Waits for them.
    pub(crate) fn means(self, ctx: &Context) -> Result<Maps, GpuError> {
        let voxels: usize = self.tiling.image.iter().product();
        let finite = &self.cursor;
        ctx.stream.upload(finite.pointer(), &[1u32])?;
        let arguments = WindowMeansArgs {
            sums: self.sums.pointer(),
            weights: self.weights.pointer(),
            finite: finite.pointer(),
            voxels: small(voxels),
            channels: small(self.outputs),
        };
        ctx.launch("window_means", [blocks(voxels), 1, 1], THREADS, 0, &arguments);
        ctx.check()?;
        let mut flag = [0u32];
        ctx.stream.download(finite.pointer(), &mut flag)?;
        let Self { sums, outputs, tiling, .. } = self;
        Ok(Maps { values: sums, outputs, size: tiling.image, finite: flag == [1] })
    }
}

impl View {
    fn words(&self) -> [u32; 4] {
        let [z, y, x] = self.first.map(small);
        let flips = (0..3).map(|axis| u32::from(self.flip[axis]) << axis).sum();
        [z, y, x, flips]
    }
}

/// Where a voxel along an axis takes its value from: weights times the values at two source voxels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    /// The two source voxels.
    pub at: [usize; 2],
    /// Their weights.
    pub weights: [f64; 2],
}

/// Linear interpolation onto another grid, one axis after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Resampling {
    /// The axes (0 is z) in the order in which they are interpolated; rounding knows it.
    pub order: [usize; 3],
    /// One tap per target voxel along z, y, x.
    pub axes: [Vec<Tap>; 3],
}

/// How interpolated values become a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decide<'a> {
    /// The largest value's output; of equals the first.
    Largest,
    /// The last of those above a threshold; none: 0.
    Above {
        /// The threshold.
        threshold: f32,
        /// Class of each output.
        classes: &'a [i16],
    },
}

/// Means of all views.
#[derive(Debug)]
pub(crate) struct Maps {
    /// f32 `[output][z][y][x]`.
    pub values: Buffer,
    pub outputs: usize,
    pub size: [usize; 3],
    /// No value is NaN or infinite.
    pub finite: bool,
}

impl Maps {
    /// Classes `[z][y][x]` of the target.
    pub(crate) fn classes(
        &self,
        ctx: &Context,
        resampling: &Resampling,
        decide: Decide<'_>,
    ) -> Result<Vec<i16>, GpuError> {
        let target = [0, 1, 2].map(|axis| resampling.axes[axis].len());
        let voxels: usize = target.iter().product();
        let (gpu, stream) = (&ctx.gpu, &ctx.stream);
        let mut taps = Vec::new();
        for axis in resampling.order {
            let words: Vec<u64> = resampling.axes[axis].iter().flat_map(Tap::words).collect();
            let inside = |tap: &Tap| tap.at.iter().all(|at| *at < self.size[axis]);
            assert!(resampling.axes[axis].iter().all(inside), "a tap beyond the map");
            let buffer = gpu.buffer(8 * words.len())?;
            stream.upload(buffer.pointer(), &words)?;
            taps.push(buffer);
        }
        let (rule, threshold, region_classes) = match decide {
            Decide::Largest => (0, 0.0, Vec::new()),
            Decide::Above { threshold, classes } => {
                assert_eq!(classes.len(), self.outputs, "a class per output");
                (1, threshold, classes.iter().map(|c| i32::from(*c)).collect())
            }
        };
        let regions = gpu.buffer(4 * region_classes.len())?;
        stream.upload(regions.pointer(), &region_classes)?;
        let classes = gpu.buffer(2 * voxels)?;
        let arguments = WindowClassesArgs {
            maps: self.values.pointer(),
            taps: [taps[0].pointer(), taps[1].pointer(), taps[2].pointer()],
            region_classes: regions.pointer(),
            classes: classes.pointer(),
            voxels: small(self.size.iter().product()),
            outputs: small(self.outputs),
            target_voxels: small(voxels),
            rule,
            stride: resampling.order.map(|axis| stride(self.size, axis)),
            target_stride: resampling.order.map(|axis| stride(target, axis)),
            target_size: resampling.order.map(|axis| small(target[axis])),
            threshold,
        };
        ctx.launch("window_classes", [blocks(voxels), 1, 1], THREADS, 0, &arguments);
        ctx.check()?;
        let mut found = vec![0i16; voxels];
        stream.download(classes.pointer(), &mut found)?;
        Ok(found)
    }
}

impl Tap {
    fn words(&self) -> [u64; 3] {
        let [near, far] = self.at.map(|at| u64::from(small(at)));
        [self.weights[0].to_bits(), self.weights[1].to_bits(), near | far << 32]
    }
}

/// Voxels from one to the next along an axis.
fn stride(size: [usize; 3], axis: usize) -> u32 {
    small(size[axis + 1..].iter().product())
}

fn blocks(voxels: usize) -> usize {
    voxels.div_ceil(THREADS as usize)
}
