//! The target `nifti` for libFuzzer.
#![no_main]
fuzz::target!(nifti);
