#![no_main]
fuzz::target!(augment);
