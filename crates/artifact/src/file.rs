//! Opening files that an input names: regular files only, and a word for what isn't what it should be.
//!
//! A data set may name any path. A named pipe would wait for ever, `/dev/zero` never end, a terminal read the keyboard.
//! The opened handle itself is asked what it is, so that nobody can put something else in its place in between. Pipes
//! are refused wherever they come from, `/dev/stdin` and `<(…)` on the command line included: inputs are read more than
//! once (hash, header, content), by names whose ending tells their format. A file behind `/dev/stdin` is a file.

mod foreign;

use crate::{Error, Result};
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{Read, Seek};
use std::path::Path;

pub(crate) use foreign::{Foreign, foreign};

/// Bytes that tell what a file is.
const ENOUGH: u64 = 512;

/// Texts take several times their size once they are understood. The longest that stages write, summaries of a thousand
/// cases with a hundred classes, have 50 MB.
const LONGEST_TEXT: u64 = 256 << 20;

/// Opens a regular file for reading, or what a link leads to, if that is one. `doing` completes "cannot …".
///
/// # Errors
/// If it can't be opened, or is a folder, pipe, device or socket.
pub fn open(path: &Path, doing: &str) -> Result<File> {
    let fail = |e| Error::io(path, doing, &e);
    // Asked twice: opening some devices does something by itself, and between the two anything may happen.
    check(path, &std::fs::metadata(path).map_err(fail)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // Opening a pipe doesn't wait for a writer, and a terminal doesn't become this process's own. Regular files don't
        // know the difference.
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    }
    let file = options.open(path).map_err(fail)?;
    check(path, &file.metadata().map_err(fail)?)?;
    Ok(file)
}

/// Where the link leads that a path ends at because it leads nowhere, to follow the path; none for other paths.
pub fn broken_link(path: &Path) -> Option<String> {
    let broken = |at: &&Path| {
        let link = std::fs::symlink_metadata(at).is_ok_and(|found| found.is_symlink());
        link && std::fs::metadata(at).is_err()
    };
    let link = path.ancestors().find(broken)?;
    let target = std::fs::read_link(link).ok()?;
    let error = std::fs::metadata(link).err()?;
    #[cfg(unix)]
    let circle = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    #[cfg(not(unix))]
    let circle = false;
    let end = match error.kind() {
        _ if circle => "which leads back to itself",
        std::io::ErrorKind::NotFound => "which isn't there",
        _ => return None,
    };
    let what = match link == path {
        true => "is a link".into(),
        false => format!("lies in {}, which is a link", link.display()),
    };
    Some(format!("{what} to {}, {end}", target.display()))
}

/// A regular file that should be a zip archive (`.npz`, `.pth`) and isn't obviously something else.
///
/// # Errors
/// As [`open`]; also if it begins as another kind of file does.
pub fn open_zip(path: &Path, expected: &str) -> Result<File> {
    let fail = |e| Error::io(path, "read", &e);
    let mut file = open(path, "read")?;
    let mut start = Vec::new();
    (&file).take(ENOUGH).read_to_end(&mut start).map_err(fail)?;
    file.rewind().map_err(fail)?;
    match foreign(&start).filter(|_| !start.starts_with(b"PK")) {
        Some(found) => {
            Err(Error::input(path, format!("is {}, expected {expected}", found.name))
                .hint(found.hint))
        }
        None => Ok(file),
    }
}

/// The bytes of a regular file.
///
/// # Errors
/// As [`open`]; also if it is larger than memory, or can't be read.
pub fn read(path: &Path, doing: &str) -> Result<Vec<u8>> {
    read_up_to(path, doing, u64::MAX)
}

fn read_up_to(path: &Path, doing: &str, most: u64) -> Result<Vec<u8>> {
    let fail = |e| Error::io(path, doing, &e);
    let file = open(path, doing)?;
    let size = file.metadata().map_err(fail)?.len();
    if size > most {
        return Err(Error::input(path, format!("has {size} bytes, expected at most {most}")));
    }
    let mut bytes = Vec::new();
    let reserved = usize::try_from(size).is_ok_and(|size| bytes.try_reserve_exact(size).is_ok());
    if !reserved {
        let message = format!("cannot {doing}: its {size} bytes don't fit into memory");
        return Err(Error { fault: crate::Fault::Io, ..Error::input(path, message) });
    }
    file.take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The text of a regular file.
///
/// # Errors
/// As [`read`]; also if it is longer than any record or JSON file, or isn't UTF-8: what it is instead.
pub fn text(path: &Path, doing: &str) -> Result<String> {
    let bytes = read_up_to(path, doing, LONGEST_TEXT)?;
    if let Some(Foreign { name, hint, .. }) = foreign(&bytes).filter(|f| !f.is_plain()) {
        return Err(Error::input(path, format!("cannot {doing}: it is {name}")).hint(hint));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(path, format!("cannot {doing}: byte {at} is not UTF-8 text"))
            .hint("save the file as UTF-8")
    })
}

/// The text of a JSON file.
///
/// # Errors
/// As [`text`]; also if it is empty or begins with a byte-order mark, which JSON doesn't allow.
pub fn json(path: &Path, doing: &str) -> Result<String> {
    let text = text(path, doing)?;
    if text.starts_with('\u{feff}') {
        return Err(Error::input(path, "begins with a byte-order mark (BOM), expected JSON")
            .hint("save the file as UTF-8 without byte-order mark"));
    }
    if text.trim().is_empty() {
        return Err(Error::input(path, "is empty, expected JSON"));
    }
    Ok(text)
}

fn check(path: &Path, found: &Metadata) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let kind = kind(found.file_type());
    let hint = match kind {
        FOLDER => "name a file in it",
        _ => "write its content into a file first: inputs are read more than once",
    };
    Err(Error::input(path, format!("is {kind}, expected a regular file")).hint(hint))
}

const FOLDER: &str = "a folder";

fn kind(kind: FileType) -> &'static str {
    if kind.is_dir() {
        return FOLDER;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    "no regular file"
}
