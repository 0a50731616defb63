//! Scores, postprocessing and ensembling against what nnU-Net's own functions gave (`golden/make_nnunet.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::recipe::{Postprocessing as Recipe, PostprocessingRule};
use artifact::{Commit, Label, Region, npy};
use half::f16;
use ndarray::{Array3, Array4};
use postprocess::average::Members;
use postprocess::decision::{Decision, Rule};
use postprocess::fit::{examine, fit};
use postprocess::largest::apply;
use postprocess::scheme::Scheme;
use postprocess::score::{Counts, summarise};
use serde_json::Value;
use std::convert::Infallible;
use std::path::PathBuf;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/nnunet.json")).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn whole(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

/// A number, or NaN for null.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// One digit per voxel.
fn map(digits: &Value, shape: (usize, usize, usize)) -> Array3<i16> {
    let digits = digits.as_str().unwrap().bytes().map(|b| i16::from(b - b'0')).collect();
    Array3::from_shape_vec(shape, digits).unwrap()
}

const SHAPE: (usize, usize, usize) = (3, 8, 8);

/// Label values are class indices in these sets.
fn scheme(set: &Value) -> Scheme {
    let label = |value: i32| Label { name: format!("label {value}"), value };
    let classes = whole(&set["classes"]);
    let region = |(at, values): (usize, &Value)| Region {
        name: format!("region {at}"),
        values: list(values).iter().map(whole).collect(),
        value: i32::try_from(at + 1).unwrap(),
    };
    Scheme {
        labels: (0..classes).map(label).collect(),
        regions: list(&set["regions"]).iter().enumerate().map(region).collect(),
        ignore: set["ignore"].as_i64().map(|_| label(whole(&set["ignore"]))),
    }
}

/// Numbers up to 1: the JSON reader is off by up to an ε / 2, sums of three in another order than numpy's by two more.
fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 4.0 * f64::EPSILON || (found.is_nan() && expected.is_nan())
}

#[test]
fn scores_and_their_means_are_nnunets_with_regions_and_ignored_voxels() {
    for (at, set) in list(&golden()["sets"]).iter().enumerate() {
        let scheme = scheme(set);
        let cases = list(&set["cases"]).iter().enumerate().map(|(i, case)| {
            let [p, r] = ["prediction", "reference"].map(|k| map(&case[k], SHAPE).mapv(f32::from));
            let scores = Counts::of(p.view(), r.view()).unwrap().scores(&scheme, 1.0);
            for (score, expected) in scores.iter().zip(list(&case["metrics"])) {
                let count = |key: &str| number(&expected[key]) as u64;
                assert!(close(score.dice, number(&expected["Dice"])), "set {at}");
                assert!(close(score.iou, number(&expected["IoU"])), "set {at}");
                assert_eq!(score.true_positives, count("TP"), "set {at}");
                assert_eq!(score.false_positives, count("FP"), "set {at}");
                assert_eq!(score.false_negatives, count("FN"), "set {at}");
                assert_eq!(score.true_negatives, count("TN"), "set {at}");
            }
            (format!("c{i}"), scores)
        });
        let summary = summarise(&scheme, cases.collect());
        for (target, expected) in list(&set["mean"]).iter().enumerate() {
            assert!(close(summary.mean.dice[target], number(&expected["Dice"])), "set {at}");
            assert!(close(summary.mean.iou[target], number(&expected["IoU"])), "set {at}");
        }
        let foreground = &set["foreground_mean"];
        assert!(close(summary.mean.foreground_dice, number(&foreground["Dice"])), "set {at}");
        assert!(close(summary.mean.foreground_iou, number(&foreground["IoU"])), "set {at}");
    }
}

#[test]
fn postprocessing_is_decided_and_applied_as_nnunet_does() {
    let recipe = Recipe {
        rule: PostprocessingRule::CrossValidatedDice,
        keep_largest_if_single_in_training: true,
        only_if_dice_does_not_fall: false,
    };
    for (at, set) in list(&golden()["sets"]).iter().enumerate() {
        let scheme = scheme(set);
        let cases = list(&set["cases"]);
        let maps = |key: &str| cases.iter().map(|c| map(&c[key], SHAPE)).collect::<Vec<_>>();
        let (references, predictions) = (maps("reference"), maps("prediction"));
        let decision = fit::<Infallible>(&scheme, &recipe, &mut |trials| {
            let pairs = references.iter().zip(&predictions);
            Ok(pairs.map(|(r, p)| examine(&scheme, r.view(), Some(p), trials)).collect())
        })
        .unwrap();
        let mut steps: Vec<Value> = Vec::new();
        if decision.foreground.as_ref().unwrap().keep_largest_component {
            steps.push("foreground".into());
        }
        let kept = decision.classes.iter().enumerate().filter(|(_, c)| c.keep_largest_component);
        steps.extend(kept.map(|(target, _)| scheme.by_value().members[target].clone().into()));
        assert_eq!(&steps, list(&set["steps"]), "set {at}");
        for (prediction, expected) in predictions.iter().zip(maps("postprocessed")) {
            let mut map = prediction.clone();
            apply(&decision, &mut map);
            assert_eq!(map, expected, "set {at}");
        }
        let after: Vec<f64> = list(&set["mean_after"]).iter().map(number).collect();
        let mean = after.iter().sum::<f64>() / after.len() as f64;
        assert!(close(decision.decision.unwrap().mean_dice_after, mean), "set {at}");
    }
}

#[test]
fn means_and_their_classes_are_nnunets_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (at, ensemble) in list(&golden()["ensembles"]).iter().enumerate() {
        let shape: Vec<usize> =
            list(&ensemble["shape"]).iter().map(|v| whole(v) as usize).collect();
        let [outputs, z, y, x] = shape[..] else { panic!("{shape:?}") };
        let paths: Vec<PathBuf> = list(&ensemble["members"])
            .iter()
            .enumerate()
            .map(|(member, bits)| {
                let path = folder.path().join(format!("{at}.{member}.npy"));
                let half = |v: &Value| f16::from_bits(u16::try_from(whole(v)).unwrap());
                let values = list(bits).iter().map(half).collect();
                let array = Array4::from_shape_vec((outputs, z, y, x), values).unwrap();
                Commit::file(&path, &npy::encode(&array.view())).unwrap();
                path
            })
            .collect();
        let members = Members::open(&paths, outputs, [z, y, x]).unwrap();
        let expected = list(&ensemble["mean"]).iter().map(|v| v.as_u64().unwrap());
        let found = (0..outputs).flat_map(|o| members.mean(o, 0..z).unwrap().into_iter());
        assert!(found.map(|p| u64::from(p.to_bits())).eq(expected), "ensemble {at}");
        let label = |value: i32| Label { name: format!("label {value}"), value };
        let region = |value: i32| Region { name: format!("r{value}"), values: vec![value], value };
        let regional = ensemble["regions"].as_bool().unwrap();
        let scheme = Scheme {
            regions: if regional { (1..=3).map(region).collect() } else { Vec::new() },
            ..Scheme::plain((0..4).map(label).collect())
        };
        let rule = Rule::for_probabilities(&scheme);
        let expected = map(&ensemble["segmentation"], (z, y, x));
        assert_eq!(members.classes(&rule).unwrap(), expected, "ensemble {at}");
        // Any part of a volume is decided like the whole.
        let mut decision = Decision::new([1, y, x], &rule);
        for output in 0..outputs {
            decision.see(output, members.mean(output, 1..2).unwrap().view());
        }
        let slice = expected.slice(ndarray::s![1..2, .., ..]);
        assert_eq!(decision.into_classes(), slice, "ensemble {at}");
    }
}
