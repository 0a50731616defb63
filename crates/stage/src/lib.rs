//! How a stage behaves as a process: flags, exit codes, log, progress, signals, seeds.
