//! Six whole networks against PyTorch in float64, three of them nnU-Net's own residual ones with its own losses: logits,
//! loss, every gradient, and five steps of both optimisers.

use artifact::plan::{Encoder, Network};
use ndarray::{Array, ArrayD, Dimension, Ix1, Ix2, Ix4, Ix5};
use net::{
    AdamOptions, Cpu, Device, LossOptions, Optimiser, Outputs, Precision, SgdOptions, Targets,
    UNet, Unit,
};
use std::collections::BTreeMap;
use std::path::Path;

struct Golden {
    arrays: BTreeMap<String, ArrayD<f32>>,
    network: Network,
    loss: LossOptions,
}

fn golden(name: &'static str, network: Network, loss: LossOptions) -> (&'static str, Golden) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.npz"));
    let arrays = artifact::npz::read(&path).expect("golden file").into_iter().collect();
    (name, Golden { arrays, network, loss })
}

fn dice(batch_dice: bool, dice_background: bool) -> LossOptions {
    LossOptions { batch_dice, dice_background, ..LossOptions::default() }
}

/// Every network.
fn all() -> Vec<(&'static str, Golden)> {
    plain().into_iter().chain(residual()).collect()
}

/// The networks of `golden/make_golden.py`.
fn plain() -> Vec<(&'static str, Golden)> {
    let base = Network {
        encoder: Encoder::Plain,
        input_channels: 1,
        output_channels: 3,
        features: vec![4, 8, 6],
        kernels: vec![[1, 3, 3]; 3],
        strides: vec![[1, 1, 1], [1, 2, 2], [1, 2, 2]],
        encoder_convs: vec![2; 3],
        decoder_convs: vec![2; 2],
        deep_supervision: false,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    };
    let isotropic = Network {
        encoder: Encoder::Plain,
        input_channels: 2,
        output_channels: 2,
        features: vec![5, 8],
        kernels: vec![[3, 3, 3]; 2],
        strides: vec![[1, 1, 1], [2, 2, 2]],
        encoder_convs: vec![2; 2],
        decoder_convs: vec![2],
        ..base.clone()
    };
    let anisotropic = Network {
        output_channels: 4,
        features: vec![4, 6, 7, 5],
        kernels: vec![[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 1, 2]],
        encoder_convs: vec![1, 2, 3, 2],
        decoder_convs: vec![1, 3, 2],
        deep_supervision: true,
        ..base.clone()
    };
    vec![
        golden("2d", base, dice(true, false)),
        golden("3d_isotropic", isotropic, dice(false, true)),
        golden("3d_anisotropic", anisotropic, dice(true, false)),
    ]
}

/// The networks of `golden/make_residual.py`.
fn residual() -> Vec<(&'static str, Golden)> {
    let flat = Network {
        encoder: Encoder::Residual,
        input_channels: 1,
        output_channels: 3,
        features: vec![4, 8, 8],
        kernels: vec![[1, 3, 3]; 3],
        strides: vec![[1, 1, 1], [1, 2, 2], [1, 2, 1]],
        encoder_convs: vec![1, 2, 2],
        decoder_convs: vec![1, 1],
        deep_supervision: true,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    };
    let isotropic = Network {
        input_channels: 2,
        output_channels: 2,
        features: vec![4, 6, 5, 5],
        kernels: vec![[3, 3, 3]; 4],
        strides: vec![[1, 1, 1], [2, 2, 2], [1, 1, 1], [1, 1, 1]],
        encoder_convs: vec![2, 1, 1, 1],
        decoder_convs: vec![1, 1, 2],
        deep_supervision: false,
        ..flat.clone()
    };
    let anisotropic = Network {
        output_channels: 2,
        features: vec![3, 4, 6, 5],
        kernels: vec![[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 1, 2]],
        encoder_convs: vec![1, 2, 1, 2],
        decoder_convs: vec![1, 2, 1],
        ..flat.clone()
    };
    let regions = |classes: usize, members: Vec<Vec<usize>>, ignore: Option<i16>| LossOptions {
        targets: Targets { outputs: Outputs::Regions { classes, members }, ignore },
        ..dice(true, false)
    };
    let nested = regions(4, vec![vec![1, 2, 3], vec![2, 3], vec![3]], None);
    let sparse = regions(3, vec![vec![1, 2], vec![2]], Some(3));
    let ignore = LossOptions {
        targets: Targets { ignore: Some(2), ..Targets::default() },
        ..dice(false, false)
    };
    vec![
        golden("residual_2d", flat, nested),
        golden("residual_isotropic", isotropic, ignore),
        golden("residual_anisotropic", anisotropic, sparse),
    ]
}

impl Golden {
    fn read<D: Dimension>(&self, name: &str) -> Array<f32, D> {
        self.arrays[name].clone().into_dimensionality().expect("axes")
    }

    fn target(&self) -> Array<i16, Ix4> {
        self.read::<Ix4>("target").mapv(|v| v as i16)
    }

    fn network(&self, unit: Unit) -> UNet {
        let device = Device::Cpu(Cpu::with_unit(unit, Precision::F32).expect("unit"));
        let mut net = UNet::new(&self.network, &device).expect("network");
        let named = |name: &str| (name.into(), self.arrays[&format!("parameter/{name}")].clone());
        let named: Vec<(String, ArrayD<f32>)> =
            net.parameters().expect("a valid call").iter().map(|(name, _)| named(name)).collect();
        net.set_parameters(&named).expect("parameters");
        net
    }
}

/// Rounding errors of f32 grow layer by layer; each of up to 15 layers here sums up to a few hundred terms and divides
/// by a standard deviation near 1, which costs a few ulps of the layer's largest values. 64 ulps of the largest value
/// cover that with room, while a wrong tap, channel or sign moves values by their own size.
fn assert_near(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // Gradients that are 0 but for PyTorch's f64 rounding: biases before a norm.
    let bound = (64.0 * f32::EPSILON * largest).max(1e-9);
    let off = |i: &usize| (found[*i] - expected[*i]).abs() > bound || found[*i].is_nan();
    let misses: Vec<usize> = (0..found.len()).filter(off).collect();
    if let Some(&i) = misses.first() {
        let (found, expected) = (found[i], expected[i]);
        panic!(
            "{what}: {} misses, first at {i}: {found} != {expected} (± {bound:.1e})",
            misses.len()
        );
    }
}

fn flat(array: &ArrayD<f32>) -> Vec<f32> {
    array.iter().copied().collect()
}

#[test]
fn networks_match_pytorch() {
    for (name, golden) in all() {
        let image = golden.read::<Ix5>("image");
        let target = golden.target();
        let logits = golden.read::<Ix5>("logits");
        let expected = golden.read::<Ix1>("loss");
        let counts = golden.read::<Ix2>("counts");
        for unit in Cpu::available().into_iter().filter(|c| c.precision() == Precision::F32) {
            let unit = unit.unit();
            let mut net = golden.network(unit);
            let found = net.forward(image.view()).expect("a valid call");
            let name = format!("{name} at {unit}");
            assert_near(
                &format!("{name}: logits"),
                &flat(&found.into_dyn()),
                &flat(&logits.clone().into_dyn()),
            );
            let loss = net
                .loss_and_gradients(image.view(), target.view(), &golden.loss)
                .expect("a valid call");
            for (found, expected) in
                [loss.total, loss.dice, loss.cross_entropy].iter().zip(&expected)
            {
                // Means over voxels of f32 values near 1: their errors average out to far below an ulp each.
                let expected = f64::from(*expected);
                assert!((found - expected).abs() < 1e-6, "{name}: loss {found} != {expected}");
            }
            for (c, found) in loss.counts.iter().enumerate() {
                let found = [found.tp, found.fp, found.fn_];
                let expected = [0, 1, 2].map(|i| counts[[c, i]] as u64);
                assert_eq!(found, expected, "{name}: counts of class {c}");
            }
            for (tensor, found) in net.gradients().expect("a valid call") {
                let expected = &golden.arrays[&format!("gradient/{tensor}")];
                assert_eq!(found.shape(), expected.shape(), "{tensor}");
                assert_near(&format!("{name}: {tensor}"), &flat(&found), &flat(expected));
            }
            let without =
                net.loss(image.view(), target.view(), &golden.loss).expect("a valid call");
            assert_eq!(without, loss, "{name}: the loss alone");
        }
    }
}

#[test]
fn five_steps_match_pytorch() {
    for (name, golden) in all() {
        let image = golden.read::<Ix5>("image");
        let target = golden.target();
        let adam = AdamOptions {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 3e-5,
            amsgrad: true,
        };
        let sgd = SgdOptions { momentum: 0.99, nesterov: true, weight_decay: 3e-5 };
        let optimisers = [
            ("after_adam", Optimiser::adam(adam, None)),
            ("after_sgd", Optimiser::sgd(sgd, Some(1.0))),
        ];
        for (key, mut optimiser) in optimisers {
            let expected = f64::from(golden.read::<Ix1>(key)[0]);
            let mut net = golden.network(Cpu::detect().unit());
            for _ in 0..5 {
                net.loss_and_gradients(image.view(), target.view(), &golden.loss)
                    .expect("a valid call");
                net.update(&mut optimiser, 1e-2).expect("a valid call");
            }
            let found =
                net.loss(image.view(), target.view(), &golden.loss).expect("a valid call").total;
            // Adam moves a parameter by about the rate whatever its gradient's size, so that relative errors of tiny
            // gradients count in full: 1e-5 of an initial loss near 1, which five steps change by more than 0.1.
            assert!((found - expected).abs() < 1e-5, "{name} {key}: {found} != {expected}");
        }
    }
}
