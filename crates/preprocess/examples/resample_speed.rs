//! Resamples an image and a label map from 1×0.7×0.7 mm to 0.8 mm and says what it took: cubic image, linear label vote.
//!
//! `resample_speed image|label IN.npy OUT.npy`: f32 or i16, `[z, y, x]`. Run by `tests/bench/resample.py`.
#![expect(clippy::print_stdout, reason = "the figures are what this is run for")]

use artifact::recipe::LabelVote;
use artifact::{Commit, npy};
use ndarray::Ix3;
use preprocess::resample::{self, LabelRules};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const FROM: [f64; 3] = [1.0, 0.7, 0.7];
const TO: [f64; 3] = [0.8, 0.8, 0.8];
const VOTE: LabelRules = LabelRules {
    order: 1,
    coarse_order: 0,
    vote: LabelVote::LargestWeight,
    anisotropy_threshold: 3.0,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, source, target] = &args[..] else { return Err("image|label IN OUT".into()) };
    let (source, target) = (Path::new(source), Path::new(target));
    let bytes = if kind == "image" {
        let image = npy::read::<f32, Ix3>(source)?;
        let shape = resample::new_shape(image.dim().into(), FROM, TO);
        let out = timed(|| resample::resample(image.view(), FROM, TO, shape, 3, 0, 3.0));
        npy::encode(&out.view())
    } else {
        let label = npy::read::<i16, Ix3>(source)?;
        let shape = resample::new_shape(label.dim().into(), FROM, TO);
        let out = timed(|| resample::resample_label(label.view(), FROM, TO, shape, VOTE));
        npy::encode(&out.view())
    };
    Ok(Commit::file(target, &bytes)?)
}

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let (begun, used) = (Instant::now(), cpu_seconds());
    let out = work();
    println!("{:.4} s wall, {:.2} s CPU", begun.elapsed().as_secs_f64(), cpu_seconds() - used);
    out
}

/// User and system time of this process, to a hundredth of a second: fields 14 and 15 of Linux' `/proc/self/stat`.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}
