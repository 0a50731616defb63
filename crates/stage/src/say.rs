//! Lines on stderr.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a line to stderr. A log that can't be written, such as a closed pipe or a full disk, ends no computation.
pub(crate) fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
