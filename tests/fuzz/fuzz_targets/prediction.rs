//! The target `prediction` for libFuzzer.
#![no_main]
fuzz::target!(prediction);
