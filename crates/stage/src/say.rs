//! What a program shows: lines on stderr, tables on stdout. The one place that writes to either.

use crate::{Error, Result, Shown};
use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, IsTerminal, Write};

/// Writes a line to stderr. A log that can't be written, such as a closed pipe or a full disk, ends no computation.
pub(crate) fn say(line: Arguments<'_>) {
    let line = format!("{}\n", Shown(line));
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Prints lines to stdout, each as [`Shown`] shows it.
///
/// # Errors
/// If they can't be written, such as to a full disk. A reader that has closed its pipe has seen enough: that is none.
pub fn print<L: Display>(lines: impl IntoIterator<Item = L>) -> Result<()> {
    let lines: String = lines.into_iter().map(|line| format!("{}\n", Shown(line))).collect();
    write(&lines)
}

/// Prints a file to stdout, as it is if it goes to a file or pipe, and as [`Shown`] shows its lines on a terminal.
///
/// # Errors
/// As [`print`].
pub fn print_file(text: &str) -> Result<()> {
    if std::io::stdout().is_terminal() { print(text.lines()) } else { write(text) }
}

/// Writes text as it is.
pub(crate) fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}
