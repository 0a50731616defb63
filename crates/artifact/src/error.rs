//! One error type for everything that is wrong with a file.

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, as the caller's exit code sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The file isn't there, is broken, or doesn't fit the other inputs: exit code 3.
    Input,
    /// Reading or writing failed for a reason outside the file (disk full, permission): exit code 1.
    Io,
    /// Another program is at work on this output: exit code 75.
    Busy,
    /// A signal ended the wait for another program: exit code 130.
    Interrupted,
}

/// A fault of one file: which file, what was found, what was expected, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Whose fault it is.
    pub fault: Fault,
    /// The file or folder.
    pub path: PathBuf,
    /// One line: field, found, expected.
    pub message: String,
    /// One line: the way out.
    pub hint: Option<String>,
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The file is missing, broken or incompatible.
    pub fn input(path: &Path, message: impl Into<String>) -> Self {
        Self { fault: Fault::Input, path: path.into(), message: message.into(), hint: None }
    }

    /// An input can't be read, whatever for.
    pub fn io(path: &Path, doing: &str, error: &std::io::Error) -> Self {
        let link = crate::file::broken_link(path).map(|link| format!("; it {link}"));
        Self::input(path, format!("cannot {doing}: {error}{}", link.unwrap_or_default()))
    }

    /// The system refused to write, whatever for: a folder that vanished is no broken input.
    pub fn write(path: &Path, doing: &str, error: &std::io::Error) -> Self {
        Self { fault: Fault::Io, ..Self::io(path, doing, error) }
    }

    /// Another program is at work on this output.
    pub(crate) fn busy(path: &Path, message: String) -> Self {
        Self { fault: Fault::Busy, path: path.into(), message, hint: None }
    }

    /// A signal ended the wait for another program.
    pub(crate) fn interrupted(path: &Path) -> Self {
        let message = "interrupted while waiting for another program".into();
        Self { fault: Fault::Interrupted, path: path.into(), message, hint: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for Error {}
