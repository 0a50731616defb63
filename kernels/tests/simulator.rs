//! The simulator as a [`kernels::Driver`]: what a card refuses, it refuses; what a card does later, it does in order.
#![allow(clippy::unwrap_used, reason = "tests")]

use kernels::{Gpu, GpuError, Pace, Pointer, SimOptions, Stream, arguments, sim};

arguments! {
    /// Of `probe_threads`, `probe_barriers`, ….
    struct RoundsArgs {
        /// A word for each thread.
        to: Pointer,
        /// Repetitions.
        rounds: u32,
        /// Padding.
        zero: u32,
    }
}

arguments! {
    /// A field short of [`RoundsArgs`].
    struct ShortArgs {
        /// A word for each thread.
        to: Pointer,
    }
}

fn gpu() -> Gpu {
    Gpu::sim(SimOptions::default())
}

fn reason<T>(result: Result<T, GpuError>) -> String {
    match result {
        Err(GpuError::Call { call, reason }) => format!("{call}: {reason}"),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it went through"),
    }
}

#[test]
fn launches_that_a_card_refuses_are_refused() {
    let gpu = gpu();
    let buffer = gpu.buffer(4096).unwrap();
    let stream = gpu.stream().unwrap();
    let arguments = RoundsArgs { to: buffer.pointer(), rounds: 0, zero: 0 };
    let launch =
        |kernel, grid, threads, shared| stream.launch(kernel, grid, threads, shared, &arguments);
    assert_eq!(launch("probe_threads", [4, 1, 1], 256, 0), Ok(()));
    let missing = launch("no_such_kernel", [1, 1, 1], 256, 0);
    assert_eq!(missing, Err(GpuError::NoKernel("no_such_kernel".to_owned())));
    assert_eq!(
        reason(launch("probe_threads", [1, 1, 1], 128, 0)),
        "launch of probe_threads: launched with 128 threads, its KERNEL line says 256"
    );
    assert_eq!(
        reason(launch("probe_threads", [1, 0, 1], 256, 0)),
        "launch of probe_threads: no such grid: 1 × 0 × 1 blocks"
    );
    assert!(reason(launch("probe_threads", [1, 65536, 1], 256, 0)).contains("no such grid"));
    assert_eq!(
        reason(launch("probe_threads", [1, 1, 1], 256, 101_377)),
        "launch of probe_threads: 101377 bytes of shared memory, a block can have 101376"
    );
    let short = ShortArgs { to: buffer.pointer() };
    assert_eq!(
        reason(stream.launch("probe_threads", [1, 1, 1], 256, 0, &short)),
        "launch of probe_threads: launched with 8 bytes of arguments, its struct has 16"
    );
}

#[test]
fn memory_runs_out_and_comes_back() {
    let gpu = Gpu::sim(SimOptions { memory: 4096, ..SimOptions::default() });
    let free = || gpu.memory().unwrap().free;
    assert_eq!(free(), 4096);
    let first = gpu.buffer(1).unwrap();
    assert_eq!(free(), 4096 - 256);
    assert_eq!(first.pointer().0 % 256, 0);
    let Err(GpuError::Memory { wanted, free: left, .. }) = gpu.buffer(3841) else {
        panic!("there is room for 3840 bytes");
    };
    assert_eq!((wanted, left), (3841, 3840));
    let second = gpu.buffer(3840).unwrap();
    assert_eq!(free(), 0);
    drop((first, second));
    assert_eq!(free(), 4096);
    assert_eq!(gpu.memory().unwrap().total, 4096);
}

#[test]
fn fresh_memory_is_nan() {
    let gpu = gpu();
    let buffer = gpu.buffer(64).unwrap();
    let mut floats = [0.0_f32; 16];
    gpu.stream().unwrap().download(buffer.pointer(), &mut floats).unwrap();
    assert!(floats.iter().all(|x| x.is_nan()));
}

#[test]
fn ranges_outside_of_allocations_are_refused() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(64).unwrap();
    let (start, behind) = (buffer.pointer(), buffer.pointer().offset(64));
    let mut bytes = [7_u8; 65];
    let outside = "are not in an allocation";
    assert!(reason(stream.upload(start, &bytes)).contains(outside));
    assert!(reason(stream.download(start, &mut bytes)).contains(outside));
    assert!(reason(stream.fill(start.offset(1), 0, 64)).contains(outside));
    assert!(reason(stream.copy(start, start.offset(60), 5)).contains(outside));
    assert!(reason(stream.copy(behind, start, 1)).contains(outside));
    assert!(reason(stream.fill(Pointer(0), 0, 1)).contains(outside));
    assert_eq!(stream.fill(behind, 0, 0), Ok(()));
    drop(buffer);
    assert!(reason(stream.fill(start, 0, 64)).contains(outside));
}

#[test]
fn bytes_are_moved_and_set() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(16).unwrap();
    let at = |offset| buffer.pointer().offset(offset);
    stream.upload(at(0), &[1_u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]).unwrap();
    stream.copy(at(0), at(12), 3).unwrap();
    stream.fill(at(4), 200, 2).unwrap();
    let mut bytes = [0_u8; 16];
    stream.download(at(0), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 200, 200, 7, 8, 9, 10, 11, 12, 1, 2, 3, 16]);
}

#[test]
fn a_recording_runs_when_it_is_replayed() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let (source, target) = (gpu.buffer(1024).unwrap(), gpu.buffer(1024).unwrap());
    let words = |pointer| {
        let mut words = vec![0_u32; 256];
        stream.download(pointer, &mut words).unwrap();
        words
    };
    stream.fill(target.pointer(), 0, 1024).unwrap();
    let arguments = RoundsArgs { to: source.pointer(), rounds: 0, zero: 0 };
    let graph = stream
        .capture(|| {
            stream.launch("probe_threads", [1, 1, 1], 256, 0, &arguments)?;
            stream.copy(source.pointer(), target.pointer(), 1024)?;
            stream.fill(source.pointer(), 0, 512)
        })
        .unwrap();
    assert_eq!(words(target.pointer()), vec![0; 256]);
    for _ in 0..2 {
        stream.replay(&graph).unwrap();
        assert_eq!(words(target.pointer()), (0..256).collect::<Vec<u32>>());
        assert_eq!(words(source.pointer())[..129], [vec![0; 128], vec![128]].concat());
        stream.fill(target.pointer(), 1, 1024).unwrap();
    }
}

#[test]
fn a_recording_refuses_what_would_wait_or_take_memory() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(64).unwrap();
    let captured = "not permitted while";
    let mut bytes = [0_u8; 64];
    let graph = stream.capture(|| {
        assert!(reason(stream.download(buffer.pointer(), &mut bytes)).contains(captured));
        assert!(reason(stream.upload(buffer.pointer(), &bytes)).contains(captured));
        assert!(reason(stream.synchronise()).contains(captured));
        assert!(reason(gpu.buffer(64)).contains(captured));
        stream.fill(buffer.pointer(), 1, 64)
    });
    assert_eq!(stream.replay(&graph.unwrap()), Ok(()));
    assert!(gpu.buffer(64).is_ok());
}

#[test]
fn a_recording_of_freed_memory_is_refused() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(64).unwrap();
    let graph = stream.capture(|| stream.fill(buffer.pointer(), 1, 64)).unwrap();
    drop(buffer);
    assert!(reason(stream.replay(&graph)).contains("are not in an allocation"));
}

#[test]
fn a_recording_takes_in_streams_that_wait_for_it() {
    let gpu = gpu();
    let (main, side) = (gpu.stream().unwrap(), gpu.stream().unwrap());
    let buffer = gpu.buffer(64).unwrap();
    let byte = || {
        let mut byte = [0_u8];
        main.download(buffer.pointer(), &mut byte).unwrap();
        byte[0]
    };
    main.fill(buffer.pointer(), 0, 64).unwrap();
    let graph = main.capture(|| {
        let fork = main.record()?;
        side.wait(&fork)?;
        side.fill(buffer.pointer(), 5, 64)?;
        let join = side.record()?;
        main.wait(&join)?;
        main.copy(buffer.pointer(), buffer.pointer().offset(32), 1)
    });
    assert_eq!(byte(), 0);
    main.replay(&graph.unwrap()).unwrap();
    assert_eq!(byte(), 5);
    // Not joined: work of the side stream that nobody waits for.
    let unjoined = main.capture(|| {
        side.wait(&main.record()?)?;
        side.fill(buffer.pointer(), 6, 64)
    });
    assert!(reason(unjoined).contains("does not wait for"));
    assert_eq!(side.fill(buffer.pointer(), 7, 64), Ok(()));
    assert_eq!(byte(), 7);
}

#[test]
fn events_measure_time() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let first = stream.record().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    let second = stream.record().unwrap();
    assert!(second.since(&first).unwrap() >= 0.003);
    assert!(first.since(&second).unwrap() <= -0.003);
}

#[test]
fn many_threads_of_the_machine_work_on_a_launch() {
    for threads in [1, 2, 7] {
        let gpu = Gpu::sim(SimOptions { threads, ..SimOptions::default() });
        let stream = gpu.stream().unwrap();
        let buffer = gpu.buffer(4 * 256 * 100).unwrap();
        let arguments = RoundsArgs { to: buffer.pointer(), rounds: 5, zero: 0 };
        stream.launch("probe_barriers", [100, 1, 1], 256, 0, &arguments).unwrap();
        let mut words = vec![0_u32; 256 * 100];
        stream.download(buffer.pointer(), &mut words).unwrap();
        assert!(words.iter().enumerate().all(|(i, &word)| word as usize == i % 256));
    }
}

#[test]
fn a_recorded_upload_reads_pinned_memory_when_it_is_replayed() {
    let gpu = gpu();
    let stream = gpu.stream().unwrap();
    let buffer = gpu.buffer(16).unwrap();
    let mut pinned = gpu.pinned(16).unwrap();
    pinned.write(0, &[1_u32, 2, 3, 4]);
    let graph = stream.capture(|| stream.upload_pinned(buffer.pointer(), &pinned, 16)).unwrap();
    for first in [5_u32, 9] {
        pinned.write(0, &[first]);
        stream.replay(&graph).unwrap();
        let mut words = [0_u32; 4];
        stream.download(buffer.pointer(), &mut words).unwrap();
        assert_eq!(words, [first, 2, 3, 4]);
    }
    drop(pinned);
    assert!(reason(stream.replay(&graph)).contains("is not pinned"));
}

/// A simulated card whose streams work later.
fn later(seed: u64) -> Gpu {
    Gpu::sim(SimOptions { pace: Pace::Later(seed), ..SimOptions::default() })
}

/// Three numbers are uploaded on one stream through one buffer, and collected on another; what was collected. The
/// streams wait for each other as far as they are told to.
fn pipeline(gpu: &Gpu, data_wait: bool, room_wait: bool) -> Vec<u32> {
    let (copying, computing) = (gpu.stream().unwrap(), gpu.stream().unwrap());
    let (input, results) = (gpu.buffer(4).unwrap(), gpu.buffer(12).unwrap());
    computing.fill(results.pointer(), 0, 12).unwrap();
    copying.fill(input.pointer(), 0, 4).unwrap();
    for (i, number) in [5_u32, 6, 7].into_iter().enumerate() {
        copying.upload(input.pointer(), &[number]).unwrap();
        if data_wait {
            computing.wait(&copying.record().unwrap()).unwrap();
        }
        computing.copy(input.pointer(), results.pointer().offset(4 * i), 4).unwrap();
        if room_wait {
            copying.wait(&computing.record().unwrap()).unwrap();
        }
    }
    let mut collected = vec![0; 3];
    computing.download(results.pointer(), &mut collected).unwrap();
    copying.synchronise().unwrap();
    collected
}

#[test]
fn streams_run_apart_where_nothing_holds_them() {
    assert_eq!(pipeline(&gpu(), false, false), [5, 6, 7]);
    let seeds = || (0..16).map(later);
    assert!(seeds().all(|gpu| pipeline(&gpu, true, true) == [5, 6, 7]));
    // Too early to have the data, and too late: the next is there.
    assert!(seeds().any(|gpu| pipeline(&gpu, false, true) != [5, 6, 7]));
    assert!(seeds().any(|gpu| pipeline(&gpu, true, false) == [7, 7, 7]));
}

#[test]
fn orders_of_streams_are_compared_too() {
    let options = SimOptions::default();
    assert_eq!(sim::in_every_order(options, |gpu| pipeline(gpu, true, true)), [5, 6, 7]);
    let racing = || sim::in_every_order(options, |gpu| pipeline(gpu, true, false));
    assert!(std::panic::catch_unwind(racing).is_err());
}

#[test]
fn pinned_memory_is_read_when_the_stream_comes_there() {
    let upload = |gpu: &Gpu, wait: bool| {
        let stream = gpu.stream().unwrap();
        let buffer = gpu.buffer(4).unwrap();
        let mut pinned = gpu.pinned(4).unwrap();
        pinned.write(0, &[1_u32]);
        stream.upload_pinned(buffer.pointer(), &pinned, 4).unwrap();
        if wait {
            stream.synchronise().unwrap();
        }
        pinned.write(0, &[2_u32]);
        let mut word = [0_u32];
        stream.download(buffer.pointer(), &mut word).unwrap();
        word[0]
    };
    assert_eq!(upload(&later(1), true), 1);
    assert_eq!(upload(&later(1), false), 2);
}

#[test]
fn memory_given_back_too_early_is_told() {
    let gpu = later(1);
    let stream = gpu.stream().unwrap();
    let told = |stream: &Stream| {
        let told = reason(stream.synchronise());
        assert!(told.contains("which work that is not done uses"), "{told}");
        assert_eq!(stream.synchronise(), Ok(()));
    };
    let buffer = gpu.buffer(1024).unwrap();
    let arguments = RoundsArgs { to: buffer.pointer(), rounds: 0, zero: 0 };
    stream.launch("probe_threads", [1, 1, 1], 256, 0, &arguments).unwrap();
    drop(buffer);
    told(&stream);
    let (buffer, pinned) = (gpu.buffer(64).unwrap(), gpu.pinned(64).unwrap());
    stream.upload_pinned(buffer.pointer(), &pinned, 64).unwrap();
    drop(pinned);
    told(&stream);
    stream.fill(buffer.pointer(), 0, 64).unwrap();
    stream.synchronise().unwrap();
    drop(buffer);
    assert_eq!(stream.synchronise(), Ok(()));
}

#[test]
fn errors_of_later_work_come_later() {
    let gpu = later(1);
    let stream = gpu.stream().unwrap();
    let arguments = RoundsArgs { to: Pointer(0), rounds: 0, zero: 0 };
    let launch = |kernel| stream.launch(kernel, [1, 1, 1], 256, 0, &arguments);
    assert_eq!(launch("no_such_kernel"), Err(GpuError::NoKernel("no_such_kernel".to_owned())));
    assert_eq!(launch("probe_threads"), Ok(()));
    assert!(reason(stream.synchronise()).contains("null pointer"));
    assert_eq!(stream.synchronise(), Ok(()));
}

#[test]
fn marks_of_later_work_have_times() {
    let gpu = later(1);
    let (stream, other) = (gpu.stream().unwrap(), gpu.stream().unwrap());
    let buffer = gpu.buffer(4 * 256 * 100).unwrap();
    let start = stream.record().unwrap();
    let arguments = RoundsArgs { to: buffer.pointer(), rounds: 20, zero: 0 };
    stream.launch("probe_barriers", [100, 1, 1], 256, 0, &arguments).unwrap();
    let end = stream.record().unwrap();
    other.wait(&end).unwrap();
    let behind = other.record().unwrap();
    assert!(end.since(&start).unwrap() > 0.0);
    assert!(behind.since(&end).unwrap() >= 0.0);
    // A mark may be given back before it is passed.
    drop((stream.record().unwrap(), start));
    assert_eq!(stream.synchronise(), Ok(()));
}

/// Prints rates: `cargo test -p kernels --test simulator -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed() {
    for threads in [1, 2] {
        let gpu = Gpu::sim(SimOptions { threads, ..SimOptions::default() });
        let stream = gpu.stream().unwrap();
        let blocks = 2000;
        let buffer = gpu.buffer(4 * 256 * blocks as usize).unwrap();
        // What a thread does in a round, how often, and how many threads do it together.
        let cases = [
            ("threads", "probe_threads", 1, 1.0),
            ("thread barriers", "probe_barriers", 50, 1.0),
            ("lane shuffles", "probe_shuffles", 50, 1.0),
            ("matrix products of a warp", "probe_products", 50, 32.0),
        ];
        for (what, kernel, rounds, together) in cases {
            let arguments = RoundsArgs { to: buffer.pointer(), rounds, zero: 0 };
            let start = std::time::Instant::now();
            stream.launch(kernel, [blocks, 1, 1], 256, 0, &arguments).unwrap();
            let done = f64::from(blocks) * 256.0 * f64::from(rounds) / together;
            let rate = done / start.elapsed().as_secs_f64() / 1e6;
            eprintln!("{rate:8.2} million {what} a second on {threads} threads of the machine");
        }
    }
}
