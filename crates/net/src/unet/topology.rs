//! The network as a list of layers and named parameters, before any memory is taken.

use crate::Error;
use crate::geometry::{Direction, Geometry};
use artifact::plan::{Encoder, Network};
use std::ops::Range;

/// One named tensor in the flat parameter vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameter {
    pub name: String,
    /// PyTorch's: `[out, in, z, y, x]`, transposed convolutions `[in, out, z, y, x]`, else one axis.
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// What a layer does besides its linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Convolution, instance norm, leaky ReLU.
    Block,
    /// Convolution and instance norm at the end of a residual block; the skip and the leaky ReLU come behind.
    Residual,
    /// 1×1×1 convolution without bias and instance norm, on the skip of a residual block.
    Skip,
    /// Transposed convolution.
    Up,
    /// 1×1×1 segmentation head.
    Head,
}

impl Role {
    fn normed(self) -> bool {
        matches!(self, Self::Block | Self::Residual | Self::Skip)
    }
}

/// One layer with its place in the flat parameter vector.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Place in [`Topology::layers`].
    pub index: usize,
    pub name: String,
    pub role: Role,
    pub geometry: Geometry,
    pub inputs: usize,
    pub outputs: usize,
    /// Channels of the tensors on the small and on the large grid.
    pub small: Vec<usize>,
    pub large: Vec<usize>,
    pub weight: Range<usize>,
    /// Empty without bias.
    pub bias: Range<usize>,
    /// Scale and shift of the norm; empty without norm.
    pub gamma: Range<usize>,
    pub beta: Range<usize>,
}

impl Layer {
    pub(crate) fn forward(&self) -> Direction {
        if self.role == Role::Up { Direction::SmallToLarge } else { Direction::LargeToSmall }
    }

    pub(crate) fn backward(&self) -> Direction {
        if self.role == Role::Up { Direction::LargeToSmall } else { Direction::SmallToLarge }
    }
}

/// A residual block, by positions in its stage's list of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// The first convolution; the second follows.
    pub first: usize,
    /// The convolution on the skip, if the number of features changes.
    pub project: Option<usize>,
    pub stride: [usize; 3],
}

impl Block {
    /// The skip is average-pooled.
    pub(crate) fn pools(&self) -> bool {
        self.stride != [1; 3]
    }
}

/// Layers in the order in which they run; the indices below point into `layers`.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub layers: Vec<Layer>,
    pub parameters: Vec<Parameter>,
    /// Per stage: its convolutions; a residual encoder's stem is the first of stage 0.
    pub encoder: Vec<Vec<usize>>,
    /// Per stage of a residual encoder; empty for a plain one.
    pub blocks: Vec<Vec<Block>>,
    /// Per stage but the last.
    pub up: Vec<usize>,
    pub decoder: Vec<Vec<usize>>,
    pub head: Vec<usize>,
    /// Parameters that no loss depends on, in order: those of the heads without one. A step leaves them as they are.
    pub idle: Vec<Range<usize>>,
}

impl Topology {
    pub(crate) fn new(spec: &Network) -> Result<Self, Error> {
        spec.check().map_err(Error::Network)?;
        let empty = Self {
            layers: vec![],
            parameters: vec![],
            encoder: vec![],
            blocks: vec![],
            up: vec![],
            decoder: vec![],
            head: vec![],
            idle: vec![],
        };
        Ok(empty.build(spec))
    }

    fn build(mut self, spec: &Network) -> Self {
        let (stages, weights) = (spec.features.len(), loss_weights(spec));
        match spec.encoder {
            Encoder::Plain => self.build_plain(spec),
            Encoder::Residual => self.build_residual(spec),
        }
        (self.up, self.head) = (vec![0; stages - 1], vec![0; stages - 1]);
        self.decoder = vec![vec![]; stages - 1];
        for s in (0..stages - 1).rev() {
            let features = spec.features[s];
            let up = Geometry::transposed(spec.strides[s + 1]);
            let below = spec.features[s + 1];
            self.up[s] = self.add(format!("decoder.{s}.up"), Role::Up, up, &[below], features);
            for i in 0..spec.decoder_convs[s] {
                let inputs: &[usize] = if i == 0 { &[features, features] } else { &[features] };
                let geometry = Geometry::convolution(spec.kernels[s], [1; 3]);
                let name = format!("decoder.{s}.conv.{i}");
                let conv = self.add(name, Role::Block, geometry, inputs, features);
                self.decoder[s].push(conv);
            }
            let (name, point) =
                (format!("decoder.{s}.head"), Geometry::convolution([1; 3], [1; 3]));
            self.head[s] = self.add(name, Role::Head, point, &[features], spec.output_channels);
            if weights[s] == 0.0 {
                let head = &self.layers[self.head[s]];
                self.idle.push(head.weight.start..head.bias.end);
            }
        }
        self
    }

    fn build_plain(&mut self, spec: &Network) {
        for s in 0..spec.features.len() {
            let mut inputs = if s == 0 { spec.input_channels } else { spec.features[s - 1] };
            let mut convs = Vec::new();
            for i in 0..spec.encoder_convs[s] {
                let stride = if i == 0 { spec.strides[s] } else { [1; 3] };
                let geometry = Geometry::convolution(spec.kernels[s], stride);
                let name = format!("encoder.{s}.conv.{i}");
                convs.push(self.add(name, Role::Block, geometry, &[inputs], spec.features[s]));
                inputs = spec.features[s];
            }
            self.encoder.push(convs);
        }
    }

    fn build_residual(&mut self, spec: &Network) {
        let mut inputs = spec.features[0];
        let stem = Geometry::convolution(spec.kernels[0], [1; 3]);
        let name = "encoder.stem.conv".to_owned();
        let stem = self.add(name, Role::Block, stem, &[spec.input_channels], inputs);
        for s in 0..spec.features.len() {
            let features = spec.features[s];
            let mut layers = if s == 0 { vec![stem] } else { vec![] };
            let mut blocks = Vec::new();
            for b in 0..spec.encoder_convs[s] {
                let stride = if b == 0 { spec.strides[s] } else { [1; 3] };
                let name = |layer: &str| format!("encoder.{s}.block.{b}.{layer}");
                let conv = |stride| Geometry::convolution(spec.kernels[s], stride);
                let first = layers.len();
                layers.push(self.add(
                    name("conv.0"),
                    Role::Block,
                    conv(stride),
                    &[inputs],
                    features,
                ));
                let second = conv([1; 3]);
                layers.push(self.add(
                    name("conv.1"),
                    Role::Residual,
                    second,
                    &[features],
                    features,
                ));
                let project = (inputs != features).then_some(layers.len());
                if project.is_some() {
                    let point = Geometry::convolution([1; 3], [1; 3]);
                    layers.push(self.add(
                        name("skip.conv"),
                        Role::Skip,
                        point,
                        &[inputs],
                        features,
                    ));
                }
                blocks.push(Block { first, project, stride });
                inputs = features;
            }
            self.encoder.push(layers);
            self.blocks.push(blocks);
        }
    }

    /// Appends a layer and its parameters; returns its index.
    fn add(
        &mut self,
        name: String,
        role: Role,
        geometry: Geometry,
        inputs: &[usize],
        outputs: usize,
    ) -> usize {
        let (input, output) = (inputs.to_vec(), vec![outputs]);
        let (small, large) = if role == Role::Up { (input, output) } else { (output, input) };
        let [kz, ky, kx] = geometry.kernel;
        let shape = vec![small.iter().sum(), large.iter().sum(), kz, ky, kx];
        let weight = self.parameter(format!("{name}.weight"), shape);
        let bias = match role {
            Role::Skip => 0..0,
            _ => self.parameter(format!("{name}.bias"), vec![outputs]),
        };
        let (gamma, beta) = if role.normed() {
            let norm = name.replace(".conv", ".norm");
            let gamma = self.parameter(format!("{norm}.weight"), vec![outputs]);
            (gamma, self.parameter(format!("{norm}.bias"), vec![outputs]))
        } else {
            (0..0, 0..0)
        };
        let inputs = inputs.iter().sum();
        let index = self.layers.len();
        self.layers.push(Layer {
            index,
            name,
            role,
            geometry,
            inputs,
            outputs,
            small,
            large,
            weight,
            bias,
            gamma,
            beta,
        });
        index
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>) -> Range<usize> {
        let start = self.len();
        let range = start..start + shape.iter().product::<usize>();
        self.parameters.push(Parameter { name, shape, range: range.clone() });
        range
    }

    /// Numbers in all parameters.
    pub(crate) fn len(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.range.end)
    }

    /// Whether the encoder is made of residual blocks.
    pub(crate) fn residual(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Which of a stage's two activation buffers holds the encoder's result (the skip connection).
    pub(crate) fn skip(&self, stage: usize) -> usize {
        if self.residual() { 0 } else { (self.encoder[stage].len() + 1) % 2 }
    }

    /// Which of a stage's two activation buffers holds its last activation.
    pub(crate) fn last(&self, stage: usize) -> usize {
        match self.decoder.get(stage) {
            // The first decoder convolution writes beside the skip connection, each next one to the other buffer.
            Some(convs) => (self.skip(stage) + convs.len()) % 2,
            None => self.skip(stage),
        }
    }
}

/// Weights of the losses at the decoder's resolutions, full resolution first: halved each time, the last one 0, then
/// normalised (nnU-Net v2's deep supervision); without deep supervision full resolution alone.
pub(crate) fn loss_weights(spec: &Network) -> Vec<f64> {
    let outputs = spec.features.len() - 1;
    let mut weights: Vec<f64> = (0..outputs).map(|i| 0.5f64.powi(i as i32)).collect();
    if outputs > 1 {
        weights[outputs - 1] = 0.0;
    }
    if !spec.deep_supervision {
        weights[1..].fill(0.0);
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}
