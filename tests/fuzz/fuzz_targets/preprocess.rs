//! The target `preprocess` for libFuzzer.
#![no_main]
fuzz::target!(preprocess);
