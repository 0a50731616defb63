//! Seconds, by the wall and of computing, that a loader takes for samples of recipe `v2` with patches of 128³ voxels from one
//! case: `cargo run --release -p augment --example augment_time CASE_FOLDER THREADS SAMPLES TRANSFORM`.
//!
//! CASE_FOLDER holds image.npy (f32) and label.npy (i16), both `[z, y, x]`. TRANSFORM is `all`, for the recipe as it is,
//! or one that fires in every sample while no other does. `tests/bench/augment.py` compares this with batchgeneratorsv2.
#![expect(clippy::print_stdout, reason = "the figures are what this is run for")]
#![expect(clippy::unwrap_used, reason = "the helpers are those of the tests")]

#[path = "../tests/support/opened.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod opened;
#[path = "../tests/support/recipes.rs"]
mod recipes;
#[path = "../tests/support/mod.rs"]
mod support;

use artifact::case::OpenCase;
use artifact::npy;
use artifact::recipe::{Augmentation, Recipe};
use augment::{Loader, Mode};
use ndarray::{Array3, Axis};
use std::path::Path;
use std::time::Instant;

const PATCH: [usize; 3] = [128; 3];
const BATCH: usize = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, threads, samples, transform] = &arguments[..] else {
        panic!("expected CASE_FOLDER THREADS SAMPLES TRANSFORM");
    };
    let samples: u64 = samples.parse().expect("SAMPLES is a number");
    let threads: usize = threads.parse().expect("THREADS is a number");
    let loader = loader(Path::new(folder), &recipe(transform));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let mut batch = loader.batch(0);
    let (begun, computed) = (Instant::now(), cpu_seconds());
    for index in 0..samples / BATCH as u64 {
        pool.install(|| loader.refill(index, &mut batch));
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - computed);
    let ms = 1000.0 * cpu / samples as f64;
    eprintln!("{transform}: {ms:.2} ms of computing a sample, {threads} threads");
    println!("{wall} {cpu}");
}

fn loader(folder: &Path, recipe: &Recipe) -> Loader {
    let read = "image.npy and label.npy are volumes";
    let image: Array3<f32> = npy::read(&folder.join("image.npy")).expect(read);
    let label: Array3<i16> = npy::read(&folder.join("label.npy")).expect(read);
    support::write_case(folder, "case", &image.insert_axis(Axis(0)), Some(&label));
    let case = OpenCase::open(&folder.join("case/case.toml")).expect("it was just written");
    let configuration = opened::configuration(PATCH, BATCH, 1);
    Loader::new(vec![case], &configuration, recipe, Mode::Training, 0).expect("one sound case")
}

/// Recipe v2, or one transform of it for certain.
fn recipe(transform: &str) -> Recipe {
    let mut recipe = recipes::recipe("v2");
    let a = &mut recipe.augmentation;
    if transform == "all" {
        return recipe;
    }
    for probability in probabilities(a) {
        *probability = 0.0;
    }
    a.blur_channel_probability = 1.0;
    a.low_resolution_channel_probability = 1.0;
    let fired: &mut [&mut f64] = match transform {
        "nothing" => &mut [],
        "spatial" => &mut [&mut a.rotation_probability, &mut a.scaling_probability],
        "noise" => &mut [&mut a.noise_probability],
        "blur" => &mut [&mut a.blur_probability],
        "brightness" => &mut [&mut a.brightness_probability],
        "contrast" => &mut [&mut a.contrast_probability],
        "low_resolution" => &mut [&mut a.low_resolution_probability],
        "inverted_gamma" => &mut [&mut a.inverted_gamma_probability],
        "gamma" => &mut [&mut a.gamma_probability],
        "mirror" => &mut [&mut a.mirror_probability],
        _ => panic!("no transform {transform}"),
    };
    for probability in fired {
        **probability = 1.0;
    }
    recipe
}

fn probabilities(a: &mut Augmentation) -> [&mut f64; 11] {
    [
        &mut a.elastic_probability,
        &mut a.rotation_probability,
        &mut a.scaling_probability,
        &mut a.noise_probability,
        &mut a.blur_probability,
        &mut a.brightness_probability,
        &mut a.contrast_probability,
        &mut a.low_resolution_probability,
        &mut a.inverted_gamma_probability,
        &mut a.gamma_probability,
        &mut a.mirror_probability,
    ]
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
