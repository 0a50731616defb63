//! What the passes ask of a device, and the devices' answers.
//!
//! The passes over a U-Net ([`crate::unet`]) are written once, over this trait; an engine knows tensors, layers and
//! memory, and nothing of the network's shape. The CPU engine runs each operation when it is called; the CUDA engine
//! queues it and tells failures when results are read.

pub(crate) mod cuda;

use crate::layout::Layout;
use crate::loss::LossOptions;
use crate::ops::loss::Terms;
use crate::optimiser::Optimiser;
use crate::unet::{Layer, Topology};
use crate::{Error, Loss};
use ndarray::{ArrayView4, ArrayView5, ArrayViewMut5};
use std::fmt::Debug;

/// A device.
///
/// Layers come with what they are in the network ([`Layer`]: geometry, places in the parameters). Arguments named
/// `large` and `small` are the two grids of [`crate::geometry`].
pub(crate) trait Engine: Debug {
    /// An activation or its gradient.
    type Tensor: Debug + Default;
    /// A batch as it comes: images, and labels if it has them.
    type Input: Debug;
    /// The output of a head, its gradient, and the labels at its resolution.
    type Logits: Debug;
    /// Mean, deviation, scale and shift per sample and channel behind one layer.
    type Moments: Debug;
    /// Parameters, and what is derived from them.
    type Weights: Debug;
    /// One number per parameter.
    type Vector: Debug;
    /// Memory between the steps of one operation.
    type Scratch: Debug;
    /// Gives out tensors.
    type Arena;
    /// Work that was recorded.
    type Recording: Debug + Default;

    /// Refuses what the machine hasn't the memory for, before any of it is taken: an allocation that fails would end the
    /// process. A card says so itself.
    ///
    /// # Errors
    /// [`Error::Memory`].
    fn admit(&self, bytes: u64) -> Result<(), Error> {
        stage::memory::require(bytes as f64).map_err(|e| Error::Memory(e.message))
    }
    /// Parameters of a network, all zero.
    fn weights(&self, topology: &Topology) -> Result<Self::Weights, Error>;
    /// Copies them to the host, in the topology's order.
    fn values(&self, weights: &Self::Weights) -> Result<Vec<f32>, Error>;
    /// Replaces them.
    fn set_values(&self, weights: &mut Self::Weights, values: Vec<f32>) -> Result<(), Error>;
    /// Brings up to date what a forward pass, or a backward pass too, derives from the parameters.
    fn refresh(&self, topology: &Topology, weights: &mut Self::Weights, backward: bool);
    /// What was derived from the parameters is out of date: a recording changes them without this engine seeing it.
    fn touch(&self, weights: &mut Self::Weights);
    /// Zeros.
    fn vector(&self, length: usize) -> Result<Self::Vector, Error>;
    /// Copies a vector to the host.
    fn read(&self, vector: &Self::Vector) -> Result<Vec<f32>, Error>;
    /// Counts a step, and readies the optimiser's state for [`Engine::update`].
    fn begin_update(
        &self,
        topology: &Topology,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    ) -> Result<(), Error>;
    /// The step that was begun; the gradient is clipped in place.
    fn update(
        &self,
        weights: &mut Self::Weights,
        gradient: &mut Self::Vector,
        optimiser: &mut Optimiser,
        learning_rate: f64,
    );
    /// Runs `work`, or a recording of it: all that differs from call to call under the same key lies in memory.
    fn recorded(
        &self,
        recording: &mut Self::Recording,
        key: &str,
        work: &mut dyn FnMut(),
    ) -> Result<(), Error>;
    /// Bytes of parameters, and for training gradients and the optimiser's state (AMSGrad's maximum included).
    fn parameter_bytes(&self, topology: &Topology, training: bool) -> usize;

    /// Memory for what [`Engine::tensor`] and its like will be asked for.
    fn arena(&self, bytes: usize) -> Result<Self::Arena, Error>;
    /// One that only counts.
    fn counting_arena(&self) -> Self::Arena;
    /// Bytes given out.
    fn given(arena: &Self::Arena) -> usize;
    /// A tensor for activations, zero.
    fn tensor(&self, arena: &mut Self::Arena, layout: Layout) -> Self::Tensor;
    /// The network's input; with labels for training.
    fn input(&self, arena: &mut Self::Arena, layout: Layout, training: bool) -> Self::Input;
    /// A head's output; with gradients for training.
    fn logits(&self, arena: &mut Self::Arena, layout: Layout, training: bool) -> Self::Logits;
    /// Moments behind a layer, for one batch.
    fn moments(&self, arena: &mut Self::Arena, layer: &Layer, batch: usize) -> Self::Moments;
    /// Scratch for all the operations that a workspace will see.
    fn scratch(&self, wanted: &[Wanted<'_>]) -> Result<Self::Scratch, Error>;
    /// Bytes of that.
    fn scratch_bytes(&self, wanted: &[Wanted<'_>]) -> usize;

    /// Takes over images `[n, c, z, y, x]` and labels `[n, z, y, x]`.
    fn receive(
        &self,
        x: ArrayView5<'_, f32>,
        target: Option<ArrayView4<'_, i16>>,
        input: &mut Self::Input,
    ) -> Result<(), Error>;
    /// Lays out what was received as a tensor.
    fn unpack(&self, input: &mut Self::Input);
    /// That tensor.
    fn image(input: &Self::Input) -> &Self::Tensor;
    /// Writes logits `[n, class, z, y, x]`.
    fn export(&self, logits: &Self::Logits, out: ArrayViewMut5<'_, f32>) -> Result<(), Error>;

    /// Convolution, and the moments of its output.
    fn convolve(
        &self,
        weights: &Self::Weights,
        layer: &Layer,
        source: &[&Self::Tensor],
        out: &mut Self::Tensor,
        scratch: &mut Self::Scratch,
        moments: &mut Self::Moments,
    );
    /// a = leaky(norm(y)); without `y`, `a` holds y and is overwritten.
    fn normalise(
        &self,
        y: Option<&Self::Tensor>,
        moments: &Self::Moments,
        slope: f32,
        a: &mut Self::Tensor,
    );
    /// Transposed convolution.
    fn up(
        &self,
        weights: &Self::Weights,
        layer: &Layer,
        small: &Self::Tensor,
        large: &mut Self::Tensor,
    );
    /// Segmentation head.
    fn head(
        &self,
        weights: &Self::Weights,
        layer: &Layer,
        a: &Self::Tensor,
        logits: &mut Self::Logits,
    );
    /// leaky(norm(y) + skip); without `skip`, `out` holds the skip.
    fn add_skip(
        &self,
        y: &Self::Tensor,
        moments: &Self::Moments,
        skip: Option<&Self::Tensor>,
        slope: f32,
        out: &mut Self::Tensor,
    );
    /// Mean over boxes of `stride`.
    fn average(&self, stride: [usize; 3], from: &Self::Tensor, to: &mut Self::Tensor);

    /// Readies what the loss needs to know of labels, for a network of so many output channels.
    fn begin_loss(&mut self, options: &LossOptions, channels: usize) -> Result<(), Error>;
    /// The labels at a head's resolution: the voxel at each coarse voxel's centre, the upper one of two (torch's
    /// `nearest-exact`).
    fn set_target(&self, input: &Self::Input, logits: &mut Self::Logits);
    /// Loss at one head; with `scale`, its gradient times `scale` afterwards is the logits' gradient.
    fn loss(&self, logits: &mut Self::Logits, options: &LossOptions, scale: Option<f64>);
    /// The terms of the last [`Engine::loss`].
    fn terms(&self, logits: &Self::Logits) -> Result<Terms, Error>;
    /// Gradient of the logits.
    fn logits_gradient(logits: &Self::Logits) -> &Self::Tensor;

    /// Sets all gradients to zero.
    fn clear(&self, gradient: &mut Self::Vector);
    /// Gradient of a layer's weights.
    fn weights_backward(
        &self,
        layer: &Layer,
        large: &[&Self::Tensor],
        small: &Self::Tensor,
        scratch: &mut Self::Scratch,
        gradient: &mut Self::Vector,
    );
    /// Gradient of a layer's bias: the sum over the output's gradient.
    fn bias_backward(&self, layer: &Layer, dy: &Self::Tensor, gradient: &mut Self::Vector);
    /// Gradient of a transposed convolution's input.
    fn up_backward(
        &self,
        weights: &Self::Weights,
        layer: &Layer,
        large: &Self::Tensor,
        small: &mut Self::Tensor,
    );
    /// Gradient of a convolution's inputs, written or added.
    fn input_backward(
        &self,
        weights: &Self::Weights,
        layer: &Layer,
        small: &Self::Tensor,
        large: &mut [&mut Self::Tensor],
        add: bool,
    );
    /// From the gradient behind a layer's norm and leaky ReLU to that of its convolution's output, in place.
    fn norm_backward(
        &self,
        layer: &Layer,
        y: &Self::Tensor,
        moments: &Self::Moments,
        slope: f32,
        scratch: &mut Self::Scratch,
        da: &mut Self::Tensor,
        gradient: &mut Self::Vector,
    );
    /// Of [`Engine::add_skip`]: `da` turns into the skip's gradient, `dy` gets that of `y`.
    fn add_skip_backward(
        &self,
        layer: &Layer,
        y: &Self::Tensor,
        out: &Self::Tensor,
        moments: &Self::Moments,
        slope: f32,
        scratch: &mut Self::Scratch,
        da: &mut Self::Tensor,
        dy: &mut Self::Tensor,
        gradient: &mut Self::Vector,
    );
    /// Of [`Engine::average`]: adds to `to`.
    fn spread(&self, stride: [usize; 3], from: &Self::Tensor, to: &mut Self::Tensor);
}

/// An operation that will want scratch: a layer between its grids, in training or not.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    pub layer: &'a Layer,
    pub large: Vec<Layout>,
    pub small: Layout,
    pub training: bool,
}

/// The weighted sum over the resolutions.
pub(crate) fn total(terms: &[(f64, Terms)], options: &LossOptions) -> Loss {
    let sum = |of: fn(&Terms) -> f64| terms.iter().map(|(w, t)| w * of(t)).sum::<f64>();
    let (dice, cross_entropy) = (sum(|t| t.dice), sum(|t| t.cross_entropy));
    Loss {
        total: f64::from(options.dice_weight) * dice
            + f64::from(options.cross_entropy_weight) * cross_entropy,
        dice,
        cross_entropy,
        counts: terms.first().map_or(vec![], |(_, t)| t.counts.clone()),
    }
}

/// Where the gradients of a layer's norm go: scale, then shift.
pub(crate) fn norm_gradients<'a>(
    layer: &Layer,
    gradient: &'a mut [f32],
) -> (&'a mut [f32], &'a mut [f32]) {
    gradient[layer.gamma.start..layer.beta.end].split_at_mut(layer.gamma.len())
}
