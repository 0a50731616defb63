//! The second stage of a cascade: the channels of the previous stage.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/opened.rs"]
mod opened;
#[path = "support/previous.rs"]
mod previous;
#[path = "support/recipes.rs"]
mod recipes;
mod support;

use artifact::plan::Configuration;
use artifact::previous::{OpenPrevious, PreviousInfo, path};
use augment::previous::{Morphology, Operation, Removal, change};
use augment::{Aim, Draws, Elastic, Loader, Mode, Placement};
use ndarray::{Array3, Array4, Axis, s};
use opened::{cases, configuration};
use previous::{info, with_cascade, write_previous};
use std::path::Path;
use support::{phantom, plan};

const SHAPES: [[usize; 3]; 2] = [[14, 18, 12], [9, 22, 15]];

fn cascade(patch: [usize; 3]) -> Configuration {
    with_cascade(plan(patch, 4, 2)).configuration("3d_cascade_fullres").unwrap().clone()
}

/// Opens a prediction of these classes.
fn predicted(folder: &Path, info: PreviousInfo, classes: &Array3<i16>) -> OpenPrevious {
    let file = path(folder, &info.case);
    write_previous(folder, info, classes);
    OpenPrevious::open(&file).unwrap()
}

/// A loader whose previous stage predicted each case's label, with the two classes swapped if `swapped`.
fn loader(folder: &Path, patch: [usize; 3], mode: Mode, swapped: bool) -> Loader {
    let cases = cases(folder, &SHAPES, 2, false);
    let previous = (0..cases.len()).map(|i| {
        let mut classes = phantom(SHAPES[i], 2, i as u64, false).1;
        if swapped {
            classes.mapv_inplace(|c| [0, 2, 1][usize::try_from(c).unwrap()]);
        }
        predicted(folder, info(&format!("case_{i}"), &classes), &classes)
    });
    let previous = previous.collect();
    Loader::new(cases, &cascade(patch), &recipes::recipe("v2"), mode, 5)
        .unwrap()
        .with_previous(previous)
        .unwrap()
}

/// The classes that the previous stage's channels stand for.
fn classes(image: &Array4<f32>) -> Array3<i16> {
    let channels = image.slice(s![2.., .., .., ..]);
    assert!(channels.iter().all(|&v| v == 0.0 || v == 1.0));
    let sum = channels.sum_axis(Axis(0));
    assert!(sum.iter().all(|&v| v <= 1.0), "classes exclude each other");
    let weighted = &channels.index_axis(Axis(0), 0) + &(2.0 * &channels.index_axis(Axis(0), 1));
    weighted.mapv(|v| v as i16)
}

#[test]
fn validation_appends_one_channel_per_class() {
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path(), [12, 10, 16], Mode::Validation, true);
    assert_eq!((loader.channels(), loader.image_channels()), (4, 2));
    let mut beyond = 0;
    for index in 0..10 {
        let batch = loader.batch(index);
        assert_eq!(batch.image.dim(), (4, 4, 12, 10, 16));
        for sample in 0..4 {
            let found = classes(&batch.image.index_axis(Axis(0), sample).to_owned());
            let label = batch.label.index_axis(Axis(0), sample);
            let swapped = label.mapv(|c| [0, 2, 1][usize::try_from(c).unwrap()]);
            assert_eq!(found, swapped);
            beyond += usize::from(loader.placement(index, sample).lower.iter().any(|&v| v < 0));
        }
    }
    assert!(beyond > 0, "no patch left its case");
}

#[test]
fn channels_follow_every_spatial_transform() {
    let folder = tempfile::tempdir().unwrap();
    for patch in [[12, 10, 16], [4, 16, 16]] {
        let loader = loader(folder.path(), patch, Mode::Training, false);
        let elastic = Some(Elastic { alpha: 120.0, sigma: 9.0, noise: 3 });
        for (elastic, angles) in [(None, [0.4, -0.3, 0.2]), (elastic, [2.5, 0.0, 0.0])] {
            let draws = Draws {
                elastic,
                angles: Some(angles),
                scale: Some(0.9),
                gamma: Some(vec![1.3, 0.8]),
                mirror: [true, false, true],
                ..Draws::none()
            };
            let placement = Placement { case: 0, lower: [2, 1, -2], aim: Aim::Anywhere };
            let (image, label) = loader.sample(&placement, &draws);
            assert_eq!(classes(&image), label, "the previous stage was right, and stays so");
            assert!(label.iter().any(|&c| c == 1) && label.iter().any(|&c| c == 2));
        }
    }
}

#[test]
fn changes_apply_to_the_channels_alone() {
    let folder = tempfile::tempdir().unwrap();
    let loader = loader(folder.path(), [14, 18, 12], Mode::Training, false);
    let placement = Placement { case: 0, lower: [0; 3], aim: Aim::Anywhere };
    let (plain, plain_label) = loader.sample(&placement, &Draws::none());
    let morphology = vec![
        Morphology { class: 2, operation: Operation::Dilate, radius: 2 },
        Morphology { class: 1, operation: Operation::Erode, radius: 1 },
    ];
    let draws = Draws { morphology: morphology.clone(), ..Draws::none() };
    let (image, label) = loader.sample(&placement, &draws);
    assert_eq!(label, plain_label);
    assert_eq!(image.slice(s![..2, .., .., ..]), plain.slice(s![..2, .., .., ..]));
    let mut expected = plain_label.clone();
    morphology.into_iter().for_each(|m| change(&mut expected.view_mut(), m));
    assert_eq!(classes(&image), expected);
    assert_ne!(expected, plain_label);
    // Class 1 is one component: it goes if it is small enough, which 15 % of the patch is not.
    let count = |c: &Array3<i16>| c.iter().filter(|&&c| c == 1).count();
    let removal = vec![Removal { class: 1, which: 0.0 }];
    let (image, _) = loader.sample(&placement, &Draws { removal, ..Draws::none() });
    let small = count(&plain_label) * 100 < plain_label.len() * 15;
    assert_eq!(count(&classes(&image)), if small { 0 } else { count(&plain_label) });
    assert!(small && count(&plain_label) > 50);
}

#[test]
fn training_changes_some_and_validation_none() {
    let folder = tempfile::tempdir().unwrap();
    let training = loader(folder.path(), [12, 10, 16], Mode::Training, false);
    let again = loader(folder.path(), [12, 10, 16], Mode::Training, false);
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let mut changed = 0;
    for index in 0..20 {
        let batch = pool(1).install(|| training.batch(index));
        assert!(batch == pool(3).install(|| again.batch(index)), "threads changed batch {index}");
        for (image, label) in batch.image.outer_iter().zip(batch.label.outer_iter()) {
            changed += usize::from(classes(&image.to_owned()) != label);
        }
    }
    assert!((10..70).contains(&changed), "{changed} of 80 samples differ from the prediction");
}

#[test]
fn predictions_that_do_not_fit_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipes::recipe("v2");
    let new = |configuration: &Configuration| {
        let cases = cases(folder.path(), &SHAPES[..1], 2, false);
        Loader::new(cases, configuration, &recipe, Mode::Training, 0)
    };
    let patch = [8, 8, 8];
    let label = phantom(SHAPES[0], 2, 0, false).1;
    let good = info("case_0", &label);
    let error = |info: PreviousInfo, label: &Array3<i16>| {
        let previous = predicted(folder.path(), info, label);
        new(&cascade(patch)).unwrap().with_previous(vec![previous]).unwrap_err().to_string()
    };
    let start = "previous stage's prediction for case case_0: previous.";
    let other = PreviousInfo { configuration: "2d".into(), ..good.clone() };
    assert_eq!(error(other, &label), format!("{start}configuration = 2d, expected 3d_lowres"));
    let other = PreviousInfo { grid: "3d_lowres".into(), ..good.clone() };
    assert_eq!(error(other, &label), format!("{start}grid = 3d_lowres, expected 3d_fullres"));
    let other = PreviousInfo { classes: 4, ..good.clone() };
    assert_eq!(error(other, &label), format!("{start}classes = 4, expected 3"));
    let other = PreviousInfo { case: "case_7".into(), ..good.clone() };
    assert_eq!(error(other, &label), format!("{start}case = case_7, expected case_0"));
    let small = Array3::zeros((14, 18, 11));
    let expected = format!("{start}shape = [14, 18, 11], expected [14, 18, 12]");
    assert_eq!(error(info("case_0", &small), &small), expected);
    assert_eq!(
        new(&cascade(patch)).unwrap().with_previous(vec![]).unwrap_err().to_string(),
        "predictions of 3d_lowres for 0 cases, expected one for each of 1"
    );
    assert_eq!(
        new(&configuration(patch, 4, 2)).unwrap().with_previous(vec![]).unwrap_err().to_string(),
        "predictions of a previous stage were given, but this configuration has none"
    );
    let mut wide = cascade(patch);
    wide.network.input_channels = 5;
    assert_eq!(
        new(&wide).unwrap_err().to_string(),
        "case case_0: channels = 2, expected 3 (network.input_channels 5, less 2 of the previous stage)"
    );
}
