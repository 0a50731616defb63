//! The sums on a card: the image goes up once, and nothing comes back before the end.

use super::{Activation, Tick, Window, curves, flips, gaussian, view_list, views};
use crate::Error;
use crate::cuda::Context;
use crate::cuda::tensor::{Element, Tensor};
use crate::cuda::window::{self, Maps, Tiling, View, Volume};
pub use crate::cuda::window::{Decide, Resampling, Tap};
use crate::device::{Cuda, Device};
use crate::unet::UNet;
use artifact::plan::Network;
use artifact::recipe::Averaged;
use kernels::{Event, Gpu, GpuError};
use ndarray::{Array3, Array4, ArrayView4};
use std::collections::VecDeque;

/// Views go through the network together until a batch has about as many voxels: four patches of 128³.
const BATCH_VOXELS: usize = 1 << 23;

/// … but no more of them.
const MOST_VIEWS: usize = 16;

/// Of the card's memory that a prediction plans with; what the driver and a display take lies beside it.
const SHARE: f64 = 0.9;

/// Batches that wait for the card, or run there, while the program goes on: enough that it never idles, few enough that
/// progress is true and a signal soon heeded.
const AHEAD: usize = 2;

/// How a volume is predicted on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placement {
    /// Views that go through the network at once: a power of two.
    batch: usize,
    /// Of the network, its tiles and the volume.
    bytes: u64,
}

impl Placement {
    /// The largest batch that `memory` holds; none if there is no such batch. `network` gives the bytes that a network
    /// takes for a batch.
    ///
    /// The batch decides how a norm's statistics are cut into parts, and with them the last bits: it follows from the
    /// card's whole memory wherever the free one allows it.
    fn new(
        spec: &Network,
        window: &Window,
        shape: [usize; 3],
        memory: u64,
        network: &dyn Fn(usize) -> Result<u64, Error>,
    ) -> Result<Option<Self>, Error> {
        let voxels = shape.iter().product::<usize>();
        let patch = window.patch.iter().product::<usize>();
        // Kernels count voxels in 32 bits.
        if voxels.max(patch) > i32::MAX as usize {
            return Ok(None);
        }
        let views = views(shape, window);
        let (channels, outputs) = (spec.input_channels, spec.output_channels);
        let volume = Tiling::bytes(shape, window.patch, channels, outputs, views);
        let most = (BATCH_VOXELS / patch.max(1)).clamp(1, MOST_VIEWS);
        let mut batch = 1 << most.min(views.next_power_of_two()).ilog2();
        while batch > 0 {
            let bytes = volume + network(batch)?;
            if bytes <= memory {
                return Ok(Some(Self { batch, bytes }));
            }
            batch /= 2;
        }
        Ok(None)
    }
}

/// Memory of the card that a prediction may take if nothing else is there.
fn share(gpu: &Gpu) -> Result<u64, Error> {
    Ok((gpu.memory()?.total as f64 * SHARE) as u64)
}

/// Bytes of a card that the prediction of an image of this shape takes, network included; none if it doesn't fit, and
/// sums are made on the host.
///
/// # Errors
/// If the network's description contradicts itself, or the device fails.
pub fn card_bytes(
    spec: &Network,
    cuda: &Cuda,
    window: &Window,
    shape: [usize; 3],
) -> Result<Option<u64>, Error> {
    let device = Device::Cuda(cuda.clone());
    let network = |batch| UNet::memory_bytes(spec, &device, batch, window.patch, false);
    let placement = Placement::new(spec, window, shape, share(cuda.gpu())?, &network)?;
    Ok(placement.map(|placement| placement.bytes))
}

/// A queue that is empty before what was declared behind it is dropped.
#[derive(Debug)]
struct Queue(Context);

impl Drop for Queue {
    fn drop(&mut self) {
        // What failed was told, or nobody wants to know.
        let _ = self.0.stream.synchronise();
    }
}

/// As [`super::Accumulator`], in the memory of a network's card.
#[derive(Debug)]
pub struct CardSums {
    /// Of its own, as networks come and go.
    queue: Queue,
    volume: Volume,
    views: usize,
    batch: usize,
    patch: [usize; 3],
}

impl CardSums {
    /// Takes an image `[channel, z, y, x]` to the card of a network; none if it doesn't fit there, or the network is
    /// on no card.
    ///
    /// # Errors
    /// If the card fails.
    ///
    /// # Panics
    /// If the patch has an edge of 0, or step or sigma is not positive.
    pub fn new(
        net: &UNet,
        image: ArrayView4<'_, f32>,
        window: &Window,
    ) -> Result<Option<Self>, Error> {
        assert!(!window.patch.contains(&0), "patch {:?} has an edge of 0", window.patch);
        assert!(window.step > 0.0 && window.gaussian_sigma > 0.0, "step and sigma are positive");
        let Some(gpu) = net.gpu() else { return Ok(None) };
        let (_, z, y, x) = image.dim();
        let network = |batch| net.views_bytes(batch, window.patch);
        let memory = share(gpu)?.min(gpu.memory()?.free + net.held_bytes()?);
        let placement = Placement::new(net.spec(), window, [z, y, x], memory, &network)?;
        let Some(Placement { batch, .. }) = placement else { return Ok(None) };
        match Self::with_batch(gpu, net.spec().output_channels, image, window, batch) {
            // Others on the card took what was free.
            Err(Error::Gpu(GpuError::Memory { .. })) => Ok(None),
            sums => sums.map(Some),
        }
    }

    /// With so many views at once: a power of two.
    pub(crate) fn with_batch(
        gpu: &Gpu,
        outputs: usize,
        image: ArrayView4<'_, f32>,
        window: &Window,
        batch: usize,
    ) -> Result<Self, Error> {
        let (_, z, y, x) = image.dim();
        let (tiling, views) = tiling([z, y, x], window);
        // Activations are the network's affair.
        let queue = Queue(Context::new(gpu.clone(), Element::F32)?);
        let image = image.as_standard_layout();
        let values = image.as_slice().unwrap_or(&[]);
        let volume = Volume::new(&queue.0, tiling, values, outputs, &views)?;
        Ok(Self { queue, volume, views: views.len(), batch, patch: window.patch })
    }

    /// Adds all views of a network on the same card. After an error the sums are incomplete and of no use.
    ///
    /// # Errors
    /// If the network is elsewhere or the card fails, and those of `tick`, which is told of views that are queued: the
    /// card is at most a few batches behind.
    pub fn add<E: From<Error>>(&mut self, net: &mut UNet, tick: &mut Tick<'_, E>) -> Result<(), E> {
        let mut marks = VecDeque::new();
        let result = self.queue_views(net, tick, &mut marks);
        // The own queue is behind all that works with the volume, also after an error.
        let own = &self.queue.0.stream;
        let behind = marks.iter().try_for_each(|mark| own.wait(mark));
        result?;
        behind.map_err(|e| Error::from(e).into())
    }

    fn queue_views<E: From<Error>>(
        &self,
        net: &mut UNet,
        tick: &mut Tick<'_, E>,
        marks: &mut VecDeque<Event>,
    ) -> Result<(), E> {
        let Self { batch, volume, .. } = self;
        let own = &self.queue.0.stream;
        let fail = |e: GpuError| E::from(Error::from(e));
        volume.rewind(own).map_err(fail)?;
        net.begin_views(*batch, self.patch, &own.record().map_err(fail)?)?;
        let key = volume.key();
        for first in (0..self.views).step_by(*batch) {
            let cut = |ctx: &Context, input: &Tensor| volume.cut(ctx, input);
            let add = |ctx: &Context, logits: &Tensor| volume.add(ctx, logits);
            marks.push_back(net.forward_views(&key, &cut, &add)?);
            if marks.len() > AHEAD
                && let Some(mark) = marks.pop_front()
            {
                own.wait(&mark).and_then(|()| own.synchronise()).map_err(fail)?;
            }
            tick(*batch.min(&(self.views - first)))?;
        }
        Ok(())
    }

    /// The averages of what [`Window::averaged`] names; waits for the card.
    ///
    /// # Errors
    /// If the card fails.
    pub fn means(self) -> Result<CardMeans, Error> {
        let Self { queue, volume, .. } = self;
        let maps = volume.means(&queue.0)?;
        Ok(CardMeans { queue, maps })
    }
}

/// The kernels' view of a window over an image of this shape, and the views.
pub(crate) fn tiling(shape: [usize; 3], window: &Window) -> (Tiling, Vec<View>) {
    let views = view_list(shape, window);
    // Every tile covers as much, at the same place in itself.
    let (tile, _) = views[0];
    let activation = match (window.averaged, window.activation) {
        (Averaged::Logits, _) => window::Activation::None,
        (Averaged::Probabilities, Activation::Softmax) => window::Activation::Softmax,
        (Averaged::Probabilities, Activation::Sigmoid) => window::Activation::Sigmoid,
    };
    let weights = gaussian(window.patch, window.gaussian_sigma);
    let tiling = Tiling {
        image: shape,
        patch: window.patch,
        before: tile.tile,
        extent: tile.shape,
        flips: flips(window).len(),
        curves: curves(window.patch, window.gaussian_sigma),
        smallest: weights.iter().copied().fold(1.0, f32::min),
        activation,
    };
    (tiling, views.iter().map(|&(tile, flip)| View { first: tile.image, flip }).collect())
}

/// Averages in a card's memory.
#[derive(Debug)]
pub struct CardMeans {
    queue: Queue,
    maps: Maps,
}

impl CardMeans {
    /// No value is NaN or infinite.
    pub fn finite(&self) -> bool {
        self.maps.finite
    }

    /// Copies them to the host: `[output, z, y, x]`.
    ///
    /// # Errors
    /// If the card fails.
    pub fn download(&self) -> Result<Array4<f32>, Error> {
        let [z, y, x] = self.maps.size;
        let mut means = Array4::<f32>::zeros((self.maps.outputs, z, y, x));
        if let Some(values) = means.as_slice_mut() {
            self.queue.0.stream.download(self.maps.values.pointer(), values)?;
        }
        Ok(means)
    }

    /// Classes `[z, y, x]` on another grid; none if they don't fit onto the card.
    ///
    /// # Errors
    /// If the card fails.
    ///
    /// # Panics
    /// If the grid refers to voxels that aren't there, or there isn't a class per output.
    pub fn classes(
        &self,
        grid: &Resampling,
        decide: Decide<'_>,
    ) -> Result<Option<Array3<i16>>, Error> {
        let target = [0, 1, 2].map(|axis| grid.axes[axis].len());
        // Kernels count voxels in 32 bits.
        if target.iter().product::<usize>() > i32::MAX as usize {
            return Ok(None);
        }
        match self.maps.classes(&self.queue.0, grid, decide) {
            Ok(classes) => Ok(Array3::from_shape_vec(target, classes).ok()),
            Err(GpuError::Memory { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
