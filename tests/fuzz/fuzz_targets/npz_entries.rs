//! The target `npz_entries` for libFuzzer.
#![no_main]
fuzz::target!(npz_entries);
