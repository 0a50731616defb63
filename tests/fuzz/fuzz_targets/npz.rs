//! The target `npz` for libFuzzer.
#![no_main]
fuzz::target!(npz);
