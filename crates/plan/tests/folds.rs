//! Folds against scikit-learn's and against those that nnU-Net trained with.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use plan::folds::{FoldOptions, split};
use regex::Regex;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Golden {
    split: Vec<GoldenSplit>,
}

#[derive(Deserialize)]
struct GoldenSplit {
    cases: usize,
    folds: usize,
    validation: Vec<Vec<usize>>,
}

fn ids(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("case_{i:04}")).collect()
}

fn folds(n: usize) -> FoldOptions {
    FoldOptions { folds: n, ..FoldOptions::default() }
}

fn grouped(pattern: &str) -> FoldOptions {
    FoldOptions { group_by: Some(Regex::new(pattern).unwrap()), ..folds(3) }
}

#[test]
fn folds_equal_scikit_learn_s() {
    let golden: Golden = toml::from_str(include_str!("golden/folds.toml")).unwrap();
    assert_eq!(golden.split.len(), 11);
    for case in golden.split {
        let all = ids(case.cases);
        let (splits, warning) = split(&all, &folds(case.folds)).unwrap();
        assert_eq!(warning, None);
        let expected = |of: &Vec<usize>, held: bool| -> Vec<String> {
            (0..case.cases).filter(|i| of.contains(i) == held).map(|i| all[i].clone()).collect()
        };
        assert_eq!(splits.folds.len(), case.validation.len());
        for (fold, validation) in splits.folds.iter().zip(&case.validation) {
            assert_eq!(fold.validation, expected(validation, true), "{} cases", case.cases);
            assert_eq!(fold.train, expected(validation, false), "{} cases", case.cases);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "CI says that the data must be there")]
fn folds_of_the_260_hippocampus_cases_equal_nnu_net_s() {
    let runs =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/golden/hippocampus_runs");
    if !runs.is_dir() {
        let ci = std::env::var("CI").is_ok_and(|v| v == "true");
        assert!(!ci, "{} is missing", runs.display());
        eprintln!("SKIPPED: no {}", runs.display());
        return;
    }
    let validated: Vec<Vec<String>> = (0..5)
        .map(|fold| {
            let path = runs.join(format!("fold_{fold}/summary.json"));
            let text = std::fs::read_to_string(path).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let cases = json["metric_per_case"].as_array().unwrap();
            let id = |case: &serde_json::Value| {
                let file = case["prediction_file"].as_str().unwrap();
                file.rsplit('/').next().unwrap().trim_end_matches(".nii.gz").to_string()
            };
            let mut ids: Vec<String> = cases.iter().map(id).collect();
            ids.sort();
            ids
        })
        .collect();
    let mut all = validated.concat();
    all.sort();
    assert_eq!(all.len(), 260);
    let (splits, _) = split(&all, &FoldOptions::default()).unwrap();
    for (fold, expected) in splits.folds.iter().zip(&validated) {
        assert_eq!(&fold.validation, expected);
        assert_eq!(fold.train.len() + fold.validation.len(), 260);
    }
}

#[test]
fn cases_of_a_patient_stay_together_and_patients_are_split_like_cases() {
    let all: Vec<String> =
        (0..12).flat_map(|p| (0..=p % 3).map(move |visit| format!("p{p:02}_v{visit}"))).collect();
    let (splits, warning) = split(&all, &grouped(r"^(p\d+)_")).unwrap();
    assert_eq!(warning, None);
    let patients: Vec<String> = (0..12).map(|p| format!("p{p:02}")).collect();
    let (of_patients, _) = split(&patients, &folds(3)).unwrap();
    for (fold, expected) in splits.folds.iter().zip(&of_patients.folds) {
        let mut held: Vec<&str> = fold.validation.iter().map(|id| &id[..3]).collect();
        held.dedup();
        assert_eq!(held, expected.validation);
        assert!(fold.train.iter().all(|id| !held.contains(&&id[..3])));
        assert_eq!(fold.train.len() + fold.validation.len(), all.len());
    }
    // Without a capture group the whole match is the patient.
    let (whole, _) = split(&all, &grouped(r"^p\d+")).unwrap();
    assert_eq!(whole, splits);
}

#[test]
fn fewer_cases_than_folds_make_one_fold_each_and_a_single_case_trains_alone() {
    let (splits, warning) = split(&ids(3), &folds(5)).unwrap();
    assert_eq!(splits.folds.len(), 3);
    assert!(splits.folds.iter().all(|f| f.train.len() == 2 && f.validation.len() == 1));
    assert_eq!(warning.as_deref(), Some("3 cases make 3 folds, not 5"));

    let (splits, warning) = split(&ids(1), &folds(5)).unwrap();
    assert_eq!(splits.folds.len(), 1);
    assert_eq!(splits.folds[0].train, ["case_0000"]);
    assert!(splits.folds[0].validation.is_empty());
    let expected = "only one case: fold 0 trains on it and validates on nothing";
    assert_eq!(warning.as_deref(), Some(expected));

    let (splits, warning) = split(&ids(4), &grouped("case")).unwrap();
    assert_eq!(splits.folds[0].train.len(), 4);
    assert!(warning.unwrap().starts_with("only one group"));
}

#[test]
fn impossible_splits_are_refused() {
    let error = split(&ids(9), &folds(1)).unwrap_err();
    assert_eq!(error.message, "--folds 1, expected at least 2");
    let error = split(&ids(9), &grouped("patient_(.*)")).unwrap_err();
    assert_eq!(error.message, "--group-by patient_(.*) doesn't match case case_0000");
}
