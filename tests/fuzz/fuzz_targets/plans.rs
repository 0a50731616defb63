//! The target `plans` for libFuzzer.
#![no_main]
fuzz::target!(plans);
