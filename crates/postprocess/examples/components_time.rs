//! Seconds, by the wall and of computing, that connected components (26 neighbours) of a mask take, from memory to memory:
//! `cargo run --release -p postprocess --example components_time number|largest MASK.npy THREADS [OUT.npy]`.
//!
//! `number` gives every voxel its component's number and counts each component's voxels, `largest` removes all but the
//! largest one. The script that compares this with cc3d is `tests/bench/components.py`.
#![expect(clippy::print_stdout, reason = "the figures are what this is run for")]

use artifact::{Commit, npy};
use ndarray::{Array3, ArrayView3};
use postprocess::components::{Components, Connectivity};
use std::path::Path;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [job, mask, threads, out @ ..] = &arguments[..] else {
        panic!("expected number|largest MASK.npy THREADS [OUT.npy]");
    };
    let threads = threads.parse().expect("THREADS is a number");
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads start");
    let mut mask: Array3<u8> = npy::read(Path::new(mask)).expect("MASK.npy holds u8");
    let find = |mask: ArrayView3<'_, u8>| Components::of(mask, Connectivity::Corners, |&v| v > 0);
    let (begun, computed) = (Instant::now(), cpu_seconds());
    let result = match job.as_str() {
        "number" => {
            let components = find(mask.view());
            assert!(components.sizes().iter().sum::<u64>() > 0, "the mask is empty");
            Some(components.numbered())
        }
        _ => {
            find(mask.view()).keep_largest(&mut mask, 0);
            None
        }
    };
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - computed);
    eprintln!("{job}: {wall:.3} s, {cpu:.3} s of computing on {threads} threads");
    println!("{wall} {cpu}");
    if let [path] = out {
        let bytes = match result {
            Some(numbers) => {
                npy::encode(&numbers.mapv(|n| i32::try_from(n).unwrap_or(i32::MAX)).view())
            }
            None => npy::encode(&mask.view()),
        };
        Commit::file(Path::new(path), &bytes).expect("OUT.npy can be written");
    }
}

/// Seconds that all threads of this process have computed. Linux only.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has /proc");
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}
