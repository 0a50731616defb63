#![no_main]
fuzz::target!(png);
