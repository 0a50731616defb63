//! Predicts whole images with trained models.

fn main() {}
