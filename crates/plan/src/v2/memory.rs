//! How much memory a network takes: the elements of all convolutions' outputs for one sample, as nnU-Net counts them.

use artifact::plan::{Encoder, Network};

/// Elements of the outputs of all convolutions and transposed convolutions of encoder and decoder and of the segmentation
/// head at full resolution with `outputs` channels, for one sample of `patch` voxels. A residual block counts its two
/// convolutions, and once more where its skip is not the identity.
pub fn estimate(network: &Network, patch: [usize; 3], outputs: usize) -> u64 {
    let mut edges = patch;
    let mut voxels = Vec::new();
    for stride in &network.strides {
        edges = std::array::from_fn(|axis| edges[axis] / stride[axis]);
        voxels.push(edges.iter().map(|&edge| edge as u64).product::<u64>());
    }
    let elements = |stage: usize| network.features[stage] as u64 * voxels[stage];
    // Without a decoder there is no head.
    let mut total = if network.decoder_convs.is_empty() { 0 } else { outputs as u64 * voxels[0] };
    for (stage, &count) in network.encoder_convs.iter().enumerate() {
        let layers = match network.encoder {
            Encoder::Plain => count as u64,
            Encoder::Residual => {
                let before = stage.saturating_sub(1);
                let changes = network.features[before] != network.features[stage]
                    || network.strides[stage] != [1; 3];
                2 * count as u64 + u64::from(changes) + u64::from(stage == 0)
            }
        };
        total += layers * elements(stage);
    }
    for (stage, &count) in network.decoder_convs.iter().enumerate() {
        total += (count as u64 + 1) * elements(stage);
    }
    total
}
