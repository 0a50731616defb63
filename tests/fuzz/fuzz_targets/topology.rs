#![no_main]
fuzz::target!(topology);
