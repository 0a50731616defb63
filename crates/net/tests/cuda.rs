//! Whole networks on the CUDA engine, which here runs on the simulator (and on a card, if `NNU_TEST_CUDA` is set),
//! against the CPU engine.

use artifact::plan::{Encoder, Network};
use kernels::test_gpus;
use ndarray::{Array4, Array5};
use net::{Device, Precision, UNet};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Anisotropic, with 30 features that are stored as 32, and a concatenation of unequal pitches.
fn anisotropic() -> Network {
    Network {
        encoder: Encoder::Plain,
        input_channels: 2,
        output_channels: 3,
        features: vec![6, 10, 12],
        kernels: vec![[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        encoder_convs: vec![2, 2, 2],
        decoder_convs: vec![2, 2],
        deep_supervision: true,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

/// 2D: depth 1.
fn flat() -> Network {
    Network {
        kernels: vec![[1, 3, 3]; 3],
        strides: vec![[1, 1, 1], [1, 2, 2], [1, 2, 2]],
        input_channels: 1,
        features: vec![8, 16, 16],
        ..anisotropic()
    }
}

/// Residual blocks: skips that are kept, pooled, convolved, and both.
fn residual() -> Network {
    Network {
        encoder: Encoder::Residual,
        input_channels: 1,
        features: vec![6, 9, 9],
        kernels: vec![[3, 3, 3]; 3],
        strides: vec![[1, 1, 1], [2, 2, 2], [1, 2, 2]],
        encoder_convs: vec![1, 2, 1],
        decoder_convs: vec![1, 1],
        ..anisotropic()
    }
}

fn networks() -> [(&'static str, Network, [usize; 3]); 3] {
    [
        ("anisotropic", anisotropic(), [4, 8, 12]),
        ("flat", flat(), [1, 12, 20]),
        ("residual", residual(), [4, 8, 12]),
    ]
}

fn batch(spec: &Network, patch: [usize; 3]) -> (Array5<f32>, Array4<i16>) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let [d, h, w] = patch;
    let image = Array5::from_shape_simple_fn((2, spec.input_channels, d, h, w), || {
        rng.random_range(-1.0f32..1.0)
    });
    let label = Array4::from_shape_simple_fn((2, d, h, w), || rng.random_range(0..3));
    (image, label)
}

/// Simulator and card, in both precisions, with the relative error that each may have: see [`close`].
fn devices() -> Vec<(Device, f64)> {
    let both = [(Precision::F32, 1e-3), (Precision::Bf16, 6e-2)];
    let on = |gpu: &kernels::Gpu| {
        both.map(|(precision, error)| (Device::on(gpu.clone(), "test", precision), error))
    };
    test_gpus().iter().flat_map(on).collect()
}

fn started(spec: &Network, device: &Device) -> UNet {
    let mut net = UNet::new(spec, device).unwrap();
    net.initialise(7).unwrap();
    net
}

/// Root mean square of the difference, by that of the expected.
fn distance<'a>(
    found: impl Iterator<Item = &'a f32>,
    expected: impl Iterator<Item = &'a f32>,
) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (f, e) in found.zip(expected) {
        difference += f64::from(f - e).powi(2);
        size += f64::from(*e).powi(2);
    }
    (difference / size).sqrt()
}

#[test]
fn logits_are_the_cpu_engines() {
    for (name, spec, patch) in networks() {
        let (image, _) = batch(&spec, patch);
        let expected = started(&spec, &Device::open("cpu").unwrap()).forward(image.view()).unwrap();
        for (device, tolerance) in devices() {
            let found = started(&spec, &device).forward(image.view()).unwrap();
            let distance = distance(found.iter(), expected.iter());
            println!("{name} {}: {distance:.2e}", device.describe());
            assert!(distance < tolerance, "{name} on {}: {distance}", device.describe());
        }
    }
}
