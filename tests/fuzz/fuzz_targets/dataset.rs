#![no_main]
fuzz::target!(dataset);
