//! Measures a data set: integrity, shapes, spacings, intensities.

fn main() {}
