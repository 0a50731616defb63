//! Which cases train and which validate: the folds of nnU-Net, optionally by patient.
//!
//! nnU-Net's rule is scikit-learn's `KFold(5, shuffle=True, random_state=12345)` over the sorted case ids: indices are
//! shuffled by NumPy's legacy generator and cut into consecutive pieces, the first `n mod k` of them one longer; each
//! piece validates one fold. With groups the same is done to the sorted group names, so that all cases of a patient
//! stay on one side.

use crate::mt19937::Mt19937;
use artifact::splits::{Fold, Splits};
use regex::Regex;
use stage::{Error, Result};
use std::collections::BTreeMap;

/// How to split.
#[derive(Debug, Clone)]
pub struct FoldOptions {
    /// Folds wanted; with fewer cases (or groups) there are as many folds as those.
    pub folds: usize,
    /// Seed of the shuffle; nnU-Net's is 12345.
    pub seed: u32,
    /// The patient is this pattern's first capture group (or whole match) in the case id.
    pub group_by: Option<Regex>,
}

impl Default for FoldOptions {
    fn default() -> Self {
        Self { folds: 5, seed: 12345, group_by: None }
    }
}

/// The folds of these cases, and a warning if they are not what was asked for.
///
/// With fewer cases (or groups) than folds there is one fold per case. A single case (or group) is trained on without
/// any validation: one fold, `validation` empty.
///
/// # Errors
/// If fewer than two folds are asked for, or the pattern doesn't match a case id.
pub fn split(ids: &[String], options: &FoldOptions) -> Result<(Splits, Option<String>)> {
    if options.folds < 2 {
        return Err(Error::usage(format!("--folds {}, expected at least 2", options.folds)));
    }
    let groups = group(ids, options.group_by.as_ref())?;
    let what = if options.group_by.is_some() { "group" } else { "case" };
    let groups: Vec<Vec<String>> = groups.into_values().collect();
    if groups.len() < 2 {
        let train = groups.concat();
        let splits = Splits { folds: vec![Fold { train, validation: Vec::new() }] };
        let warning = format!("only one {what}: fold 0 trains on it and validates on nothing");
        return Ok((splits, Some(warning)));
    }
    let folds = options.folds.min(groups.len());
    let warning = (folds < options.folds)
        .then(|| format!("{} {what}s make {folds} folds, not {}", groups.len(), options.folds));
    let mut order: Vec<usize> = (0..groups.len()).collect();
    Mt19937::new(options.seed).shuffle(&mut order);
    let mut rest = order.as_slice();
    let mut made = Vec::with_capacity(folds);
    for fold in 0..folds {
        let size = groups.len() / folds + usize::from(fold < groups.len() % folds);
        let (held_out, after) = rest.split_at(size);
        rest = after;
        let side = |validates: bool| {
            let chosen = (0..groups.len()).filter(|i| held_out.contains(i) == validates);
            let mut ids: Vec<String> = chosen.flat_map(|i| groups[i].iter().cloned()).collect();
            ids.sort();
            ids
        };
        made.push(Fold { train: side(false), validation: side(true) });
    }
    Ok((Splits { folds: made }, warning))
}

/// Case ids by group name; without a pattern each case is its own group.
fn group(ids: &[String], pattern: Option<&Regex>) -> Result<BTreeMap<String, Vec<String>>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for id in ids {
        let name = match pattern {
            None => id.clone(),
            Some(regex) => {
                let captures = regex.captures(id).ok_or_else(|| {
                    Error::usage(format!("--group-by {regex} doesn't match case {id}"))
                        .hint("the pattern must match every case id; its first (…) is the patient")
                })?;
                let found = captures.get(1).or_else(|| captures.get(0));
                found.map_or_else(|| id.clone(), |m| m.as_str().to_string())
            }
        };
        groups.entry(name).or_default().push(id.clone());
    }
    Ok(groups)
}
