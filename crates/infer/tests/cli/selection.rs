//! `--selection`.
