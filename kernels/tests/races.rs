//! Races and wild accesses, as the simulator sees them when it watches every access (`--features races`): in one run,
//! in any order.
#![cfg(feature = "races")]
#![allow(clippy::unwrap_used, reason = "tests")]

use kernels::{Gpu, GpuError, Order, Pointer, SimOptions, arguments, sim};

arguments! {
    /// As in `sim/faults.cu`.
    struct FaultArgs {
        /// 256 words.
        to: Pointer,
        /// Where.
        at: u32,
        /// Padding.
        zero: u32,
    }
}

fn run(order: Order, kernel: &'static str, blocks: u32, at: u32) -> Result<(), GpuError> {
    let gpu = Gpu::sim(SimOptions { order, ..SimOptions::default() });
    let threads = sim::kernels().iter().find(|k| k.name == kernel).unwrap().threads;
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(1024).unwrap();
    stream.fill(buffer.pointer(), 0, 1024).unwrap();
    let arguments = FaultArgs { to: buffer.pointer(), at, zero: 0 };
    stream.launch(kernel, [blocks, 1, 1], threads, 512, &arguments)
}

/// The lines of `sim/faults.cu` that have `text`.
fn lines(text: &str) -> Vec<String> {
    let file = include_str!("../sim/faults.cu").lines().enumerate();
    file.filter(|(_, line)| line.contains(text))
        .map(|(i, _)| format!("faults.cu:{}", i + 1))
        .collect()
}

/// In every order, the report begins like this, and names a line with each of the texts.
fn assert_found(kernel: &'static str, blocks: u32, at: u32, begin: &str, texts: &[&str]) {
    for order in Order::ALL {
        let Err(GpuError::Call { reason, .. }) = run(order, kernel, blocks, at) else {
            panic!("{kernel} went through in order {order:?}");
        };
        assert!(reason.contains(begin), "{order:?}: {reason}");
        for text in texts {
            let named = lines(text).iter().any(|line| reason.contains(line));
            assert!(named, "{order:?}: {reason}: no line with {text}");
        }
    }
}

const WRITE: &str = "shared_words()[threadIdx.x] = threadIdx.x";

#[test]
fn a_missing_barrier_is_found() {
    for at in [1, 16, 32] {
        let texts = [WRITE, "shared_words()[threadIdx.x ^ args.at]"];
        assert_found("fault_missing_barrier", 1, at, "race: ", &texts);
        let texts = [WRITE, "sum += shared_words()"];
        assert_found("fault_missing_second_barrier", 1, at, "in shared memory, after a ", &texts);
    }
    // Each thread reads its own word only.
    for order in Order::ALL {
        assert_eq!(run(order, "fault_missing_barrier", 1, 0), Ok(()));
    }
}

#[test]
fn warps_are_not_taken_to_run_in_step() {
    // Which of its lines meet depends on the order.
    assert_found("fault_warp_synchrony", 1, 0, "in shared memory, after a ", &["shared_words()["]);
}

#[test]
fn blocks_must_not_share_what_they_write() {
    let text = "args.to[args.at] = blockIdx.x";
    assert_found(
        "fault_blocks_collide",
        2,
        3,
        "in device memory, after a write by another block's",
        &[text],
    );
    for order in Order::ALL {
        assert_eq!(run(order, "fault_blocks_collide", 1, 3), Ok(()));
    }
}

#[test]
fn copies_need_a_barrier_before_others_read_them() {
    let text = "args.to[4 * threadIdx.x] = shared_words()";
    assert_found("fault_copy_without_barrier", 1, 1, "race: ", &[text]);
}

#[test]
fn wild_accesses_are_found() {
    let outside = "are not in memory of the card";
    assert_found("fault_global_read", 1, 225, outside, &["fault_global_read"]);
    assert_found("fault_global_write", 1, 4000, outside, &["fault_global_write"]);
    assert_found(
        "fault_shared_overrun",
        1,
        97,
        outside,
        &["shared_words()[threadIdx.x + args.at] = 0"],
    );
}

#[test]
fn correct_kernels_go_through() {
    for order in Order::ALL {
        for (kernel, at) in [("fault_none", 1), ("fault_no_copy", 1), ("fault_atomics", 5)] {
            assert_eq!(run(order, kernel, 1, at), Ok(()));
        }
        assert_eq!(run(order, "fault_atomics", 4, 5), Ok(()));
        assert_eq!(run(order, "fault_none", 4, 5), Ok(()));
        // What an earlier launch did is over.
        let gpu = Gpu::sim(SimOptions { order, ..SimOptions::default() });
        let stream = gpu.stream().unwrap();
        let buffer = gpu.buffer(1024).unwrap();
        stream.fill(buffer.pointer(), 0, 1024).unwrap();
        for at in [0, 1, 2] {
            let arguments = FaultArgs { to: buffer.pointer(), at, zero: 0 };
            assert_eq!(stream.launch("fault_none", [1, 1, 1], 64, 512, &arguments), Ok(()));
        }
    }
}

#[test]
fn atomic_operations_race_with_others_only() {
    assert_found("fault_atomic_and_plain", 1, 0, "atomic operation", &["atomic_add"]);
}
