//! Accesses outside of allocations, under the address sanitizer (`--features sanitize`): it ends the process with a
//! report, so each fault has a process of its own.
#![cfg(feature = "sanitize")]
#![allow(clippy::unwrap_used, reason = "tests")]

use kernels::{Gpu, Pointer, SimOptions, arguments};
use std::process::Command;

arguments! {
    /// As in `sim/faults.cu`.
    struct FaultArgs {
        /// 32 words.
        to: Pointer,
        /// Where.
        at: u32,
        /// Padding.
        zero: u32,
    }
}

/// One block over 32 words of device memory and as many of shared memory.
fn run(kernel: &'static str, at: u32) {
    let gpu = Gpu::sim(SimOptions { threads: 1, ..SimOptions::default() });
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(128).unwrap();
    stream.fill(buffer.pointer(), 0, 128).unwrap();
    let arguments = FaultArgs { to: buffer.pointer(), at, zero: 0 };
    stream.launch(kernel, [1, 1, 1], 32, 128, &arguments).unwrap();
}

/// The report of the process that runs the ignored test `name`, and whether the process failed.
fn report(name: &str) -> (String, bool) {
    let program = std::env::current_exe().unwrap();
    let child =
        Command::new(program).args(["--exact", name, "--ignored", "--nocapture"]).output().unwrap();
    (String::from_utf8_lossy(&child.stderr).into_owned(), !child.status.success())
}

fn assert_found(name: &str, kernel: &str) {
    let (report, failed) = report(name);
    let line = include_str!("../sim/faults.cu")
        .lines()
        .position(|line| line.contains(&format!("KERNEL({kernel},")))
        .unwrap();
    let places = (line + 1..line + 4).map(|line| format!("faults.cu:{line} in {kernel}"));
    let mut summaries = places.map(|place| format!("/{place}"));
    assert!(failed, "{kernel} went through");
    assert!(report.contains("SUMMARY: AddressSanitizer: heap-buffer-overflow"), "{report}");
    assert!(summaries.any(|summary| report.contains(&summary)), "{report}");
}

#[test]
#[ignore = "ends the process"]
fn global_read() {
    run("fault_global_read", 1);
}

#[test]
#[ignore = "ends the process"]
fn global_write() {
    run("fault_global_write", 1);
}

#[test]
#[ignore = "ends the process"]
fn shared_overrun() {
    run("fault_shared_overrun", 1);
}

#[test]
#[ignore = "the counterpart of those that end the process"]
fn nothing() {
    run("fault_shared_overrun", 0);
    run("fault_global_read", 0);
    run("fault_global_write", 0);
}

#[test]
fn a_read_behind_device_memory_is_found() {
    assert_found("global_read", "fault_global_read");
}

#[test]
fn a_write_behind_device_memory_is_found() {
    assert_found("global_write", "fault_global_write");
}

#[test]
fn an_overrun_of_shared_memory_is_found() {
    assert_found("shared_overrun", "fault_shared_overrun");
}

#[test]
fn accesses_within_are_not_reported() {
    let (report, failed) = report("nothing");
    assert!(!failed, "{report}");
}
