//! Whole volumes on the device against the same network tile by tile with sums on the host, and label maps against f64.

use crate::cuda::Context;
use crate::cuda::tensor::{Element, Layout};
use crate::cuda::window::{Activation as Applied, Tiling, View, Volume};
use crate::sliding_window::{
    Accumulator, Activation, CardMeans, CardSums, Decide, Means, Resampling, Sums, Tap, Window,
    views,
};
use crate::{Cpu, Device, Error, Precision, UNet};
use artifact::plan::{Encoder, Network};
use artifact::recipe::Averaged;
use kernels::{Gpu, Order, SimOptions, test_gpus};
use ndarray::{Array3, Array4, ArrayView5, ArrayViewMut5};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Small, with more outputs than one block of eight channels if wanted.
fn spec(channels: usize, outputs: usize, flat: bool) -> Network {
    let depth = |n| if flat { 1 } else { n };
    Network {
        encoder: Encoder::Plain,
        input_channels: channels,
        output_channels: outputs,
        features: vec![4, 6],
        kernels: vec![[depth(3), 3, 3]; 2],
        strides: vec![[1, 1, 1], [depth(2), 2, 2]],
        encoder_convs: vec![1, 1],
        decoder_convs: vec![1],
        deep_supervision: false,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

fn image(channels: usize, [z, y, x]: [usize; 3]) -> Array4<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    Array4::from_shape_simple_fn((channels, z, y, x), || rng.random_range(-1.0f32..1.0))
}

fn net(spec: &Network, device: &Device, seed: u64) -> UNet {
    let mut net = UNet::new(spec, device).unwrap();
    net.initialise(seed).unwrap();
    net
}

struct Row {
    image: [usize; 3],
    channels: usize,
    outputs: usize,
    window: Window,
}

/// Flips, images smaller than the patch along some or all axes, 2D, one and three octets of outputs, all that is averaged.
fn rows() -> Vec<Row> {
    use Activation::{Sigmoid, Softmax};
    use Averaged::{Logits, Probabilities};
    let row = |image, patch, mirrors: &[usize], channels, outputs, averaged, activation| Row {
        image,
        channels,
        outputs,
        window: Window {
            patch,
            step: 0.5,
            gaussian_sigma: 0.125,
            mirror_axes: mirrors.into(),
            averaged,
            activation,
            tile_batch: 3,
        },
    };
    vec![
        row([7, 9, 6], [4, 6, 6], &[0, 1, 2], 2, 3, Probabilities, Softmax),
        row([3, 7, 5], [4, 6, 8], &[1], 1, 17, Probabilities, Softmax),
        row([3, 5, 5], [4, 6, 8], &[0, 2], 9, 2, Probabilities, Sigmoid),
        row([3, 11, 9], [1, 8, 6], &[1, 2], 1, 9, Logits, Sigmoid),
        row([6, 6, 7], [4, 4, 4], &[], 1, 3, Logits, Softmax),
    ]
}

fn devices(gpu: &Gpu) -> [Device; 2] {
    [Precision::F32, Precision::Bf16].map(|p| Device::on(gpu.clone(), "test", p))
}

fn flat(row: &Row) -> bool {
    row.window.patch[0] == 1
}

/// Two networks' views on the device.
fn on_card(row: &Row, device: &Device, batch: usize) -> CardMeans {
    let spec = spec(row.channels, row.outputs, flat(row));
    let image = image(row.channels, row.image);
    let mut network = net(&spec, device, 1);
    let gpu = network.gpu().unwrap().clone();
    let mut sums =
        CardSums::with_batch(&gpu, row.outputs, image.view(), &row.window, batch).unwrap();
    let mut seen = 0;
    for seed in [1, 2] {
        network.initialise(seed).unwrap();
        let mut tick = |n| {
            seen += n;
            Ok::<(), Error>(())
        };
        sums.add(&mut network, &mut tick).unwrap();
    }
    assert_eq!(seen, 2 * views(row.image, &row.window));
    sums.means().unwrap()
}

/// The same networks, each tile to the device and back, sums on the host.
fn tile_by_tile(row: &Row, device: &Device) -> Array4<f32> {
    let spec = spec(row.channels, row.outputs, flat(row));
    let image = image(row.channels, row.image);
    let mut sums = Accumulator::new(row.image, row.outputs, &row.window);
    for seed in [1, 2] {
        let mut network = net(&spec, device, seed);
        let mut forward =
            |x: ArrayView5<'_, f32>, out: ArrayViewMut5<'_, f32>| network.forward_into(x, out);
        sums.add(image.view(), &mut forward, &mut |_| Ok(())).unwrap();
    }
    sums.means()
}

fn largest_difference(found: &Array4<f32>, expected: &Array4<f32>) -> f64 {
    assert_eq!(found.dim(), expected.dim());
    let both = found.iter().zip(expected);
    both.map(|(f, e)| f64::from((f - e).abs())).fold(0.0, f64::max)
}

#[test]
fn volumes_are_predicted_as_tile_by_tile() {
    for (i, row) in rows().iter().enumerate() {
        for gpu in test_gpus() {
            for device in devices(&gpu) {
                let expected = tile_by_tile(row, &device);
                let size = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
                for batch in [[1, 16], [2, 8]][i % 2] {
                    let means = on_card(row, &device, batch);
                    assert!(means.finite());
                    let worst = largest_difference(&means.download().unwrap(), &expected);
                    // The same logits; per view a product, a sum and what exp and the quotient round, above and below
                    // the fraction line. Another batch may cut a norm's statistics otherwise: then each logit is
                    // another f32 sum, and a bf16 activation here and there its neighbour (2⁻⁸, of which the norms and
                    // means over voxels leave a part).
                    let sums = (4 * views(row.image, &row.window) + 64) as f64;
                    let logits = match device.precision() {
                        Precision::F32 | Precision::F32Fast => 2e-4,
                        Precision::Bf16 => 3e-2,
                    };
                    let tolerance = f64::from(size) * (sums * f64::from(f32::EPSILON) + logits);
                    assert!(worst <= tolerance, "row {i}, batch {batch}: {worst} > {tolerance}");
                }
            }
        }
    }
}

/// What the kernels do, without what a network rounds: logits are given.
#[test]
fn views_are_added_as_on_the_host() {
    for (i, row) in rows().iter().enumerate() {
        let [z, y, x] = row.window.patch;
        let image = image(row.channels, row.image);
        // The logit of an output is a multiple of the first channel: no matter how the patch is flipped.
        let slope = |output: usize| output as f32 * 0.5 - 1.0;
        let mut expected = Accumulator::new(row.image, row.outputs, &row.window);
        let mut given = |x: ArrayView5<'_, f32>, mut out: ArrayViewMut5<'_, f32>| {
            for ((n, k, z, y, u), out) in out.indexed_iter_mut() {
                *out = slope(k) * x[[n, 0, z, y, u]] + (z + 2 * y + 3 * u) as f32 * 0.1;
            }
            Ok::<(), ()>(())
        };
        expected.add(image.view(), &mut given, &mut |_| Ok(())).unwrap();
        let expected = expected.means();
        for gpu in test_gpus() {
            let ctx = Context::new(gpu, Element::F32).unwrap();
            let (tiling, list) = crate::sliding_window::tiling(row.image, &row.window);
            let values = image.as_slice().unwrap();
            let volume = Volume::new(&ctx, tiling, values, row.outputs, &list).unwrap();
            let batch = 2;
            volume.rewind(&ctx.stream).unwrap();
            let layout = Layout { batch, channels: row.channels, size: [z, y, x] };
            for _ in (0..list.len()).step_by(batch) {
                let input = ctx.garbage(layout, Element::F32);
                volume.cut(&ctx, &input);
                let x = ctx.values(&input);
                let logits = ndarray::Array5::from_shape_fn(
                    (batch, row.outputs, z, y, x.dim().4),
                    |(n, k, z, y, u)| {
                        let place = (z + 2 * y + 3 * u) as f32 * 0.1;
                        f64::from(slope(k) * x[[n, 0, z, y, u]] as f32 + place)
                    },
                );
                volume.add(&ctx, &ctx.tensor(&logits, Element::F32));
            }
            let maps = volume.means(&ctx).unwrap();
            assert!(maps.finite);
            let found = ctx.floats(maps.values.pointer(), expected.len());
            // Both in f32 in the same order: per view a product and a sum, and what exp and a fused multiply-add round.
            let tolerance = (4 * list.len() + 64) as f32 * f32::EPSILON;
            for ((at, e), f) in expected.indexed_iter().zip(found) {
                let near = (f - e).abs() <= tolerance * e.abs().max(1.0);
                assert!(near, "row {i} at {at:?}: {f}, expected {e}");
            }
        }
    }
}

#[test]
fn the_same_bytes_in_every_order() {
    let row = &rows()[0];
    let run = |order| {
        let gpu = Gpu::sim(SimOptions { order, ..SimOptions::default() });
        let means = on_card(row, &Device::on(gpu, "test", Precision::Bf16), 4);
        let bits: Vec<u32> = means.download().unwrap().iter().map(|v| v.to_bits()).collect();
        (
            bits,
            means.classes(&resampling(row.image, [9, 5, 11], [0, 1, 2]), Decide::Largest).unwrap(),
        )
    };
    let first = run(Order::ALL[0]);
    for order in Order::ALL {
        assert_eq!(run(order), first, "{order:?}");
    }
}

/// Voxel centres at half integers, edges continued.
fn resampling(from: [usize; 3], to: [usize; 3], order: [usize; 3]) -> Resampling {
    let axes = [0, 1, 2].map(|a| {
        let tap = |k: usize| {
            let at = (k as f64 + 0.5) * from[a] as f64 / to[a] as f64 - 0.5;
            let at = at.clamp(0.0, (from[a] - 1) as f64);
            let (near, far) = (at.floor() as usize, (at.floor() as usize + 1).min(from[a] - 1));
            Tap { at: [near, far], weights: [1.0 - at.fract(), at.fract()] }
        };
        (0..to[a]).map(tap).collect()
    });
    Resampling { order, axes }
}

#[test]
fn label_maps_are_those_of_interpolated_means() {
    let row = &rows()[0];
    for gpu in test_gpus() {
        let means = on_card(row, &Device::on(gpu, "test", Precision::F32), 4);
        let maps = means.download().unwrap();
        for (to, order) in
            [([7, 9, 6], [0, 1, 2]), ([5, 13, 8], [1, 2, 0]), ([16, 4, 9], [0, 2, 1])]
        {
            let grid = resampling(row.image, to, order);
            let value = |k: usize, at: [usize; 3]| {
                let mut sum = 0.0;
                for corner in 0..8 {
                    let pick = [0, 1, 2].map(|a| corner >> a & 1);
                    let tap = |a: usize| grid.axes[a][at[a]];
                    let w: f64 = (0..3).map(|a| tap(a).weights[pick[a]]).product();
                    let [z, y, x] = [0, 1, 2].map(|a| tap(a).at[pick[a]]);
                    sum += w * f64::from(maps[[k, z, y, x]]);
                }
                sum
            };
            // Values that differ by no more than they are rounded may be told apart either way.
            let unit = 4.0 * f64::from(f32::EPSILON);
            let largest = means.classes(&grid, Decide::Largest).unwrap().unwrap();
            let regions = [2, 1, 4];
            let above = Decide::Above { threshold: 0.36, classes: &regions };
            let above = means.classes(&grid, above).unwrap().unwrap();
            let mut seen = [0; 5];
            for z in 0..to[0] {
                for y in 0..to[1] {
                    for x in 0..to[2] {
                        let at = [z, y, x];
                        let v = [0, 1, 2].map(|k| value(k, at));
                        let best = v.iter().copied().fold(f64::MIN, f64::max);
                        let found = largest[at] as usize;
                        assert!(v[found] >= best - unit, "{at:?}: {v:?}, found {found}");
                        let last = (0..3).rev().find(|k| v[*k] > 0.36).map_or(0, |k| regions[k]);
                        let close = v.iter().any(|v| (v - 0.36).abs() <= unit);
                        assert!(close || above[at] == last, "{at:?}: {v:?}, found {}", above[at]);
                        seen[above[at] as usize] += 1;
                    }
                }
            }
            assert!(seen.iter().filter(|n| **n > 0).count() >= 3, "too plain: {seen:?}");
        }
    }
}

#[test]
fn of_equal_values_the_first_wins_and_nan_is_told() {
    for gpu in test_gpus() {
        let ctx = Context::new(gpu, Element::F32).unwrap();
        for (logit, finite) in [(0.25, true), (f64::NAN, false), (f64::INFINITY, false)] {
            let tiling = Tiling {
                image: [1, 2, 3],
                patch: [1, 2, 3],
                before: [0; 3],
                extent: [1, 2, 3],
                flips: 1,
                curves: [vec![1.0], vec![1.0; 2], vec![0.0; 3]],
                smallest: 0.5,
                activation: Applied::None,
            };
            let view = View { first: [0; 3], flip: [false; 3] };
            let volume = Volume::new(&ctx, tiling, &[0.0; 6], 3, &[view]).unwrap();
            let mut logits = ndarray::Array5::from_elem((1, 3, 1, 2, 3), 0.25);
            logits[[0, 1, 0, 1, 2]] = logit;
            volume.rewind(&ctx.stream).unwrap();
            volume.add(&ctx, &ctx.tensor(&logits, Element::F32));
            let maps = volume.means(&ctx).unwrap();
            assert_eq!(maps.finite, finite);
            let grid = resampling([1, 2, 3], [1, 2, 3], [0, 1, 2]);
            if finite {
                assert_eq!(maps.classes(&ctx, &grid, Decide::Largest).unwrap(), [0; 6]);
            }
        }
    }
}

#[test]
fn a_stop_ends_the_prediction_and_a_full_card_leaves_sums_to_the_host() {
    let row = &rows()[0];
    let spec = spec(row.channels, row.outputs, false);
    let image = image(row.channels, row.image);
    let expected = {
        let device = Device::sim(Precision::F32);
        let mut network = net(&spec, &device, 1);
        let mut sums = Sums::new(&network, image.view(), &row.window).unwrap();
        assert!(matches!(sums, Sums::Card(_)));
        let mut batches = 0;
        let stopped = sums.add(&mut network, image.view(), &mut |_| {
            batches += 1;
            if batches < 3 { Ok(()) } else { Err(Error::NoGradients) }
        });
        assert_eq!(stopped, Err(Error::NoGradients));
        let mut sums = Sums::new(&network, image.view(), &row.window).unwrap();
        sums.add(&mut network, image.view(), &mut |_| Ok::<(), Error>(())).unwrap();
        sums.means().unwrap().into_host().unwrap()
    };
    // Just enough for the network and one tile.
    let device = Device::sim(Precision::F32);
    let tile = UNet::memory_bytes(&spec, &device, 1, row.window.patch, false).unwrap();
    let memory = tile + 4096;
    let gpu = Gpu::sim(SimOptions { memory, ..SimOptions::default() });
    let mut network = net(&spec, &Device::on(gpu, "small", Precision::F32), 1);
    let window = Window { tile_batch: 1, ..row.window.clone() };
    let mut sums = Sums::new(&network, image.view(), &window).unwrap();
    assert!(matches!(sums, Sums::Host(_)));
    sums.add(&mut network, image.view(), &mut |_| Ok::<(), Error>(())).unwrap();
    let means = sums.means().unwrap();
    assert!(means.finite() && matches!(means, Means::Host(_)));
    // As in `volumes_are_predicted_as_tile_by_tile`.
    assert!(largest_difference(&means.into_host().unwrap(), &expected) <= 3e-4);
}

/// The CPU engine's label maps, but where two classes are about as likely.
#[test]
fn label_maps_are_the_cpu_engines() {
    for row in rows() {
        let expected = tile_by_tile(&row, &Device::Cpu(Cpu::detect()));
        let largest = |maps: &Array4<f32>| {
            Array3::from_shape_fn(row.image, |(z, y, x)| {
                let v = |k: usize| maps[[k, z, y, x]];
                (0..row.outputs).rev().max_by(|a, b| v(*a).total_cmp(&v(*b))).unwrap() as i16
            })
        };
        for gpu in test_gpus() {
            for device in devices(&gpu) {
                let means = on_card(&row, &device, 4);
                // Logits of a random network lie close together: bf16 rounds each of its ten layers to 2⁻⁹.
                let (share, distance) = match device.precision() {
                    Precision::F32 | Precision::F32Fast => (0.01, 1e-3),
                    Precision::Bf16 => (0.1, 0.1),
                };
                let worst = largest_difference(&means.download().unwrap(), &expected);
                let size = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
                assert!(worst <= distance * f64::from(size), "{worst}");
                let grid = resampling(row.image, row.image, [0, 1, 2]);
                let found = means.classes(&grid, Decide::Largest).unwrap().unwrap();
                let expected = largest(&expected);
                let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
                let voxels = expected.len();
                assert!(differ as f64 <= share * voxels as f64, "{differ} of {voxels} differ");
            }
        }
    }
}
