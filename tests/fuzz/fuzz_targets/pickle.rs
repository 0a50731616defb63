//! The target `pickle` for libFuzzer.
#![no_main]
fuzz::target!(pickle);
