//! The target `png` for libFuzzer.
#![no_main]
fuzz::target!(png);
