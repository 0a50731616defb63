//! Adam, SGD and clipping against the CPU's, step by step.

use super::{contexts, same_bytes};
use crate::cuda::Context;
use crate::ops::tests::{f32s, random_vec};
use crate::optimiser::{AdamOptions, Optimiser, SgdOptions};
use crate::unet::{Parameter, Topology};
use std::sync::Arc;

const STEPS: u64 = 4;
const RATE: f64 = 0.01;

/// Every rule and switch, with and without clipping; the limit is below every gradient's norm, or above.
fn optimisers() -> Vec<Optimiser> {
    let mut all = Vec::new();
    for clip in [None, Some(0.3), Some(1e4)] {
        for amsgrad in [false, true] {
            let (beta1, beta2, epsilon, weight_decay) = (0.9, 0.999, 1e-8, 0.03);
            let options = AdamOptions { beta1, beta2, epsilon, weight_decay, amsgrad };
            all.push(Optimiser::adam(options, clip));
        }
        for nesterov in [false, true] {
            let options = SgdOptions { momentum: 0.99, nesterov, weight_decay: 0.03 };
            all.push(Optimiser::sgd(options, clip));
        }
    }
    all
}

/// Gradients of different sizes: AMSGrad's maximum and the second moment must part.
fn gradient(count: usize, step: u64) -> Vec<f32> {
    f32s(&random_vec(count, 50 + step))
        .into_iter()
        .map(|g| g * if step == 1 { 3.0 } else { 0.5 })
        .collect()
}

/// Values, gradient, moments.
type Vectors = Vec<Vec<f32>>;

fn after(optimiser: &Optimiser, values: Vec<f32>, gradient: Vec<f32>) -> Vectors {
    let state = optimiser.state().unwrap();
    let moments = state.into_iter().map(|(_, v)| v.into_raw_vec_and_offset().0);
    [values, gradient].into_iter().chain(moments).collect()
}

/// One parameter; of all but the shortest a part in the middle and the end are idle.
fn topology(count: usize) -> Topology {
    let idle = if count < 8 { vec![] } else { vec![count / 3..count / 2 + 1, count - 2..count] };
    let parameters = vec![Parameter { name: "weight".into(), shape: vec![count], range: 0..count }];
    let (layers, up, head) = (vec![], vec![], vec![]);
    let (encoder, blocks, decoder) = (vec![], vec![], vec![]);
    Topology { layers, parameters, encoder, blocks, up, decoder, head, idle }
}

fn on_host(mut optimiser: Optimiser, count: usize) -> Vectors {
    let mut values = f32s(&random_vec(count, 49));
    let mut last = vec![];
    for step in 1..=STEPS {
        last = gradient(count, step);
        optimiser.begin(&topology(count)).unwrap();
        optimiser.step(&mut values, &mut last, RATE / step as f64);
    }
    after(&optimiser, values, last)
}

fn on_device(ctx: &Arc<Context>, mut optimiser: Optimiser, count: usize) -> Vectors {
    let (values, _values) = ctx.upload(&f32s(&random_vec(count, 49)));
    let (slope, _slope) = ctx.upload(&vec![0.0; count]);
    for step in 1..=STEPS {
        ctx.stream.upload(slope, &gradient(count, step)).unwrap();
        optimiser.begin_on(ctx, &topology(count), RATE / step as f64).unwrap();
        optimiser.step_on(values, slope);
    }
    after(&optimiser, ctx.floats(values, count), ctx.floats(slope, count))
}

#[test]
fn steps_are_the_cpus() {
    // A part of a thread's four, of a block's 1024, and more blocks than add up the norm.
    for count in [1, 7, 1000, 1025, 530_003] {
        for ctx in contexts().into_iter().map(Arc::new) {
            let rules = if count > 10_000 { 4..8 } else { 0..12 };
            for which in rules {
                let (host, device) =
                    (optimisers().swap_remove(which), optimisers().swap_remove(which));
                let (expected, found) = (on_host(host, count), on_device(&ctx, device, count));
                assert_eq!(expected.len(), found.len());
                for (vector, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
                        // A card fuses a product and a sum into one rounding, four times per step; then a factor of
                        // the clipping may differ by an ulp, as the norm is added in another order. All vectors stay
                        // below 8.
                        let bound = 8.0 * STEPS as f32 * f32::EPSILON;
                        let near = (e - f).abs() <= bound;
                        assert!(
                            near,
                            "rule {which}, vector {vector} of {count} at {i}: {f} != {e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_order_of_threads_changes_nothing() {
    same_bytes(|ctx| {
        let ctx = Arc::new(Context::new(ctx.gpu.clone(), ctx.element).unwrap());
        let optimiser = |which: usize| optimisers().swap_remove(which);
        [5, 7].map(|which| on_device(&ctx, optimiser(which), 3001).concat()).concat()
    });
}
