//! `splits.toml`: which cases train and which validate, per fold.

use crate::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// All folds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splits {
    /// Fold 0 first.
    pub folds: Vec<Fold>,
}

/// One fold; ids are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// Cases to train on.
    pub train: Vec<String>,
    /// Cases to validate on.
    pub validation: Vec<String>,
}

impl Kind for Splits {
    const KIND: &'static str = "splits";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.folds.is_empty() {
            return Err("folds is empty, expected at least one".into());
        }
        for (i, fold) in self.folds.iter().enumerate() {
            if fold.train.is_empty() {
                return Err(format!("folds[{i}].train is empty, expected at least one case"));
            }
            let train: BTreeSet<&String> = fold.train.iter().collect();
            if let Some(id) = fold.validation.iter().find(|id| train.contains(id)) {
                return Err(format!("folds[{i}] has case {id} in both train and validation"));
            }
        }
        Ok(())
    }
}
