//! Opening the preprocessed cases of a fold.

use artifact::case::OpenCase;
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
