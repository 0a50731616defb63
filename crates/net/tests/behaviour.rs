//! What callers rely on: same bytes at any thread count, exact resume, clear refusals, memory as announced.

use artifact::plan::Network;
use ndarray::{Array4, Array5, ArrayD};
use net::{
    AdamOptions, Cpu, Device, Error, LossOptions, Optimiser, Outputs, SgdOptions, Targets, UNet,
    weights,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn network() -> Network {
    Network {
        encoder: artifact::plan::Encoder::Plain,
        input_channels: 2,
        output_channels: 3,
        features: vec![6, 20, 35],
        kernels: vec![[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        encoder_convs: vec![2, 1, 2],
        decoder_convs: vec![2, 2],
        deep_supervision: true,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

fn residual() -> Network {
    Network {
        encoder: artifact::plan::Encoder::Residual,
        encoder_convs: vec![1, 2, 2],
        decoder_convs: vec![1, 1],
        ..network()
    }
}

fn data() -> (Array5<f32>, Array4<i16>) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let image = Array5::from_shape_simple_fn((3, 2, 4, 12, 8), || rng.random_range(-1.0f32..1.0));
    let target = Array4::from_shape_simple_fn((3, 4, 12, 8), || rng.random_range(-1..3));
    (image, target)
}

fn adam(clip: Option<f64>) -> Optimiser {
    let options =
        AdamOptions { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 3e-5, amsgrad: true };
    Optimiser::adam(options, clip)
}

fn started(device: &Device) -> UNet {
    let mut net = UNet::new(&network(), device).expect("a valid call");
    net.initialise(7).expect("a valid call");
    net
}

fn step(net: &mut UNet, optimiser: &mut Optimiser) {
    let (image, target) = data();
    net.loss_and_gradients(image.view(), target.view(), &LossOptions::default())
        .expect("a valid call");
    net.update(optimiser, 1e-3).expect("a valid call");
}

fn bits(named: &[(String, ArrayD<f32>)]) -> Vec<u32> {
    named.iter().flat_map(|(_, a)| a.iter().map(|v| v.to_bits())).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let all = Cpu::available().into_iter();
    for (cpu, spec) in all.flat_map(|cpu| [(cpu, network()), (cpu, residual())]) {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let device = Device::Cpu(cpu);
                let mut net = UNet::new(&spec, &device).unwrap();
                net.initialise(7).unwrap();
                let mut optimiser = adam(Some(1.0));
                step(&mut net, &mut optimiser);
                step(&mut net, &mut optimiser);
                let logits = net.forward(data().0.view()).unwrap();
                (bits(&net.parameters().unwrap()), logits)
            })
        };
        let one = run(1);
        let name = format!("{:?} at {cpu}", spec.encoder);
        assert_eq!(one, run(2), "2 threads, {name}");
        assert_eq!(one, run(5), "5 threads, {name}");
    }
}

#[test]
fn a_restored_optimiser_goes_on_bit_by_bit() {
    let device = Device::Cpu(Cpu::detect());
    let sgd = SgdOptions { momentum: 0.99, nesterov: true, weight_decay: 0.0 };
    for make in [|_: SgdOptions| adam(Some(12.0)), |sgd| Optimiser::sgd(sgd, None)] {
        let (mut net, mut optimiser) = (started(&device), make(sgd));
        step(&mut net, &mut optimiser);
        step(&mut net, &mut optimiser);
        let (parameters, state, steps) =
            (net.parameters().unwrap(), optimiser.state().unwrap(), optimiser.steps());
        assert_eq!(steps, 2);
        step(&mut net, &mut optimiser);
        let mut resumed = UNet::new(&network(), &device).unwrap();
        resumed.set_parameters(&parameters).unwrap();
        let mut restored = make(sgd);
        restored.restore(steps, &state).unwrap();
        step(&mut resumed, &mut restored);
        assert_eq!(bits(&net.parameters().unwrap()), bits(&resumed.parameters().unwrap()));
        assert_eq!(bits(&optimiser.state().unwrap()), bits(&restored.state().unwrap()));
        let mut lacking = state.clone();
        lacking.pop();
        // SGD has one number per parameter: only the network can tell that one is missing.
        let mut other = make(sgd);
        let refused = other.restore(steps, &lacking).and_then(|()| net.update(&mut other, 1e-3));
        assert!(matches!(refused, Err(Error::MissingTensor(_))), "{refused:?}");
    }
}

#[test]
fn gradients_are_clipped_to_a_joint_norm() {
    let device = Device::Cpu(Cpu::detect());
    let sgd = SgdOptions { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let (mut net, limit) = (started(&device), 1e-3);
    let before = net.parameters().unwrap();
    step(&mut net, &mut Optimiser::sgd(sgd, Some(limit)));
    // SGD without momentum moves by rate × clipped gradient; the step helper's rate is 1e-3.
    let moved: f64 = before
        .iter()
        .zip(net.parameters().unwrap())
        .flat_map(|((_, a), (_, b))| (a - &b).into_iter().collect::<Vec<_>>())
        .map(|d| (f64::from(d) / 1e-3).powi(2))
        .sum::<f64>()
        .sqrt();
    // Steps of 1e-6 are subtracted from parameters near 0.1 to 1, whose ulp is 1e-8 to 6e-8: a few per cent.
    assert!((moved / limit - 1.0).abs() < 0.05, "moved {moved}");
}

#[test]
fn initialisation_depends_on_seed_and_name_only() {
    let device = Device::Cpu(Cpu::detect());
    let (net, mut other) = (started(&device), started(&device));
    assert_eq!(bits(&net.parameters().unwrap()), bits(&other.parameters().unwrap()));
    other.initialise(8).unwrap();
    assert_ne!(bits(&net.parameters().unwrap()), bits(&other.parameters().unwrap()));
    for (name, array) in net.parameters().unwrap() {
        let values: Vec<f64> = array.iter().map(|v| f64::from(*v)).collect();
        let n = values.len() as f64;
        if array.ndim() == 5 {
            let fan_in: usize = array.shape()[1..].iter().product();
            let sd = (2.0 / 1.0001 / fan_in as f64).sqrt();
            let square = values.iter().map(|v| v * v).sum::<f64>() / n;
            // The mean square of n normal numbers has standard deviation √(2/n) · sd²; five of them.
            assert!((square / (sd * sd) - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{name}: {square}");
            assert!((values.iter().sum::<f64>() / n).abs() < 5.0 * sd / n.sqrt(), "{name}: mean");
        } else {
            let expected =
                if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
            assert!(values.iter().all(|v| *v == expected), "{name}");
        }
    }
}

#[test]
fn a_residual_block_begins_as_its_skip() {
    let device = Device::Cpu(Cpu::detect());
    let mut net = UNet::new(&residual(), &device).unwrap();
    net.initialise(7).unwrap();
    let scales: Vec<(String, f32)> = net
        .parameters()
        .unwrap()
        .into_iter()
        .filter(|(name, _)| name.contains("norm") && name.ends_with("weight"))
        .map(|(name, array)| (name, array.iter().sum::<f32>() / array.len() as f32))
        .collect();
    // A stem, two norms in each of five blocks, two projections, two decoder convolutions.
    assert_eq!(scales.len(), 1 + 10 + 2 + 2);
    for (name, scale) in scales {
        let last = name.contains(".block.") && name.ends_with("norm.1.weight");
        assert_eq!(scale, if last { 0.0 } else { 1.0 }, "{name}");
    }
    let expected = "encoder.1.block.0.skip.conv.weight";
    assert!(net.parameters().unwrap().iter().any(|(name, _)| name == expected), "{expected}");
    let bias = "encoder.1.block.0.skip.conv.bias";
    assert!(net.parameters().unwrap().iter().all(|(name, _)| name != bias), "{bias}");
}

#[test]
fn labels_beyond_classes_and_regions_are_refused() {
    let mut net = started(&Device::Cpu(Cpu::detect()));
    let (image, mut target) = data();
    let regions = |classes: usize, members: Vec<Vec<usize>>| Outputs::Regions { classes, members };
    let message = |net: &mut UNet, outputs: Outputs, target: &Array4<i16>| {
        let targets = Targets { outputs, ignore: Some(7) };
        let options = LossOptions { targets, ..LossOptions::default() };
        net.loss(image.view(), target.view(), &options).unwrap_err().to_string()
    };
    let two = regions(3, vec![vec![1], vec![2]]);
    assert_eq!(
        message(&mut net, two, &target),
        "regions of the loss: found [2], expected 3, one per output channel"
    );
    let beyond = regions(3, vec![vec![1], vec![2], vec![1, 3]]);
    assert_eq!(message(&mut net, beyond, &target), "target: found class 3, expected less than 3");
    target[[1, 2, 3, 4]] = 7;
    target[[2, 0, 0, 0]] = 4;
    let three = regions(4, vec![vec![1], vec![2], vec![1, 3]]);
    assert_eq!(message(&mut net, three, &target), "target: found class 4, expected less than 4");
    assert_eq!(
        message(&mut net, Outputs::Classes, &target),
        "target: found class 4, expected less than 3"
    );
}

#[test]
fn weights_survive_a_file_and_are_checked() {
    let device = Device::Cpu(Cpu::detect());
    let net = started(&device);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.npz");
    let bytes = weights::to_npz(&net.parameters().unwrap());
    assert_eq!(bytes, weights::to_npz(&started(&device).parameters().unwrap()), "same bytes");
    artifact::Commit::file(&path, &bytes).unwrap();
    let named = weights::read(&path, &network()).unwrap();
    let mut read = UNet::new(&network(), &device).unwrap();
    read.set_parameters(&named).unwrap();
    assert_eq!(bits(&net.parameters().unwrap()), bits(&read.parameters().unwrap()));

    let message = |named: &[(String, ArrayD<f32>)]| {
        let mut net = UNet::new(&network(), &device).unwrap();
        net.set_parameters(named).unwrap_err().to_string()
    };
    let all = net.parameters().unwrap();
    assert_eq!(message(&all[1..]), "tensor encoder.0.conv.0.weight: missing");
    let mut extra = all.clone();
    extra.push(("head".into(), ArrayD::zeros(vec![1])));
    assert_eq!(message(&extra), "tensor head: found, but there is no such tensor in this network");
    let mut wrong = all;
    wrong[1].1 = ArrayD::zeros(vec![7]);
    assert_eq!(message(&wrong), "tensor encoder.0.conv.0.bias: found shape [7], expected [6]");
}

#[test]
fn impossible_inputs_are_refused_in_one_line() {
    let mut net = started(&Device::Cpu(Cpu::detect()));
    let (image, mut target) = data();
    let odd = Array5::zeros((1, 2, 3, 12, 8));
    assert_eq!(
        net.forward(odd.view()).unwrap_err().to_string(),
        "image [n, channel, z, y, x]: found [1, 2, 3, 12, 8], \
         expected [n ≥ 1, 2, multiple of 2, multiple of 4, multiple of 4]"
    );
    let options = LossOptions::default();
    let small = target.slice(ndarray::s![..2, .., .., ..]);
    let error = net.loss(image.view(), small, &options).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }));
    target[[1, 2, 3, 4]] = 3;
    assert_eq!(
        net.loss_and_gradients(image.view(), target.view(), &options).unwrap_err().to_string(),
        "target: found class 3, expected less than 3"
    );
    assert_eq!(net.update(&mut adam(None), 1.0).unwrap_err(), Error::NoGradients);
    let flat = Network { features: vec![4], ..network() };
    assert!(UNet::new(&flat, &Device::Cpu(Cpu::detect())).is_err());
}

/// Within a plan's bounds, but beyond any machine's memory: said before any of it is taken.
#[test]
fn memory_that_no_machine_has_is_refused_before_it_is_taken() {
    let device = Device::Cpu(Cpu::detect());
    let wide = Network {
        features: vec![8192; 3],
        encoder_convs: vec![64; 3],
        decoder_convs: vec![64; 2],
        ..network()
    };
    let error = UNet::new(&wide, &device).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error}");
    let line = error.to_string();
    assert!(line.starts_with("the network needs about ") && line.contains("GiB"), "{line}");
    // Eight of the largest batches a plan may have.
    let mut net = UNet::new(&network(), &device).unwrap();
    let error = net.reserve_training(1 << 14, [128; 3]).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error}");
    assert_eq!(stage::Error::from(error).exit, stage::Exit::Input);
    // What was there before still works.
    net.initialise(1).unwrap();
    let (image, _) = data();
    net.forward(image.view()).unwrap();
}

#[test]
fn shapes_can_change_between_calls() {
    let device = Device::Cpu(Cpu::detect());
    let mut net = started(&device);
    let (image, _) = data();
    let all = net.forward(image.view()).unwrap();
    for n in 0..3 {
        let one = image.slice(ndarray::s![n..=n, .., .., .., ..]);
        let alone = net.forward(one).unwrap();
        assert_eq!(alone, all.slice(ndarray::s![n..=n, .., .., .., ..]), "sample {n} alone");
    }
}

#[test]
fn the_loss_falls_on_a_task_that_can_be_learnt() {
    let mut net = started(&Device::Cpu(Cpu::detect()));
    let (image, _) = data();
    let target = image
        .index_axis(ndarray::Axis(1), 0)
        .mapv(|v| if v > 0.3 { 2 } else { i16::from(v < -0.3) });
    let mut optimiser = adam(None);
    let mut loss = f64::INFINITY;
    for _ in 0..60 {
        let options = LossOptions::default();
        loss = net.loss_and_gradients(image.view(), target.view(), &options).unwrap().total;
        net.update(&mut optimiser, 5e-3).unwrap();
    }
    // Perfect is −1; a guess of equal probabilities has ln 3 − 1/3.
    assert!(loss < -0.6, "loss {loss}");
}
