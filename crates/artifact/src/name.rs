//! File names that become ids, or stand in a record: text, or refused.
//!
//! Systems allow names of any bytes. Written as text with something in the place of what isn't, such a name is that of
//! another file: two cases would become one, an output would be written where nobody looks for it.

use crate::{Error, Result};
use std::ffi::OsString;
use std::path::Path;

/// The last part of a path as text.
///
/// # Errors
/// If it isn't UTF-8.
pub fn of(path: &Path) -> Result<&str> {
    let name = path.file_name().unwrap_or_default();
    name.to_str().ok_or_else(|| not_text(path))
}

/// A name in a folder as text.
///
/// # Errors
/// As [`of`].
pub fn in_folder(folder: &Path, name: OsString) -> Result<String> {
    name.into_string().map_err(|name| not_text(&folder.join(name)))
}

pub(crate) fn not_text(path: &Path) -> Error {
    Error::input(path, "has a name that is not UTF-8, expected one that can stand in a record")
        .hint("rename the file")
}
