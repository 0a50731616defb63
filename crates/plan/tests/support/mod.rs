//! Fingerprints made of numbers.
#![allow(dead_code, reason = "not every test file uses all of these")]

use artifact::Label;
use artifact::fingerprint::{Fingerprint, MeasuredCase, MeasuredChannel, MeasuredDataset};
use artifact::plan::Intensity;
use artifact::recipe::Recipe;
use plan::recipe::Resolved;

/// `count` equal cases, one channel `MRI`, `classes` classes with the background.
pub fn fingerprint(
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    count: usize,
    classes: usize,
) -> Fingerprint {
    let case = |i: usize| MeasuredCase {
        id: format!("case_{i:03}"),
        shape,
        spacing_mm,
        cropped_shape: shape,
        relative_size: 1.0,
        class_voxels: vec![10; classes],
    };
    let label = |i: i32| Label { name: format!("class {i}"), value: i };
    Fingerprint {
        dataset: MeasuredDataset {
            name: "Numbers".into(),
            file_ending: ".nii.gz".into(),
            reader: artifact::image::Reader::default(),
        },
        channels: vec![channel("MRI")],
        labels: (0..classes).map(|i| label(i32::try_from(i).expect("few classes"))).collect(),
        regions: Vec::new(),
        ignore: None,
        cases: (0..count).map(case).collect(),
    }
}

pub fn channel(name: &str) -> MeasuredChannel {
    let per_voxel = Intensity {
        mean: 1.5,
        sd: 2.0,
        min: -3.0,
        median: 1.0,
        max: 9.0,
        percentile_00_5: -2.0,
        percentile_99_5: 8.0,
    };
    // Every number differs between the weightings.
    let per_case = Intensity {
        mean: 2.5,
        sd: 3.0,
        min: -4.0,
        median: 2.0,
        max: 10.0,
        percentile_00_5: -3.0,
        percentile_99_5: 9.0,
    };
    MeasuredChannel { name: name.into(), voxels: 100, cases: 3, per_voxel, per_case }
}

pub fn paper() -> Recipe {
    let recipe = Resolved::built_in("paper").and_then(|r| r.recipe());
    recipe.expect("the built-in recipe is valid")
}

pub fn recipe(name: &str) -> Recipe {
    let recipe = Resolved::built_in(name).and_then(|r| r.recipe());
    recipe.expect("the built-in recipe is valid")
}

/// A folder of the shared data; none, with a line that says so, if it isn't there. Under CI it must be.
#[expect(clippy::disallowed_methods, reason = "CI says that the data must be there")]
pub fn shared(folder: &str) -> Option<std::path::PathBuf> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let path = path.join(folder);
    if path.is_dir() {
        return Some(path);
    }
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "{} is missing", path.display());
    eprintln!("SKIPPED: no {}", path.display());
    None
}
