//! The target `npy` for libFuzzer.
#![no_main]
fuzz::target!(npy);
