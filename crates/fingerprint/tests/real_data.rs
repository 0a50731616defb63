//! Whole data sets against numpy, scipy and SimpleITK.

use artifact::dataset::Dataset;
use artifact::plan::Intensity;
use fingerprint::measure;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    channels: Vec<Channel>,
}

/// Id, shape, spacing, shape of the crop box, voxels per class.
type Case = (String, [usize; 3], [f64; 3], [usize; 3], Vec<u64>);

#[derive(Deserialize)]
struct Channel {
    voxels: u64,
    #[serde(flatten)]
    intensity: Intensity,
}

fn shared_data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    #[expect(clippy::disallowed_methods, reason = "CI must not skip silently")]
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "{} is missing", folder.display());
    eprintln!("SKIPPED: {} is missing", folder.display());
    None
}

#[test]
fn fingerprints_are_what_numpy_measures() {
    let Some(shared) = shared_data() else { return };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/real_data.json");
    let golden: BTreeMap<String, Golden> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, golden) in golden {
        let folder = shared.join(&name);
        let dataset = Dataset::load(&folder).unwrap();
        let report = measure(&folder, &dataset, || true).unwrap().unwrap();
        assert_eq!(report.problems, [], "{name}");
        let found = report.fingerprint.unwrap();
        assert_eq!(found.cases.len(), golden.cases.len(), "{name}");
        for (case, (id, shape, spacing, cropped, classes)) in found.cases.iter().zip(golden.cases) {
            assert_eq!((&case.id, case.shape, case.cropped_shape), (&id, shape, cropped), "{name}");
            assert_eq!((case.spacing_mm, &case.class_voxels), (spacing, &classes), "{name} {id}");
            let part =
                cropped.iter().product::<usize>() as f64 / shape.iter().product::<usize>() as f64;
            assert_eq!(case.relative_size, part, "{name} {id}");
        }
        for (channel, golden) in found.channels.iter().zip(golden.channels) {
            assert_eq!(channel.voxels, golden.voxels, "{name}");
            let (found, expected) = (channel.intensity, golden.intensity);
            assert_eq!((found.min, found.max), (expected.min, expected.max), "{name}");
            // Sums of n f64 terms in another order; the error of random roundings grows as √n, the bound is 10 of those.
            let bound = 10.0 * f64::EPSILON * (golden.voxels as f64).sqrt() * expected.max.abs();
            assert!((found.mean - expected.mean).abs() <= bound, "{name}");
            assert!((found.sd - expected.sd).abs() <= bound, "{name}");
            for (found, expected) in [
                (found.median, expected.median),
                (found.percentile_00_5, expected.percentile_00_5),
                (found.percentile_99_5, expected.percentile_99_5),
            ] {
                // The width of a bucket.
                assert!(
                    (found - expected).abs() <= 2f64.powi(-13) * expected.abs(),
                    "{name}: {found}, {expected}"
                );
            }
        }
    }
}
