#![no_main]
fuzz::target!(case);
