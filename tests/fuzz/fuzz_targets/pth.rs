#![no_main]
fuzz::target!(pth);
