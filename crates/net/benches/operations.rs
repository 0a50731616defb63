//! Single operations of a U-Net on every engine of this machine's CPU, at the sizes of a full-resolution stage, a middle
//! one and a deep one: `cargo bench -p net`.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use divan::Bencher;
use divan::counter::ItemsCount;
use net::{Cpu, OneLayer, Operation, Unit};

/// Plain Rust is left out: it takes minutes.
fn engines() -> Vec<Cpu> {
    Cpu::available().into_iter().filter(|cpu| cpu.unit() != Unit::Portable).collect()
}

/// Channels and edge: 3.6, 3.6 and 0.9 GFLOP a convolution.
const SHAPES: [(usize, usize); 3] = [(32, 40), (64, 26), (256, 8)];

fn operation<const SHAPE: usize>(bencher: Bencher<'_, '_>, engine: Cpu, operation: Operation) {
    let (channels, edge) = SHAPES[SHAPE];
    let mut layer = OneLayer::new(&engine, 1, channels, [edge; 3]).unwrap();
    // Items are operations: a rate of 100 Gitem/s is 100 GF/s. Norms count voxels × channels.
    let work = match operation {
        Operation::Norm | Operation::NormGradient => (channels * edge.pow(3)) as f64,
        _ => layer.flops,
    };
    bencher.counter(ItemsCount::new(work as u64)).bench_local(|| layer.run(operation));
}

#[divan::bench(args = engines(), consts = [0, 1, 2])]
fn convolution<const SHAPE: usize>(bencher: Bencher<'_, '_>, engine: Cpu) {
    operation::<SHAPE>(bencher, engine, Operation::Convolution);
}

#[divan::bench(args = engines(), consts = [0, 1, 2])]
fn input_gradient<const SHAPE: usize>(bencher: Bencher<'_, '_>, engine: Cpu) {
    operation::<SHAPE>(bencher, engine, Operation::InputGradient);
}

#[divan::bench(args = engines(), consts = [0, 1, 2])]
fn weight_gradient<const SHAPE: usize>(bencher: Bencher<'_, '_>, engine: Cpu) {
    operation::<SHAPE>(bencher, engine, Operation::WeightGradient);
}

#[divan::bench(args = engines(), consts = [0])]
fn norm<const SHAPE: usize>(bencher: Bencher<'_, '_>, engine: Cpu) {
    operation::<SHAPE>(bencher, engine, Operation::Norm);
}

#[divan::bench(args = engines(), consts = [0])]
fn norm_gradient<const SHAPE: usize>(bencher: Bencher<'_, '_>, engine: Cpu) {
    operation::<SHAPE>(bencher, engine, Operation::NormGradient);
}

fn main() {
    divan::main();
}
