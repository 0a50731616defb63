#![no_main]
fuzz::target!(prediction);
