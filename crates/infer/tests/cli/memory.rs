//! What is announced is what is taken.

use crate::world::{World, plan};
use artifact::nifti::{self, Geometry};
use ndarray::{Array4, Axis};

/// Program, stacks, tables of pages and what the allocator keeps back: what a case of a few voxels takes.
const PROGRAM_MB: f64 = 32.0;

/// Megabytes in front of and behind which these words stand.
fn megabytes(log: &str, before: &str, after: &str) -> f64 {
    let rest = &log[log.find(before).unwrap() + before.len()..];
    rest[..rest.find(after).unwrap()].trim().parse().unwrap()
}

#[test]
fn the_peak_is_as_announced() {
    let world = World::new();
    let mut plan = plan();
    let full = plan.configurations.get_mut("3d_fullres").unwrap();
    full.patch_shape = [32; 3];
    full.spacing_mm = [1.0; 3];
    for fold in [0, 1] {
        world.model(&format!("large_{fold}"), &plan, "3d_fullres", fold);
    }
    let shape = [64, 256, 256];
    let [z, y, x] = shape;
    let image = Array4::from_shape_fn((2, z, y, x), |(c, z, y, x)| {
        (1 + (z * 31 + y * 17 + x * 7 + c) % 97) as f32
    });
    let geometry = Geometry::plain(shape, [1.0; 3]);
    for (c, channel) in image.outer_iter().enumerate() {
        let bytes = nifti::encode_image(channel.insert_axis(Axis(0)), &geometry, false).unwrap();
        world.file(&format!("large/a_{c:04}.nii"), &bytes);
    }
    let one = "--model large_0 --images large --no-mirroring --step 1 --precision f32";
    let mut announced = Vec::new();
    for (i, more) in ["", "--probabilities", "--model large_1"].into_iter().enumerate() {
        let log = world.done(&format!("{one} {more} --out out_{i}"));
        let expected = megabytes(&log, "about ", " MB");
        let peak = megabytes(&log, "peak memory ", " MB");
        // Upwards: less than a twentieth is small things that are in no sum. Downwards: halos and scratch that not every
        // thread comes to use.
        let high = 1.05 * expected + PROGRAM_MB;
        assert!(peak <= high, "{more}: {peak} MB, announced {expected}");
        assert!(peak >= 0.85 * expected, "{more}: {peak} MB, announced {expected}");
        announced.push(expected);
    }
    // The image, and the averages of three outputs, in f32.
    let least = 4.0 * (2 + 3) as f64 * (z * y * x) as f64 / 1e6;
    assert!(announced[0] > least, "{announced:?}");
}
