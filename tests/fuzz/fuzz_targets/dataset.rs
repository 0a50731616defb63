//! The target `dataset` for libFuzzer.
#![no_main]
fuzz::target!(dataset);
