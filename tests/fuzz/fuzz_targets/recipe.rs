//! The target `recipe` for libFuzzer.
#![no_main]
fuzz::target!(recipe);
