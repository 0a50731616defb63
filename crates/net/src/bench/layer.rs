//! One convolution with its norm on noise, operation by operation, for benchmarks.

use crate::Error;
use crate::device::Cpu;
use crate::engine::{Engine, Wanted};
use crate::host::engine::Host;
use crate::layout::Layout;
use crate::unet::{Topology, initialise};
use artifact::plan::{Encoder, Network};
use ndarray::Array5;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What is done to a 3×3×3 convolution with as many inputs as outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The convolution, with the moments of its outputs.
    Convolution,
    /// Gradient of its input.
    InputGradient,
    /// Gradient of its weights.
    WeightGradient,
    /// Instance norm and leaky ReLU.
    Norm,
    /// Their gradient, in place.
    NormGradient,
}

/// A convolution on the CPU, with its memory.
#[derive(Debug)]
pub struct OneLayer {
    held: Box<dyn Held>,
    /// Of the convolution and each of its gradients; a multiply-add counts 2.
    pub flops: f64,
}

trait Held: std::fmt::Debug {
    fn run(&mut self, operation: Operation);
}

#[derive(Debug)]
struct On<E: Engine> {
    engine: E,
    topology: Topology,
    weights: E::Weights,
    x: E::Tensor,
    y: E::Tensor,
    gradient_of_y: E::Tensor,
    gradient_of_x: E::Tensor,
    gradient: E::Vector,
    moments: E::Moments,
    scratch: E::Scratch,
}

impl OneLayer {
    /// For `[batch, channels, z, y, x]` on both sides.
    ///
    /// # Errors
    /// If there are no channels.
    pub fn new(cpu: &Cpu, batch: usize, channels: usize, size: [usize; 3]) -> Result<Self, Error> {
        let layout = Layout { batch, channels, size, halo: [1; 3] };
        let flops = 2.0 * 27.0 * (channels * channels * batch * layout.voxels()) as f64;
        let engine = Host { cpu: *cpu, norm_epsilon: 1e-5 };
        Ok(Self { held: Box::new(On::new(engine, layout)?), flops })
    }

    /// Does it once.
    pub fn run(&mut self, operation: Operation) {
        self.held.run(operation);
    }
}

impl<E: Engine> On<E> {
    fn new(engine: E, layout: Layout) -> Result<Self, Error> {
        let spec = network(layout.channels);
        let topology = Topology::new(&spec)?;
        let mut weights = engine.weights(&topology)?;
        let mut values = vec![0.0; topology.len()];
        initialise(&topology, 0, &mut values);
        engine.set_values(&mut weights, values)?;
        engine.refresh(&topology, &mut weights, true);
        let [first, second] = [0, 1].map(|i| &topology.layers[topology.encoder[0][i]]);
        let wanted = [(first, layout.with_channels(1)), (second, layout)].map(|(layer, large)| {
            Wanted { layer, large: vec![large], small: layout, training: true }
        });
        let mut arena = engine.arena(0)?;
        let mut scratch = engine.scratch(&wanted)?;
        let mut moments = engine.moments(&mut arena, second, layout.batch);
        let mut tensors = [(); 4].map(|()| engine.tensor(&mut arena, layout));
        // Noise through the first convolution fills all of them: matrix units are faster on zeros.
        let mut input = engine.input(&mut arena, layout.with_channels(1), true);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let [d, h, w] = layout.size;
        for tensor in &mut tensors {
            let noise = Array5::from_shape_simple_fn((layout.batch, 1, d, h, w), || {
                rng.random_range(-1.0f32..1.0)
            });
            engine.receive(noise.view(), None, &mut input)?;
            engine.unpack(&mut input);
            let source = [E::image(&input)];
            engine.convolve(&weights, first, &source, tensor, &mut scratch, &mut moments);
            engine.normalise(None, &moments, 0.01, tensor);
        }
        let gradient = engine.vector(topology.len())?;
        let [x, y, gradient_of_y, gradient_of_x] = tensors;
        Ok(Self {
            engine,
            topology,
            weights,
            x,
            y,
            gradient_of_y,
            gradient_of_x,
            gradient,
            moments,
            scratch,
        })
    }
}

impl<E: Engine> Held for On<E> {
    fn run(&mut self, operation: Operation) {
        let Self { engine, weights, x, y, gradient, moments, scratch, .. } = self;
        let (dy, dx) = (&mut self.gradient_of_y, &mut self.gradient_of_x);
        let layer = &self.topology.layers[self.topology.encoder[0][1]];
        match operation {
            Operation::Convolution => engine.convolve(weights, layer, &[x], y, scratch, moments),
            Operation::InputGradient => {
                engine.input_backward(weights, layer, dy, &mut [dx], false);
            }
            Operation::WeightGradient => {
                engine.weights_backward(layer, &[x], dy, scratch, gradient);
            }
            Operation::Norm => engine.normalise(Some(y), moments, 0.01, dx),
            Operation::NormGradient => {
                engine.norm_backward(layer, y, moments, 0.01, scratch, dx, gradient);
            }
        }
    }
}

/// The smallest network with such a layer: the second of its first stage.
fn network(channels: usize) -> Network {
    Network {
        encoder: Encoder::Plain,
        input_channels: 1,
        output_channels: 2,
        features: vec![channels; 2],
        kernels: vec![[3; 3]; 2],
        strides: vec![[1; 3], [2; 3]],
        encoder_convs: vec![2, 1],
        decoder_convs: vec![1],
        deep_supervision: false,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}
