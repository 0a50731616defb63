//! What nnU-Net calls a network's tensors (`dynamic_network_architectures`' PlainConvUNet and ResidualEncoderUNet).
//!
//! Every convolution and norm has two names, its own and its place in `all_modules`; the whole encoder is there once
//! more as `decoder.encoder`. A strict load wants them all.

use crate::unet::{Parameter, Topology};

/// One of our parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub ours: String,
    /// PyTorch's shape; 2D networks have one axis fewer.
    pub shape: Vec<usize>,
    /// The first one is its own name, the others repeat it.
    pub theirs: Vec<String>,
}

/// All parameters in network order. In `flat` networks the z axis (of length 1) is absent.
pub(super) fn of(topology: &Topology, flat: bool) -> Vec<Names> {
    let one = |p: &Parameter| {
        let mut shape = p.shape.clone();
        if flat && shape.len() == 5 {
            shape.remove(2);
        }
        Names { ours: p.name.clone(), shape, theirs: theirs(topology, &p.name) }
    };
    topology.parameters.iter().map(one).collect()
}

fn theirs(topology: &Topology, ours: &str) -> Vec<String> {
    let deepest = topology.decoder.len();
    let number = |text: &str| text.parse::<usize>().unwrap_or_default();
    let step = |stage: &str| deepest - 1 - number(stage);
    let parts: Vec<&str> = ours.split('.').collect();
    // The module, the part of it, and weight or bias.
    let (module, part, what) = match parts[..] {
        ["encoder", "stem", part, what] => ("encoder.stem.convs.0".into(), part, what),
        ["encoder", s, "block", b, "skip", part, what] => {
            // An average pool comes first where the block is strided; it has no tensors.
            let place = usize::from(topology.blocks[number(s)][number(b)].pools());
            (format!("encoder.stages.{s}.blocks.{b}.skip.{place}"), part, what)
        }
        ["encoder", s, "block", b, part, i, what] => {
            (format!("encoder.stages.{s}.blocks.{b}.conv{}", number(i) + 1), part, what)
        }
        ["encoder", s, part, i, what] => (format!("encoder.stages.{s}.0.convs.{i}"), part, what),
        ["decoder", s, "up", what] => {
            return vec![format!("decoder.transpconvs.{}.{what}", step(s))];
        }
        ["decoder", s, "head", what] => {
            return vec![format!("decoder.seg_layers.{}.{what}", step(s))];
        }
        ["decoder", s, part, i, what] => {
            (format!("decoder.stages.{}.convs.{i}", step(s)), part, what)
        }
        _ => unreachable!("parameter {ours}"),
    };
    let place = usize::from(part == "norm");
    let own = [format!("{module}.{part}.{what}"), format!("{module}.all_modules.{place}.{what}")];
    let again = own.iter().map(|name| format!("decoder.{name}"));
    if ours.starts_with("encoder.") {
        own.iter().cloned().chain(again).collect()
    } else {
        own.into()
    }
}

/// A name without what `DataParallel` and `torch.compile` put before it.
pub(super) fn bare(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("module.").or_else(|| name.strip_prefix("_orig_mod."))
    {
        name = rest;
    }
    name
}
