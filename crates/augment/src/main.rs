//! Samples patches and augments them.

fn main() {}
