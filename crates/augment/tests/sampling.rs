//! Which patches are drawn: slices, regions, annotated voxels; and which of them are flipped.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/recipes.rs"]
mod recipes;
mod support;

use artifact::case::OpenCase;
use artifact::plan::Configuration;
use artifact::recipe::AnatomicalAxis;
use augment::{Aim, Draws, Frame, Loader, Mode};
use ndarray::{Array3, Array4};
use recipes::recipe;
use std::path::Path;
use support::{phantom, plan, write_case, write_case_as};

/// A count of `n` draws of probability `p`: within 4.9 standard deviations (normal approximation, 1e-6).
fn assert_share(what: &str, count: usize, n: usize, p: f64) {
    let (expected, sd) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    let distance = (count as f64 - expected).abs();
    assert!(distance <= 4.9 * sd + 1e-9, "{what}: {count} of {n}, expected {expected:.0}");
}

fn configuration(patch: [usize; 3], batch_size: usize, channels: usize) -> Configuration {
    plan(patch, batch_size, channels).configuration("3d_fullres").unwrap().clone()
}

fn open(folder: &Path, id: &str) -> OpenCase {
    OpenCase::open(&folder.join(id).join("case.toml")).unwrap()
}

#[test]
fn two_dimensional_patches_are_slices() {
    let folder = tempfile::tempdir().unwrap();
    let (image, label) = phantom([10, 24, 20], 1, 0, false);
    write_case(folder.path(), "case", &image, Some(&label));
    let cases = vec![open(folder.path(), "case")];
    let configuration = configuration([1, 16, 12], 6, 1);
    let loader = Loader::new(cases, &configuration, &recipe("v2"), Mode::Training, 2).unwrap();
    assert_eq!(loader.frame(), Frame::Slices(0));
    // The share of class c's voxels that lie in slice z: what v2's choice of a class, then a voxel, comes to.
    let voxels = |class: i16, z: Option<usize>| {
        let found = label.indexed_iter();
        found.filter(|((i, ..), c)| **c == class && z.is_none_or(|z| z == *i)).count()
    };
    let (mut free, mut forced) = ([0; 10], [0; 10]);
    let batches = 3000;
    for index in 0..batches {
        for sample in 0..6 {
            let placement = loader.placement(index, sample);
            let slice = usize::try_from(placement.lower[0]).unwrap();
            match placement.aim {
                Aim::Anywhere => free[slice] += 1,
                Aim::Foreground(_) => forced[slice] += 1,
                Aim::Annotated => panic!("the data set has no ignore label"),
            }
        }
    }
    // round(6 × 0.67) = 4 samples lie anywhere.
    let (n_free, n_forced) = (4 * batches as usize, 2 * batches as usize);
    for z in 0..10 {
        assert_share("any slice", free[z], n_free, 0.1);
        let share = |class| voxels(class, Some(z)) as f64 / voxels(class, None) as f64;
        assert_share("a slice of a class", forced[z], n_forced, (share(1) + share(2)) / 2.0);
    }
    let batch = loader.batch(7);
    assert_eq!((batch.image.dim(), batch.label.dim()), ((6, 1, 1, 16, 12), (6, 1, 16, 12)));
}

#[test]
fn a_two_dimensional_data_set_has_one_slice_to_draw() {
    let folder = tempfile::tempdir().unwrap();
    let (image, label) = phantom([1, 24, 20], 1, 0, false);
    assert!(label.iter().any(|&c| c > 0));
    write_case(folder.path(), "case", &image, Some(&label));
    let cases = vec![open(folder.path(), "case")];
    let configuration = configuration([1, 16, 12], 6, 1);
    let loader = Loader::new(cases, &configuration, &recipe("v2"), Mode::Training, 2).unwrap();
    for index in 0..50 {
        assert!((0..6).all(|sample| loader.placement(index, sample).lower[0] == 0));
        assert!(loader.batch(index).image.iter().any(|&v| v != 0.0));
    }
}

/// Rows of foreground.npy for voxels of these classes, numbered `number`.
fn rows(label: &Array3<i16>, number: i32, of: impl Fn(i16) -> bool) -> Vec<[i32; 4]> {
    let at = |v: usize| i32::try_from(v).unwrap();
    let found = label.indexed_iter().filter(|(_, class)| of(**class));
    found.map(|((z, y, x), _)| [number, at(z), at(y), at(x)]).collect()
}

#[test]
fn regions_are_drawn_as_classes_are() {
    let folder = tempfile::tempdir().unwrap();
    let (image, label) = phantom([14, 18, 12], 1, 0, false);
    // Region 1 is everything, region 2 the back alone.
    let regions = [rows(&label, 1, |c| c > 0), rows(&label, 2, |c| c == 2)].concat();
    write_case_as(folder.path(), "case", &image, &label, &regions, |case| case.case.regions = 2);
    let mut configuration = configuration([6, 6, 6], 6, 1);
    let new = |c: &Configuration| {
        Loader::new(vec![open(folder.path(), "case")], c, &recipe("v2"), Mode::Training, 2)
    };
    assert_eq!(
        new(&configuration).unwrap_err().to_string(),
        "case case: regions = 2, expected 3 (network.output_channels)"
    );
    configuration.network.output_channels = 2;
    let loader = new(&configuration).unwrap();
    let mut count = [0; 3];
    for index in 0..1000 {
        for sample in 4..6 {
            let placement = loader.placement(index, sample);
            let Aim::Foreground(region) = placement.aim else {
                panic!("sample {sample} is forced")
            };
            count[region] += 1;
            let centre = placement.lower.map(|v| usize::try_from(v + 3).unwrap());
            let class = label[centre];
            // The box begins at 0 at the earliest, so its centre isn't always the voxel.
            let clamped = placement.lower.contains(&0);
            assert!(clamped || class == 2 || region == 1 && class == 1, "{placement:?}: {class}");
        }
    }
    assert_share("region", count[1], 2000, 0.5);
}

#[test]
fn with_an_ignore_label_every_patch_shows_an_annotated_voxel() {
    let folder = tempfile::tempdir().unwrap();
    let (image, mut label) = phantom([16, 40, 40], 1, 0, true);
    // Annotated are two slices alone; class index 3 is ignored.
    for ((z, ..), class) in label.indexed_iter_mut() {
        if !(5..7).contains(&z) && *class >= 0 {
            *class = 3;
        }
    }
    let locations = [
        rows(&label, -1, |c| (0..3).contains(&c)),
        rows(&label, 1, |c| c == 1),
        rows(&label, 2, |c| c == 2),
    ];
    let ignore = |case: &mut artifact::case::Case| case.case.ignore = true;
    write_case_as(folder.path(), "case", &image, &label, &locations.concat(), ignore);
    write_case_as(folder.path(), "bare", &image, &label, &locations[0], ignore);
    let configuration = configuration([4, 16, 16], 6, 1);
    let cases = vec![open(folder.path(), "case"), open(folder.path(), "bare")];
    let loader = Loader::new(cases, &configuration, &recipe("v2"), Mode::Training, 2).unwrap();
    let (mut seen, mut patches) = ([0; 4], 0);
    for index in 0..200 {
        let batch = loader.batch(index);
        for sample in 0..6 {
            let placement = loader.placement(index, sample);
            match placement.aim {
                Aim::Foreground(class) => assert!(sample >= 4 && placement.case == 0 && class < 3),
                Aim::Annotated => assert!(sample < 4 || placement.case == 1),
                Aim::Anywhere => panic!("batch {index}, sample {sample}"),
            }
            // Slices 3 to 6 begin a patch of 4 that shows slice 5 or 6 in its middle.
            assert!((3..=4).contains(&placement.lower[0]), "{placement:?}");
            patches += 1;
        }
        batch.label.iter().for_each(|&c| seen[usize::try_from(c).unwrap()] += 1);
    }
    // The ignore class keeps its index, whatever the interpolation; −1 became the background.
    assert!(patches == 1200 && seen.iter().all(|&n| n > 1000), "{seen:?}");
}

#[test]
fn an_ignored_voxel_is_a_class_of_its_own_between_others() {
    let folder = tempfile::tempdir().unwrap();
    // Background left, ignored right: between them there is nothing else, turn as one may.
    let label = Array3::from_shape_fn((20, 20, 20), |(_, _, x)| if x < 10 { 0 } else { 3 });
    let image = Array4::ones((1, 20, 20, 20));
    let locations = rows(&label, -1, |c| c == 0);
    write_case_as(folder.path(), "case", &image, &label, &locations, |case| {
        case.case.ignore = true;
    });
    let cases = vec![open(folder.path(), "case")];
    let configuration = configuration([12, 12, 12], 2, 1);
    let loader = Loader::new(cases, &configuration, &recipe("v2"), Mode::Training, 2).unwrap();
    let mut placement = loader.placement(0, 0);
    placement.lower = [4, 4, 4];
    let draws = Draws { angles: Some([0.4, 0.3, -0.5]), scale: Some(0.8), ..Draws::none() };
    let (_, label) = loader.sample(&placement, &draws);
    assert!(label.iter().all(|&c| c == 0 || c == 3));
    assert!(label.iter().any(|&c| c == 0) && label.iter().any(|&c| c == 3));
}

#[test]
fn a_body_axis_that_is_never_mirrored_is_found_in_each_case() {
    let folder = tempfile::tempdir().unwrap();
    let (image, label) = phantom([14, 18, 12], 1, 0, false);
    let locations = rows(&label, 1, |c| c == 1);
    // LPS columns x, y, z. In the second case the first image axis goes to the back, the second to the head.
    let psr = [[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    write_case_as(folder.path(), "lps", &image, &label, &locations, |_| {});
    write_case_as(folder.path(), "psr", &image, &label, &locations, |case| {
        case.original.geometry.direction = psr;
    });
    let cases = vec![open(folder.path(), "lps"), open(folder.path(), "psr")];
    let mut recipe = recipe("v2");
    recipe.augmentation.never_mirror = vec![AnatomicalAxis::LeftRight];
    let loader =
        Loader::new(cases, &configuration([8, 8, 8], 4, 1), &recipe, Mode::Training, 2).unwrap();
    let mut flips = [[0; 3]; 2];
    for index in 0..1000 {
        for (case, flips) in flips.iter_mut().enumerate() {
            let mirror = loader.draws(case, index, 0).mirror;
            (0..3).for_each(|axis| flips[axis] += usize::from(mirror[axis]));
        }
    }
    for (case, forbidden) in [(0, 2), (1, 0)] {
        for axis in 0..3 {
            let p = if axis == forbidden { 0.0 } else { 0.5 };
            assert_share("flips", flips[case][axis], 1000, p);
        }
    }
}
