//! crop.
