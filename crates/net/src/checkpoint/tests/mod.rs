//! Files as nnU-Net's own code wrote them (`tests/golden/make_checkpoint.py`), ours beside them, and hostile ones.

mod files;
mod machine;

use crate::checkpoint::Export;
use artifact::npz::Named;
use artifact::plan::{Encoder, Network};
use std::path::{Path, PathBuf};

/// A file beside the script.
pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoint").join(name)
}

/// The script's 3D network.
pub(super) fn plain() -> Network {
    Network {
        encoder: Encoder::Plain,
        input_channels: 1,
        output_channels: 3,
        features: vec![4, 6, 8],
        kernels: vec![[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        encoder_convs: vec![2, 2, 1],
        decoder_convs: vec![2, 1],
        deep_supervision: true,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

/// The script's 2D network.
pub(super) fn residual() -> Network {
    Network {
        encoder: Encoder::Residual,
        features: vec![4, 6, 6],
        kernels: vec![[1, 3, 3]; 3],
        strides: vec![[1, 1, 1], [1, 2, 2], [1, 2, 1]],
        encoder_convs: vec![1, 2, 1],
        decoder_convs: vec![1, 1],
        ..plain()
    }
}

/// Plans and data set of a golden checkpoint.
pub(super) fn json(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

/// The bytes of an export.
pub(super) fn exported(network: &Network, name: &str, parameters: &Named) -> Vec<u8> {
    let json = json(name);
    let flat = network.encoder == Encoder::Residual;
    let export = Export {
        network,
        flat,
        plans: &json["plans"],
        dataset: &json["dataset"],
        configuration: if flat { "2d" } else { "3d_fullres" },
        fold: 3,
        epochs: 7,
        history: &[],
        mirror_axes: if flat { &[0, 1] } else { &[0, 1, 2] },
    };
    crate::checkpoint::encode(parameters, &export).unwrap()
}
