//! The files that stages hand to each other: every format, read and written here only.
