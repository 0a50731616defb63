//! Files by what they are, and the files of a folder.

use artifact::{Error, Result};
use std::path::{Path, PathBuf};

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `.toml`
    Toml,
    /// `.npy`
    Npy,
    /// `.npz`
    Npz,
    /// `.nii`, `.hdr`, `.img`, each also `.gz`
    Nifti,
    /// `.csv`, `.json`, `.txt`
    Text,
    /// Anything else, such as a picture
    Other,
}

impl FileKind {
    pub fn of(path: &Path) -> Self {
        let name = path.to_string_lossy();
        let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
        match () {
            () if ends(&[".toml"]) => Self::Toml,
            () if ends(&[".npy"]) => Self::Npy,
            () if ends(&[".npz"]) => Self::Npz,
            () if ends(&[".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"]) => Self::Nifti,
            () if ends(&[".csv", ".json", ".txt"]) => Self::Text,
            () => Self::Other,
        }
    }
}

/// All files below a folder, sorted; hidden ones, among them unfinished outputs, left out.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let fail = |e| Error::io(&folder, "read this folder", &e);
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // A link to a folder isn't followed: it may lead back here.
            match entry.file_type().map_err(fail)?.is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    Ok(files)
}
