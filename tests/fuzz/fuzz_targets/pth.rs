//! The target `pth` for libFuzzer.
#![no_main]
fuzz::target!(pth);
