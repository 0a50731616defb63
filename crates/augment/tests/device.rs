//! Batches made on a card, or in the simulator, against those of the CPU: the reference of every test here. With
//! `NNU_TEST_CUDA` set they run on card 0 too.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/opened.rs"]
mod opened;
#[path = "support/previous.rs"]
mod previous;
#[path = "support/recipes.rs"]
mod recipes;
mod support;

use artifact::plan::Configuration;
use artifact::previous::{OpenPrevious, path};
use artifact::recipe::{Augmentation, Recipe, SliceAxis};
use augment::device::DeviceLoader;
use augment::{Frame, Loader, Mode, SampledBatch};
use kernels::{Gpu, Order, SimOptions, test_gpus};
use ndarray::{Array4, Array5};
use opened::{cases, configuration};
use previous::{info, with_cascade, write_previous};
use std::path::Path;
use support::{phantom, plan};

/// The second is smaller than most patches here; of the third, a patch's spline reaches a part alone.
const SHAPES: [[usize; 3]; 3] = [[24, 30, 22], [9, 22, 15], [31, 40, 90]];

/// Memory for all cases.
const ENOUGH: u64 = 1 << 30;

/// What differs from the CPU may come to this many half units in the last place of the batch's largest value. Sums and
/// products are the same, mostly in the same order, but a card joins many of them into one rounding; statistics and
/// displacements are summed in another one. The farthest comes from the latter: a displacement of up to 200 voxels
/// before smoothing, in single precision, is off by 1e-6 voxels or so on each axis, and the image's slope is up to its
/// largest value per voxel. A simulator with contraction comes to 41.
const ROUNDINGS: f32 = 128.0;

/// The share of voxels that may lie on the other side of a boundary: of a class, or of the case. Coordinates differ by
/// rounding: by 1e-13 voxels, or by 1e-6 where a displacement, in single precision, was added up in another order. A
/// boundary that decides that close to a voxel is expected in less than one of 100 000.
const BEYOND: f64 = 1e-4;

/// Recipe v2 without any transform.
fn bare() -> Recipe {
    let mut recipe = recipes::recipe("v2");
    let a = &mut recipe.augmentation;
    for probability in [
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
        &mut a.previous_morphology_probability,
        &mut a.previous_removal_probability,
    ] {
        *probability = 0.0;
    }
    recipe
}

/// [`bare`] with some of it changed.
fn with(change: impl FnOnce(&mut Augmentation)) -> Recipe {
    let mut recipe = bare();
    change(&mut recipe.augmentation);
    recipe
}

/// A recipe in which everything fires, mostly.
fn busy(name: &str) -> Recipe {
    let mut recipe = recipes::recipe(name);
    let a = &mut recipe.augmentation;
    let often = if name == "paper" { 0.0 } else { 0.6 };
    for probability in [
        &mut a.noise_probability,
        &mut a.blur_probability,
        &mut a.brightness_probability,
        &mut a.contrast_probability,
        &mut a.low_resolution_probability,
        &mut a.inverted_gamma_probability,
    ] {
        *probability = often;
    }
    for probability in
        [&mut a.rotation_probability, &mut a.scaling_probability, &mut a.gamma_probability]
    {
        *probability = 0.5;
    }
    a.previous_morphology_probability = 0.7;
    a.previous_removal_probability = 0.7;
    recipe
}

fn download(gpu: &Gpu, loader: &mut DeviceLoader, index: u64) -> SampledBatch {
    let [z, y, x] = loader.loader().settings().patch;
    let (n, c) = (loader.loader().batch_size(), loader.loader().channels());
    let reader = gpu.stream().unwrap();
    let batch = loader.batch(index).unwrap();
    reader.wait(&batch.ready).unwrap();
    let mut image = Array5::zeros((n, c, z, y, x));
    let mut label = Array4::zeros((n, z, y, x));
    reader.download(batch.image, image.as_slice_mut().unwrap()).unwrap();
    reader.download(batch.label, label.as_slice_mut().unwrap()).unwrap();
    let cases = batch.cases.clone();
    loader.give_back(batch.done(&reader).unwrap());
    SampledBatch { image, label, cases }
}

/// Holds a batch against the CPU's.
fn assert_same(what: &str, found: &SampledBatch, expected: &SampledBatch) {
    assert_eq!(found.cases, expected.cases, "{what}");
    let largest = expected.image.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let tolerance = ROUNDINGS * f32::EPSILON / 2.0 * largest;
    let beyond = found
        .image
        .iter()
        .zip(&expected.image)
        .filter(|(a, b)| a.is_nan() || (*a - *b).abs() > tolerance)
        .count();
    let worst =
        found.image.iter().zip(&expected.image).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let voxels = found.image.len() as f64;
    assert!(
        beyond as f64 <= BEYOND * voxels,
        "{what}: {beyond} of {voxels} values differ by more than {tolerance:e}, at most {worst:e}"
    );
    let differ = found.label.iter().zip(&expected.label).filter(|(a, b)| a != b).count();
    assert!(
        differ as f64 <= BEYOND * found.label.len() as f64,
        "{what}: {differ} of {} labels differ",
        found.label.len()
    );
}

/// Builds a loader afresh: devices take theirs over.
type Build<'a> = &'a dyn Fn() -> Loader;

/// Batches of every device against the CPU's.
fn check(what: &str, build: Build<'_>, batches: u64) {
    let reference = build();
    for gpu in test_gpus() {
        let mut device = DeviceLoader::new(build(), &gpu, ENOUGH).unwrap();
        assert!(device.all_cases_stay());
        for index in 0..batches {
            let expected = reference.batch(index);
            let found = download(&gpu, &mut device, index);
            assert_same(&format!("{what}, {}, batch {index}", gpu.card().name), &found, &expected);
        }
    }
}

fn build(folder: &Path, recipe: &Recipe, patch: [usize; 3], mode: Mode) -> Loader {
    let cases = cases(folder, &SHAPES, 2, true);
    Loader::new(cases, &configuration(patch, 4, 2), recipe, mode, 7).unwrap()
}

/// One recipe in patches of several shapes, among them such that leave their cases.
fn check_patches(what: &str, recipe: &Recipe, patches: &[[usize; 3]]) {
    let folder = tempfile::tempdir().unwrap();
    for &patch in patches {
        let build = || build(folder.path(), recipe, patch, Mode::Training);
        check(&format!("{what}, patch {patch:?}"), &build, 3);
    }
}

const VOLUME: [usize; 3] = [20, 26, 18];
const SLICES: [usize; 3] = [1, 30, 26];
const FRAMES: [[usize; 3]; 5] = [VOLUME, SLICES, [5, 24, 28], [26, 6, 24], [24, 28, 5]];

#[test]
fn plain_crops_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [Mode::Validation, Mode::Training] {
        for patch in [VOLUME, SLICES, [33, 20, 40]] {
            let build = || build(folder.path(), &bare(), patch, mode);
            let reference = build();
            for gpu in test_gpus() {
                let mut device = DeviceLoader::new(build(), &gpu, ENOUGH).unwrap();
                for index in 0..4 {
                    assert!(download(&gpu, &mut device, index) == reference.batch(index));
                }
            }
        }
    }
}

#[test]
fn rotation_and_scaling_in_every_order_and_frame() {
    for (image_order, label_order) in [(0, 0), (1, 1), (3, 1)] {
        let recipe = with(|a| {
            a.slice_by_slice_axis = SliceAxis::Shortest;
            a.rotation_probability = 0.8;
            a.scaling_probability = 0.8;
            (a.image_order, a.label_order) = (image_order, label_order);
        });
        check_patches(&format!("order {image_order}"), &recipe, &FRAMES);
    }
    let frame = |patch| {
        Frame::of(patch, &with(|a| a.slice_by_slice_axis = SliceAxis::Shortest).augmentation)
    };
    let expected =
        [Frame::Volume, Frame::Slices(0), Frame::Slices(0), Frame::Slices(1), Frame::Slices(2)];
    assert_eq!(FRAMES.map(frame), expected);
}

#[test]
fn elastic_deformation() {
    for (image_order, sigma) in [(1, [9.0, 13.0]), (3, [2.0, 5.0])] {
        let recipe = with(|a| {
            a.slice_by_slice_axis = SliceAxis::Shortest;
            a.elastic_probability = 0.8;
            a.rotation_probability = 0.5;
            a.elastic_sigma = sigma;
            a.elastic_alpha_3d = [50.0, 200.0];
            a.image_order = image_order;
        });
        check_patches("elastic", &recipe, &[VOLUME, SLICES, [26, 6, 24], [70, 12, 40]]);
    }
}

#[test]
fn noise() {
    check_patches("noise", &with(|a| a.noise_probability = 0.8), &[VOLUME, [1, 17, 13]]);
}

#[test]
fn blur() {
    let recipe = with(|a| {
        a.blur_probability = 0.8;
        a.blur_sigma = [0.3, 4.0];
    });
    check_patches("blur", &recipe, &[VOLUME, SLICES, [5, 3, 28]]);
}

#[test]
fn brightness_and_contrast() {
    check_patches("brightness", &with(|a| a.brightness_probability = 0.8), &[VOLUME]);
    check_patches("contrast", &with(|a| a.contrast_probability = 0.8), &[VOLUME, SLICES]);
    let both = with(|a| (a.brightness_probability, a.contrast_probability) = (0.7, 0.7));
    check_patches("both", &both, &[VOLUME, [33, 40, 31]]);
}

#[test]
fn low_resolution() {
    let recipe = with(|a| {
        a.low_resolution_probability = 0.8;
        a.low_resolution_zoom = [0.1, 1.0];
    });
    check_patches("low resolution", &recipe, &FRAMES);
}

#[test]
fn gammas() {
    for retain in [false, true] {
        for (inverted, plain) in [(0.8, 0.0), (0.0, 0.8), (0.8, 0.8)] {
            let recipe = with(|a| {
                a.inverted_gamma_probability = inverted;
                a.gamma_probability = plain;
                a.gamma_retain_statistics = retain;
            });
            check_patches("gamma", &recipe, &[VOLUME, [33, 40, 31]]);
        }
    }
}

#[test]
fn mirroring_moves_image_label_and_noise() {
    let mirror = with(|a| a.mirror_probability = 0.5);
    check_patches("mirroring", &mirror, &[VOLUME, SLICES]);
    let more = with(|a| {
        a.mirror_probability = 0.5;
        (a.noise_probability, a.low_resolution_probability, a.rotation_probability) =
            (0.7, 0.7, 0.5);
    });
    check_patches("mirroring", &more, &[VOLUME, SLICES]);
}

#[test]
fn masked_channels() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = with(|a| {
        (a.gamma_probability, a.noise_probability, a.mirror_probability) = (0.5, 0.5, 0.5);
        a.rotation_probability = 0.5;
    });
    let build = || {
        build(folder.path(), &recipe, [24, 30, 20], Mode::Training)
            .with_masked_channels(&[true, false])
    };
    check("masked", &build, 3);
    let batch = build().batch(0);
    let zeros = |channel| {
        let image = batch.image.index_axis(ndarray::Axis(1), channel);
        image.iter().filter(|v| **v == 0.0).count()
    };
    assert!(zeros(0) > zeros(1), "nothing is masked");
}

#[test]
fn whole_recipes() {
    for name in ["paper", "v2"] {
        check_patches(name, &busy(name), &FRAMES);
        check_patches(name, &recipes::recipe(name), &[VOLUME, SLICES]);
    }
}

fn cascade(patch: [usize; 3]) -> Configuration {
    with_cascade(plan(patch, 4, 2)).configuration("3d_cascade_fullres").unwrap().clone()
}

/// A loader of a cascade whose previous stage saw the label, and crumbs of either class.
fn build_cascade(
    folder: &Path,
    shapes: &[[usize; 3]],
    recipe: &Recipe,
    patch: [usize; 3],
) -> Loader {
    let cases = cases(folder, shapes, 2, true);
    let previous = shapes.iter().enumerate().map(|(i, &shape)| {
        let id = format!("case_{i}");
        let mut classes = phantom(shape, 2, i as u64, true).1.mapv(|class| class.max(0));
        for ((z, y, x), class) in classes.indexed_iter_mut() {
            if (z * 31 + y * 17 + x * 7) % 89 < 2 {
                *class = 1 + i16::from((z + y) % 3 == 0);
            }
        }
        write_previous(folder, info(&id, &classes), &classes);
        OpenPrevious::open(&path(folder, &id)).unwrap()
    });
    let previous = previous.collect();
    Loader::new(cases, &cascade(patch), recipe, Mode::Training, 5)
        .unwrap()
        .with_previous(previous)
        .unwrap()
}

#[test]
fn a_cascade_s_previous_stage() {
    let folder = tempfile::tempdir().unwrap();
    let morphology = with(|a| {
        a.previous_morphology_probability = 0.9;
        a.mirror_probability = 0.5;
    });
    let removal = with(|a| {
        a.previous_removal_probability = 0.9;
        a.mirror_probability = 0.5;
    });
    for (what, recipe) in [
        ("the classes alone", &bare()),
        ("morphology", &morphology),
        ("removal", &removal),
        ("everything", &busy("v2")),
        ("everything", &busy("paper")),
    ] {
        for patch in [VOLUME, [5, 24, 28], [33, 40, 31]] {
            check(what, &|| build_cascade(folder.path(), &SHAPES, recipe, patch), 4);
        }
    }
}

#[test]
fn cases_that_come_and_go_give_the_same_bytes_as_those_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = [[24, 30, 22], [26, 28, 22], [22, 30, 24], [24, 26, 24]];
    for recipe in [busy("v2"), busy("paper")] {
        let build = || build_cascade(folder.path(), &shapes, &recipe, VOLUME);
        // The largest case: two channels, coefficients for order 3, label and previous stage.
        let voxels = shapes.iter().map(|shape| shape.iter().product::<usize>()).max().unwrap();
        let images = if recipe.augmentation.image_order == 3 { 2 } else { 1 };
        let largest = ((2 * 4 * images + 2 * 2) * voxels + 4 * 256) as u64;
        for gpu in test_gpus() {
            let mut all = DeviceLoader::new(build(), &gpu, ENOUGH).unwrap();
            let expected: Vec<_> = (0..6).map(|index| download(&gpu, &mut all, index)).collect();
            for slots in [1, 2, 3] {
                let mut few = DeviceLoader::new(build(), &gpu, slots * largest).unwrap();
                assert!(!few.all_cases_stay() && all.all_cases_stay());
                for index in [0, 1, 2, 3, 4, 5, 0] {
                    let found = download(&gpu, &mut few, index as u64);
                    assert!(found == expected[index], "batch {index}, room for {slots} cases");
                }
            }
        }
    }
}

#[test]
fn threads_blocks_and_repetition_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = busy("v2");
    let build = || build_cascade(folder.path(), &SHAPES, &recipe, VOLUME);
    let run = |gpu: &Gpu| {
        let mut device = DeviceLoader::new(build(), gpu, ENOUGH).unwrap();
        (0..4).map(|index| download(gpu, &mut device, index)).collect::<Vec<_>>()
    };
    for gpu in test_gpus() {
        assert!(run(&gpu) == run(&gpu));
    }
    let first = run(&Gpu::sim(SimOptions::default()));
    for order in Order::ALL {
        let gpu = Gpu::sim(SimOptions { order, ..SimOptions::default() });
        assert!(run(&gpu) == first, "{order:?}");
    }
}

#[test]
fn too_little_memory_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let build = || build(folder.path(), &busy("v2"), VOLUME, Mode::Training);
    let gpu = Gpu::sim(SimOptions { memory: 1 << 20, ..SimOptions::default() });
    let needed = DeviceLoader::bytes(&build());
    let error = DeviceLoader::new(build(), &gpu, ENOUGH).unwrap_err().to_string();
    let expected = format!("augmentation needs {needed} bytes of GPU memory, ");
    assert!(error.starts_with(&expected) && !error.contains('\n'), "{error}");
    let gpu = Gpu::sim(SimOptions::default());
    let error = DeviceLoader::new(build(), &gpu, 1 << 10).unwrap_err().to_string();
    assert!(error.starts_with("the largest case needs "), "{error}");
    assert!(error.contains(" bytes of GPU memory, 1024 are free; "), "{error}");
}

#[test]
#[should_panic(expected = "the batch before the last one was not given back")]
fn a_third_batch_needs_the_first_one_s_place() {
    let folder = tempfile::tempdir().unwrap();
    let loader = build(folder.path(), &bare(), VOLUME, Mode::Training);
    let gpu = Gpu::sim(SimOptions::default());
    let mut device = DeviceLoader::new(loader, &gpu, ENOUGH).unwrap();
    let batches: Vec<_> = (0..3).map(|index| device.batch(index).unwrap()).collect();
    drop(batches);
}
