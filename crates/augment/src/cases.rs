//! The preprocessed cases of a fold: which, where, opened, hashed.

use artifact::case::OpenCase;
use artifact::splits::Splits;
use artifact::{Record, hash_bytes, hash_file};
use stage::Error;
use std::path::{Path, PathBuf};

/// Record of case `id` in a folder of preprocessed cases.
pub fn case_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(id).join("case.toml")
}

/// Opens `FOLDER/ID/case.toml` for every id, in this order.
///
/// # Errors
/// One line that names how many are missing and the first; otherwise the first case that is broken.
pub fn open_cases(folder: &Path, ids: &[String]) -> Result<Vec<OpenCase>, Error> {
    let missing: Vec<&String> = ids.iter().filter(|id| !case_path(folder, id).is_file()).collect();
    if let Some(first) = missing.first() {
        return Err(Error::input(format!(
            "{}: {} of {} cases are missing, first {first} ({})",
            folder.display(),
            missing.len(),
            ids.len(),
            case_path(folder, first).display()
        ))
        .hint("run nnu-preprocess for this configuration; cases that are there are kept"));
    }
    ids.iter().map(|id| Ok(OpenCase::open(&case_path(folder, id))?)).collect()
}

/// Ids of a fold's training cases.
///
/// # Errors
/// If the splits are missing or broken, or have no such fold.
pub fn training_cases(splits: &Path, fold: usize) -> Result<Vec<String>, Error> {
    let folds = Record::<Splits>::load(splits)?.body.folds;
    let count = folds.len();
    let fold = folds.into_iter().nth(fold).ok_or_else(|| {
        Error::usage(format!(
            "--fold {fold}, but {} has folds 0 to {}",
            splits.display(),
            count - 1
        ))
    })?;
    Ok(fold.train)
}

/// Hash over the records of all cases, which hold the hashes of their arrays.
///
/// # Errors
/// If a record can't be read.
pub fn cases_hash(folder: &Path, ids: &[String]) -> Result<String, Error> {
    let mut lines = String::new();
    for id in ids {
        lines.push_str(&format!("{id} {}\n", hash_file(&case_path(folder, id))?));
    }
    Ok(hash_bytes(lines.as_bytes()))
}
