//! The target `fingerprint` for libFuzzer.
#![no_main]
fuzz::target!(fingerprint);
