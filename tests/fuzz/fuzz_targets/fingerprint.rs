#![no_main]
fuzz::target!(fingerprint);
