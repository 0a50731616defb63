#![no_main]
fuzz::target!(plans);
