//! Evaluates predictions, finds and applies postprocessing.

fn main() {}
