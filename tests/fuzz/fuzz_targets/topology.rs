//! The target `topology` for libFuzzer.
#![no_main]
fuzz::target!(topology);
