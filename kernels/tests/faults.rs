//! Every mistake of `sim/faults.cu` is found, and named with its line.

use kernels::{Gpu, GpuError, Order, Pointer, SimOptions, arguments, sim};

arguments! {
    struct FaultArgs { to: Pointer, at: u32, zero: u32 }
}

/// One block of a kernel (four if blocks are what it is about), on 1 KiB of words 0, 1, 2, …; what it made of them.
fn run(gpu: &Gpu, kernel: &'static str, at: u32) -> Result<Vec<u32>, GpuError> {
    let all = sim::kernels();
    let threads = all.iter().find(|k| k.name == kernel).map_or(0, |k| k.threads);
    let words: Vec<u32> = (0..256).collect();
    let buffer = gpu.buffer(1024)?;
    let stream = gpu.stream()?;
    stream.upload(buffer.pointer(), &words)?;
    let arguments = FaultArgs { to: buffer.pointer(), at, zero: 0 };
    let blocks = if kernel == "fault_blocks_collide" { 4 } else { 1 };
    stream.launch(kernel, [blocks, 1, 1], threads, 512, &arguments)?;
    let mut result = vec![0; 256];
    stream.download(buffer.pointer(), &mut result)?;
    Ok(result)
}

fn reason(kernel: &'static str, at: u32) -> String {
    let gpu = Gpu::sim(SimOptions { threads: 1, ..SimOptions::default() });
    match run(&gpu, kernel, at) {
        Err(GpuError::Call { call, reason }) if call == format!("launch of {kernel}") => reason,
        other => panic!("{kernel} went through: {other:?}"),
    }
}

/// The line of `sim/faults.cu` that has `text`, the `occurrence`-th time, counted from 1.
fn line(text: &str, occurrence: usize) -> String {
    let file = include_str!("../sim/faults.cu");
    let mut lines = file.lines().enumerate().filter(|(_, line)| line.contains(text));
    let (index, _) = lines.nth(occurrence - 1).expect("the line is in the file");
    format!("faults.cu:{}", index + 1)
}

/// The words of a run in one order.
fn in_order(order: Order, kernel: &'static str, at: u32) -> Vec<u32> {
    let gpu = Gpu::sim(SimOptions { order, threads: 1, ..SimOptions::default() });
    run(&gpu, kernel, at).expect("nothing is refused")
}

/// How many different results the orders give.
fn results(kernel: &'static str, at: u32) -> usize {
    let mut results: Vec<Vec<u32>> =
        Order::ALL.iter().map(|&order| in_order(order, kernel, at)).collect();
    results.sort();
    results.dedup();
    results.len()
}

#[test]
fn a_correct_kernel_gives_the_same_in_every_order() {
    for at in [1, 5, 31, 32, 63] {
        let options = SimOptions::default();
        let words = sim::in_every_order(options, |gpu| run(gpu, "fault_none", at).unwrap());
        assert_eq!(words[..64], (0..64).map(|i| i ^ at).collect::<Vec<u32>>());
    }
}

#[cfg(not(feature = "races"))]
#[test]
fn races_give_different_results_in_different_orders() {
    // Neighbours within a warp, and threads of different warps.
    for kernel in ["fault_missing_barrier", "fault_missing_second_barrier"] {
        for at in [1, 16, 32] {
            assert!(results(kernel, at) > 1, "{kernel}, {at}");
        }
    }
    assert!(results("fault_warp_synchrony", 0) > 1);
    assert!(results("fault_blocks_collide", 3) > 1);
    assert!(results("fault_copy_without_barrier", 1) > 1);
}

#[cfg(not(feature = "races"))]
#[test]
#[should_panic(expected = "in order Ascending")]
fn comparing_orders_panics_at_a_race() {
    let options = SimOptions::default();
    let _ = sim::in_every_order(options, |gpu| run(gpu, "fault_missing_barrier", 1).unwrap());
}

#[test]
fn shared_memory_begins_as_nan_in_every_block() {
    // −1 + 1 + −1: the static word and the dynamic one.
    let words = in_order(Order::Ascending, "fault_uninitialised_shared", 0);
    assert_eq!(words[..32], [u32::MAX; 32]);
}

#[test]
fn a_barrier_that_not_all_threads_reach_is_reported() {
    let reason = reason("fault_partial_barrier", 40);
    let site = line("if (threadIdx.x < args.at) barrier();", 1);
    assert!(reason.contains(&format!("threads 0–39 of 64 wait in barrier at {site}")), "{reason}");
    assert!(reason.contains("threads 40 of 64 returned"), "{reason}");
    assert!(reason.contains("in block (0, 0, 0)"), "{reason}");
}

#[test]
fn different_barriers_do_not_meet() {
    let reason = reason("fault_two_barriers", 10);
    assert!(reason.starts_with("divergent barriers: threads 0–9 of 64 wait"), "{reason}");
}

#[test]
fn lanes_in_different_operations_are_reported() {
    let reason = reason("fault_divergent_collective", 5);
    assert!(reason.starts_with("divergent warp collective: threads 0–4 of 32 wait"), "{reason}");
    let sites = [line("shuffle_xor", 1), line("warp_ballot", 1)];
    assert!(reason.contains(&format!("shuffle_xor at {}", sites[0])), "{reason}");
    assert!(reason.contains(&format!("warp_ballot at {}", sites[1])), "{reason}");
}

#[test]
fn lanes_that_never_arrive_are_reported() {
    let first = reason("fault_collective_without_lanes", 7);
    assert!(first.contains("threads 0–6 of 32 wait in shuffle_down"), "{first}");
    assert!(first.contains("threads 7–31 of 32 returned"), "{first}");
    let second = reason("fault_barrier_against_collective", 3);
    assert!(second.contains("threads 3 of 64 wait in barrier"), "{second}");
    assert!(second.contains("threads 0–2, 4–31 of 64 wait in warp_barrier"), "{second}");
}

#[test]
fn misaligned_accesses_are_reported() {
    let vector = reason("fault_alignment", 1);
    assert!(vector.starts_with(&line("= Vec16{}", 1)), "{vector}");
    assert!(vector.contains("is not aligned to 16 bytes (thread 0 of block"), "{vector}");
    let load = reason("fault_load_alignment", 2);
    assert!(load.starts_with(&format!("{}: load16: address", line("load16", 1))), "{load}");
    let copy = reason("fault_copy_alignment", 3);
    assert!(copy.contains("copy_async16, destination: address"), "{copy}");
}

#[test]
fn the_wrong_memory_is_reported() {
    let load = reason("fault_load_from_shared", 0);
    assert!(load.contains("is in the block's shared memory"), "{load}");
    let copy = reason("fault_copy_to_global", 0);
    assert!(copy.contains("is not in the block's shared memory"), "{copy}");
}

#[test]
fn data_of_a_copy_is_not_there_before_its_wait() {
    for (kernel, at) in [("fault_copy_without_commit", 0), ("fault_copy_without_wait", 0)] {
        assert_eq!(
            in_order(Order::Ascending, kernel, at)[..128].iter().step_by(4).max(),
            Some(&u32::MAX)
        );
    }
    assert_eq!(results("fault_no_copy", 1), 1);
    let words = in_order(Order::Ascending, "fault_no_copy", 1);
    let first_words: Vec<u32> = words[..128].iter().step_by(4).copied().collect();
    assert_eq!(first_words, (0..32).map(|i| 4 * (i ^ 1)).collect::<Vec<u32>>());
}

#[test]
fn undefined_arithmetic_and_indices_are_reported() {
    let division = reason("fault_division", 0);
    assert!(division.contains("division of 'unsigned int' by zero"), "{division}");
    let index = reason("fault_static_overrun", 3);
    assert!(index.contains("index 32 of array"), "{index}");
    assert!(index.contains("thread 29 of block"), "{index}");
}

#[cfg(not(any(feature = "sanitize", feature = "races")))]
#[test]
fn writes_outside_of_allocations_are_reported() {
    let behind = reason("fault_global_write", 225);
    assert_eq!(behind, "byte 1024 of an allocation of 1024 was written");
}

#[cfg(not(any(feature = "sanitize", feature = "races")))]
#[test]
fn wild_accesses_are_reported() {
    let wild = reason("fault_global_write", 2_u32.wrapping_neg());
    assert!(wild.starts_with(&format!("{}: address", line("fault_global_write", 1))), "{wild}");
    assert!(wild.contains("is in no memory (thread 0 of block (0, 0, 0))"), "{wild}");
    let null = reason("fault_null", 0);
    assert!(null.starts_with(&line("KERNEL(fault_null", 1)), "{null}");
    assert!(null.contains("null pointer"), "{null}");
    let deep = reason("fault_deep", 100);
    assert!(deep.contains("the locals of a thread take more than 64 KiB"), "{deep}");
    // The process and the threads of the machine are as before.
    assert_eq!(reason("fault_deep", 100), deep);
    assert!(in_order(Order::Ascending, "fault_none", 1).len() == 256);
}

#[cfg(not(any(feature = "sanitize", feature = "races")))]
#[test]
fn writes_behind_shared_memory_are_reported() {
    let reason = reason("fault_shared_overrun", 97);
    assert!(
        reason.contains("byte 512 of shared memory was written, the launch has 512"),
        "{reason}"
    );
}
