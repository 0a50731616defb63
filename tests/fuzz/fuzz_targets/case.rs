//! The target `case` for libFuzzer.
#![no_main]
fuzz::target!(case);
