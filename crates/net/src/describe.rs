//! A network as a table: layers, shapes, parameters, work.

use crate::unet::{Role, Topology, loss_weights};
use crate::{Device, Error, UNet};
use artifact::plan::Network;
use std::fmt::Write;

/// Floating-point operations for one sample; a multiply-add counts 2, norms and activations are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// One forward pass.
    pub forward: f64,
    /// Forward, gradients of activations and of weights; the first convolution needs no gradient of its input.
    pub training: f64,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInfo {
    /// `encoder.0.conv.0`, `encoder.0.block.1.skip.conv`, `decoder.0.up`, `decoder.0.head`, …
    pub name: String,
    /// Input channels; concatenated tensors count together.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// z, y, x.
    pub kernel: [usize; 3],
    /// z, y, x.
    pub stride: [usize; 3],
    /// Output voxels z, y, x.
    pub size: [usize; 3],
    /// Numbers in weights, biases and norms.
    pub parameters: usize,
    /// Work of one forward pass of one sample.
    pub forward_flops: f64,
    /// Whether the layer runs in training; the heads of resolutions without a loss do not.
    pub trained: bool,
}

/// The layers in the order in which they run, for patches `[z, y, x]`.
///
/// # Errors
/// If the description contradicts itself.
pub fn layers(spec: &Network, patch: [usize; 3]) -> Result<Vec<LayerInfo>, Error> {
    Ok(of_topology(&Topology::new(spec)?, spec, patch))
}

pub(crate) fn of_topology(
    topology: &Topology,
    spec: &Network,
    patch: [usize; 3],
) -> Vec<LayerInfo> {
    let mut sizes = vec![patch];
    for stride in &spec.strides[1..] {
        let last = sizes[sizes.len() - 1];
        sizes.push([0, 1, 2].map(|a| last[a] / stride[a]));
    }
    let weights = loss_weights(spec);
    let mut stages = vec![0; topology.layers.len()];
    for (s, convs) in topology.encoder.iter().chain(&topology.decoder).enumerate() {
        let s = if s < topology.encoder.len() { s } else { s - topology.encoder.len() };
        convs.iter().for_each(|&layer| stages[layer] = s);
    }
    for s in 0..topology.up.len() {
        (stages[topology.up[s]], stages[topology.head[s]]) = (s, s);
    }
    let info = |(layer, &stage): (&crate::unet::Layer, &usize)| {
        let size = sizes[stage];
        let voxels = size.iter().product::<usize>() as f64;
        let taps = layer.geometry.taps() as f64;
        // Each output voxel of a transposed convolution with kernel = stride is reached by one tap.
        let taps = if layer.role == Role::Up { 1.0 } else { taps };
        LayerInfo {
            name: layer.name.clone(),
            inputs: layer.inputs,
            outputs: layer.outputs,
            kernel: layer.geometry.kernel,
            stride: layer.geometry.stride,
            size,
            parameters: layer.weight.len()
                + layer.bias.len()
                + layer.gamma.len()
                + layer.beta.len(),
            forward_flops: 2.0 * taps * (layer.inputs * layer.outputs) as f64 * voxels,
            trained: layer.role != Role::Head || weights[stage] > 0.0,
        }
    };
    topology.layers.iter().zip(&stages).map(info).collect()
}

pub(crate) fn work(layers: &[LayerInfo]) -> Work {
    let forward = layers.iter().filter(|l| l.trained).map(|l| l.forward_flops).sum();
    let first = layers.first().map_or(0.0, |l| l.forward_flops);
    Work { forward, training: 3.0 * forward - first }
}

/// The table that `nnu-net describe` prints; memory is that of `device`.
///
/// # Errors
/// If the description contradicts itself.
pub fn table(
    spec: &Network,
    device: &Device,
    batch: usize,
    patch: [usize; 3],
) -> Result<String, Error> {
    let layers = layers(spec, patch)?;
    let widest = layers.iter().map(|l| l.name.len()).max().unwrap_or(0).max(20);
    let triple = |t: [usize; 3]| format!("{}×{}×{}", t[0], t[1], t[2]);
    let mut out = String::new();
    let mut line = |cells: [String; 8]| {
        let [name, inputs, outputs, kernel, stride, size, parameters, flops] = cells;
        let _ = writeln!(
            out,
            "{name:<widest$} {inputs:>5} {outputs:>5}  {kernel:<6} {stride:<6} {size:<13} {parameters:>10} {flops:>9}"
        );
    };
    line(
        ["layer", "in", "out", "kernel", "stride", "output", "parameters", "GFLOP"]
            .map(String::from),
    );
    for l in &layers {
        line([
            l.name.clone(),
            l.inputs.to_string(),
            l.outputs.to_string(),
            triple(l.kernel),
            triple(l.stride),
            triple(l.size),
            l.parameters.to_string(),
            format!("{:.3}", l.forward_flops * batch as f64 / 1e9),
        ]);
    }
    let work = work(&layers);
    let parameters: usize = layers.iter().map(|l| l.parameters).sum();
    let gflop = |per_sample: f64| per_sample * batch as f64 / 1e9;
    let megabytes = |training| {
        UNet::memory_bytes(spec, device, batch, patch, training)
            .map(|bytes| bytes.div_ceil(1_000_000))
    };
    let _ = write!(
        out,
        "{parameters} parameters; batch {batch} of {}: forward {:.1} GFLOP, training iteration {:.1} GFLOP; \
         memory {} MB in training, {} MB for prediction with this batch",
        triple(patch),
        gflop(work.forward),
        gflop(work.training),
        megabytes(true)?,
        megabytes(false)?
    );
    Ok(out)
}
