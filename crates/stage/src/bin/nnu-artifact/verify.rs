//! `nnu-artifact verify`.

use crate::tree::{self, FileKind};
use artifact::npy::Mapped;
use artifact::{image, inspect, npz};
use stage::{Error, Result, Run};
use std::path::{Path, PathBuf};

/// Names that belong to records: without `[artifact]` they are broken rather than somebody's own TOML.
const RECORDS: [&str; 11] = [
    "fingerprint.toml",
    "plan.toml",
    "splits.toml",
    "case.toml",
    "batch.toml",
    "model.toml",
    "history.toml",
    "prediction.toml",
    "summary.toml",
    "postprocess.toml",
    "selection.toml",
];

/// Verifies files and folders; every fault is reported.
pub fn verify(paths: &[PathBuf], run: &Run) -> Result<()> {
    let (mut verified, mut faults) = (0usize, 0usize);
    for path in paths {
        let found = if path.is_dir() { in_folder(path)? } else { vec![path.clone()] };
        let progress = run.progress("files", found.len());
        for file in found {
            run.check_stop()?;
            let errors = one(&file);
            verified += 1;
            faults += errors.len();
            for error in errors {
                run.report(&error.into());
            }
            progress.add(1);
        }
    }
    if faults > 0 {
        return Err(Error::input(format!("{faults} faults in {verified} files")));
    }
    if verified == 0 {
        return Err(Error::input("no records found, expected at least one"));
    }
    run.info(format!("{verified} files are as they should be"));
    Ok(())
}

/// The records below a folder.
fn in_folder(folder: &Path) -> artifact::Result<Vec<PathBuf>> {
    let mut files = tree::files(folder)?;
    files.retain(|path| FileKind::of(path) == FileKind::Toml && is_record(path));
    Ok(files)
}

fn is_record(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    RECORDS.contains(&&*name)
        || artifact::file::text(path, "read").is_ok_and(|text| text.contains("[artifact]"))
}

fn one(path: &Path) -> Vec<artifact::Error> {
    let checked = match FileKind::of(path) {
        FileKind::Npy => Mapped::open(path).map(drop),
        FileKind::Npz => npz::read(path).map(drop),
        FileKind::Nifti => image::read_by_any(path).map(drop),
        _ => return inspect::verify(path),
    };
    checked.err().into_iter().collect()
}
