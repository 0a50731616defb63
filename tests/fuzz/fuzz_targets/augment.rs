//! The target `augment` for libFuzzer.
#![no_main]
fuzz::target!(augment);
