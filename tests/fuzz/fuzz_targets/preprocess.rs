#![no_main]
fuzz::target!(preprocess);
