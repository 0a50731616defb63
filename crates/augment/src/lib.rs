//! Samples patches and augments them.
