#![no_main]
fuzz::target!(npz_entries);
