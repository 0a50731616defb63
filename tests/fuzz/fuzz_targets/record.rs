//! The target `record` for libFuzzer.
#![no_main]
fuzz::target!(record);
