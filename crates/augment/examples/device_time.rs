//! Samples per second that a card makes, 128 × 128 × 128 voxels, one channel, batches of 2, from eight phantoms; the first
//! batches, which bring cases and kernels, aren't counted:
//!
//! `cargo run --release -p augment --example device_time [paper|v2] [MiB for the cases] [cuda|sim]`
//!
//! Less than 200 MiB makes cases come and go. On the simulator, patches are of 24 × 24 × 24 voxels: a trial of the program.
#![expect(clippy::unwrap_used, reason = "a measurement that fails ends")]

#[path = "../tests/support/opened.rs"]
mod opened;
#[path = "../tests/support/recipes.rs"]
mod recipes;
#[path = "../tests/support/mod.rs"]
mod support;

use augment::device::DeviceLoader;
use augment::{Loader, Mode};
use kernels::{Gpu, SimOptions, Stream};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument =
        |i: usize, default: &str| arguments.get(i).map_or(default, String::as_str).to_owned();
    let (name, memory, device) = (argument(1, "v2"), argument(2, "4096"), argument(3, "cuda"));
    let sim = device == "sim";
    let gpu = if sim { Gpu::sim(SimOptions::default()) } else { Gpu::cuda(0).unwrap() };
    let (patch, shape, batches) =
        if sim { ([24; 3], [30, 40, 30], 4) } else { ([128; 3], [150, 200, 170], 500) };
    let folder = tempfile::tempdir().unwrap();
    let cases = opened::cases(folder.path(), &[shape; 8], 1, false);
    let configuration = opened::configuration(patch, 2, 1);
    let loader =
        Loader::new(cases, &configuration, &recipes::recipe(&name), Mode::Training, 0).unwrap();
    let memory: u64 = memory.parse().unwrap();
    let mut loader = DeviceLoader::new(loader, &gpu, memory << 20).unwrap();
    let reader = gpu.stream().unwrap();
    (0..20).for_each(|index| take(&mut loader, &reader, index));
    reader.synchronise().unwrap();
    let begun = Instant::now();
    (20..20 + batches).for_each(|index| take(&mut loader, &reader, index));
    reader.synchronise().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let samples = 2.0 * batches as f64;
    eprintln!(
        "{}, recipe {name}, patch {patch:?}, cases {}: {:.0} samples/s, {:.3} ms a sample",
        gpu.card().name,
        if loader.all_cases_stay() { "in memory" } else { "come and go" },
        samples / seconds,
        1000.0 * seconds / samples
    );
}

/// A batch, as a network would take it.
fn take(loader: &mut DeviceLoader, reader: &Stream, index: u64) {
    let batch = loader.batch(index).unwrap();
    reader.wait(&batch.ready).unwrap();
    loader.give_back(batch.done(reader).unwrap());
}
