//! Spacing and size outliers on data sets as they are: no false alarms.

use artifact::dataset::Dataset;
use artifact::fingerprint::MeasuredCase;
use artifact::image;
use fingerprint::outliers;
use serde::Deserialize;
use std::path::PathBuf;

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

fn case(id: String, shape: [usize; 3], spacing_mm: [f64; 3]) -> MeasuredCase {
    let class_voxels = vec![1, 1];
    MeasuredCase { id, shape, spacing_mm, cropped_shape: shape, relative_size: 1.0, class_voxels }
}

/// What nnU-Net measured of a Decathlon task; shapes are those of the nonzero boxes, which vary more than the images'.
#[derive(Deserialize)]
struct Theirs {
    spacings: Vec<[f64; 3]>,
    shapes_after_crop: Vec<[usize; 3]>,
}

#[test]
fn decathlon_tasks_have_no_outliers_until_one_is_made() {
    let Some(shared) = shared_data() else { return };
    let mut tasks = 0;
    for entry in std::fs::read_dir(shared.join("golden/planner")).unwrap() {
        let path = entry.unwrap().path().join("dataset_fingerprint.json");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let theirs: Theirs = serde_json::from_str(&text).unwrap();
        let pairs = theirs.spacings.iter().zip(&theirs.shapes_after_crop).enumerate();
        let mut cases: Vec<_> =
            pairs.map(|(i, (&mm, &shape))| case(format!("case_{i}"), shape, mm)).collect();
        assert_eq!(outliers(&cases), [], "{}", path.display());
        assert!(cases.len() > 30);
        for factor in [1e-3, 0.04, 0.1, 10.0, 25.4, 1e3] {
            let sound = cases[7].clone();
            cases[7].spacing_mm = sound.spacing_mm.map(|mm| mm * factor);
            let found = outliers(&cases);
            assert_eq!(found.len(), 1, "{} times {factor}: {found:?}", path.display());
            assert_eq!(found[0].subject, "case_7");
            cases[7] = sound;
        }
        tasks += 1;
    }
    assert_eq!(tasks, 6);
}

#[test]
fn real_sets_have_no_outliers() {
    let Some(shared) = shared_data() else { return };
    let (mut sets, mut images) = (0, 0);
    for entry in std::fs::read_dir(&shared).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("dataset.json").is_file() {
            continue;
        }
        let dataset = Dataset::load(&folder).unwrap();
        let cases: Vec<_> = dataset
            .training
            .iter()
            .map(|c| {
                let (geometry, _) = image::read_header(&c.images[0]).unwrap();
                case(c.id.clone(), geometry.shape, geometry.spacing_mm)
            })
            .collect();
        assert_eq!(outliers(&cases), [], "{}", folder.display());
        sets += 1;
        images += cases.len();
    }
    assert!(sets >= 10 && images >= 230, "{sets} sets, {images} images");
}
