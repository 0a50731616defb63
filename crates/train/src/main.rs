//! Trains one fold of one configuration.

fn main() {}
