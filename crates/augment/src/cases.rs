//! The preprocessed cases of a fold: which, where, opened, hashed.

use artifact::case::OpenCase;
use artifact::previous::{self, OpenPrevious};
use artifact::splits::Splits;
use artifact::{Record, hash_bytes, hash_file};
use rayon::prelude::*;
use stage::Error;
use std::path::{Path, PathBuf};

/// Record of case `id` in a folder of preprocessed cases.
pub fn case_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(id).join("case.toml")
}

/// Opens `FOLDER/ID/case.toml` for every id, in this order, and holds arrays against the hashes in it. `made_for` is the configuration whose cases these must be:
/// [`artifact::plan::Plan::cases_of`].
///
/// # Errors
/// One line that names how many are missing and the first; otherwise the first case that is broken or of another
/// configuration.
pub fn open_cases(folder: &Path, ids: &[String], made_for: &str) -> Result<Vec<OpenCase>, Error> {
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
    let open = |id: &String| {
        let path = case_path(folder, id);
        let case = OpenCase::open(&path)?;
        let found = &case.record.body.case.configuration;
        if found != made_for {
            return Err(Error::input(format!(
                "{}: case.configuration = \"{found}\", expected \"{made_for}\"",
                path.display()
            ))
            .hint(format!("--cases takes the folder that nnu-preprocess wrote for {made_for}")));
        }
        case.record.verify(&path)?;
        Ok(case)
    };
    ids.par_iter().map(open).collect()
}

/// Record of case `id` in the first of these folders that has it.
fn previous_path(folders: &[PathBuf], id: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| previous::path(folder, id)).find(|path| path.is_file())
}

/// Opens the first stage's prediction for every id, in this order, each from the first folder that has it, and holds
/// arrays against the records' hashes.
///
/// # Errors
/// One line that names how many are missing and the first; otherwise the first one that is broken.
pub fn open_previous(folders: &[PathBuf], ids: &[String]) -> Result<Vec<OpenPrevious>, Error> {
    let missing: Vec<&String> =
        ids.iter().filter(|id| previous_path(folders, id).is_none()).collect();
    if let Some(first) = missing.first() {
        let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        let names = if names.is_empty() { "--previous not given".into() } else { names.join(", ") };
        return Err(Error::input(format!(
            "{names}: the previous stage's prediction is missing for {} of {} cases, first {first}",
            missing.len(),
            ids.len()
        ))
        .hint(
            "give --previous for every fold of the first stage: the folders that nnu-infer --validation --next-stage \
             wrote",
        ));
    }
    ids.par_iter()
        .filter_map(|id| previous_path(folders, id))
        .map(|path| {
            let open = OpenPrevious::open(&path)?;
            open.record.verify(&path)?;
            Ok(open)
        })
        .collect()
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
    hash_of(ids.iter().map(|id| (id, case_path(folder, id))))
}

/// Hash over the records of the previous stage's predictions.
///
/// # Errors
/// If a record can't be read.
pub fn previous_hash(folders: &[PathBuf], ids: &[String]) -> Result<String, Error> {
    hash_of(ids.iter().filter_map(|id| Some((id, previous_path(folders, id)?))))
}

fn hash_of<'a>(records: impl Iterator<Item = (&'a String, PathBuf)>) -> Result<String, Error> {
    let mut lines = String::new();
    for (id, path) in records {
        lines.push_str(&format!("{id} {}\n", hash_file(&path)?));
    }
    Ok(hash_bytes(lines.as_bytes()))
}
