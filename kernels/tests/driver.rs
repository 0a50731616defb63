//! The driver without a card: against a fake `libcuda` (`fake/cuda.c`), each test in a process of its own that finds
//! it on its loader's path, and against its absence.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use kernels::compile::Places;
use kernels::{Gpu, GpuError, Pointer, Stream, cuda};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{MIX, build_fake, compiler, places};

kernels::arguments! {
    /// As in `mix.cu`.
    struct ScaleArgs {
        /// Input.
        x: Pointer,
        /// Output.
        y: Pointer,
        /// How many.
        count: u32,
        /// What they are multiplied with.
        factor: f32,
    }
}

kernels::arguments! {
    /// A pointer too few.
    struct ShortArgs {
        /// Input.
        x: Pointer,
        /// Output.
        y: Pointer,
    }
}

/// In a process that finds the fake, runs `body` with the folder of its log; else starts that process.
fn with_fake(test: &str, mode: &str, body: impl FnOnce(&Path)) {
    if let Some(log) = std::env::var_os("FAKE_CUDA_LOG") {
        return body(Path::new(&log).parent().unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    build_fake("cuda.c", &[], &folder.path().join("libcuda.so.1"));
    let mut loader = folder.path().as_os_str().to_owned();
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        loader.push(":");
        loader.push(path);
    }
    let variables = [
        ("FAKE_CUDA", PathBuf::from(mode)),
        ("FAKE_CUDA_LOG", folder.path().join("log")),
        ("LD_LIBRARY_PATH", loader.into()),
    ];
    support::run_again(test, &variables);
}

fn log(folder: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// The fake card with the kernels of `mix.cu`; none if there is no compiler.
fn fake_card(folder: &Path) -> Option<Gpu> {
    compiler(folder)?;
    let (gpu, start) = cuda::open(0, &[MIX], &places(folder)).unwrap();
    assert_eq!((start.arch, start.compiled + start.cached), (90, 1));
    Some(gpu)
}

fn scale(stream: &Stream, x: Pointer, y: Pointer, factor: f32) -> Result<(), GpuError> {
    stream.launch("scale", [2, 1, 1], 128, 0, &ScaleArgs { x, y, count: 200, factor })
}

#[test]
#[expect(unsafe_code, reason = "looks for the driver")]
fn without_a_driver_there_is_a_line_and_no_panic() {
    // SAFETY: loading the driver has no effect of its own.
    if unsafe { libloading::Library::new("libcuda.so.1") }.is_ok() {
        eprintln!("SKIPPED: this machine has a CUDA driver");
        return;
    }
    assert_eq!(Gpu::cuda(0).unwrap_err(), GpuError::NoDriver);
    assert_eq!(cuda::cards().unwrap_err(), GpuError::NoDriver);
}

#[test]
fn drivers_that_see_no_card_say_so() {
    with_fake("drivers_that_see_no_card_say_so", "no_device", |_| {
        assert_eq!(Gpu::cuda(0).unwrap_err(), GpuError::NoCard);
    });
}

#[test]
fn a_driver_with_an_empty_list_sees_no_card() {
    with_fake("a_driver_with_an_empty_list_sees_no_card", "empty", |_| {
        assert_eq!(Gpu::cuda(0).unwrap_err(), GpuError::NoCard);
    });
}

#[test]
fn a_toolkit_s_stub_is_no_driver() {
    with_fake("a_toolkit_s_stub_is_no_driver", "stub", |_| {
        assert_eq!(
            Gpu::cuda(0).unwrap_err().to_string(),
            "the CUDA driver doesn't start: CUDA driver is a stub library (CUDA_ERROR_STUB_LIBRARY); \
             see what nvidia-smi says, or use --device cpu"
        );
    });
}

#[test]
fn errors_without_words_keep_their_name() {
    with_fake("errors_without_words_keep_their_name", "broken", |_| {
        assert_eq!(
            cuda::cards().unwrap_err().to_string(),
            "the CUDA driver doesn't start: CUDA_ERROR_UNKNOWN; see what nvidia-smi says, or use --device cpu"
        );
    });
}

#[test]
fn old_drivers_are_refused() {
    with_fake("old_drivers_are_refused", "old_driver", |_| {
        let old = GpuError::OldDriver { found: (11, 4), least: (12, 0) };
        assert_eq!(Gpu::cuda(0).unwrap_err(), old);
    });
}

#[test]
fn old_cards_are_refused() {
    with_fake("old_cards_are_refused", "old_card", |_| {
        assert_eq!(
            Gpu::cuda(1).unwrap_err().to_string(),
            "cuda:1 (Fake 1) has compute capability 7.5, at least 8.0 is needed; take another card or --device cpu"
        );
    });
}

#[test]
fn cards_that_exist_are_named() {
    with_fake("cards_that_exist_are_named", "card", |_| {
        assert_eq!(cuda::cards().unwrap(), ["Fake 0", "Fake 1"]);
        assert_eq!(
            Gpu::cuda(2).unwrap_err().to_string(),
            "there is no cuda:2; there is cuda:0 (Fake 0), cuda:1 (Fake 1); take one of these or --device cpu"
        );
    });
}

#[test]
fn a_driver_without_a_compiler_names_the_wheel_for_it() {
    with_fake("a_driver_without_a_compiler_names_the_wheel_for_it", "driver_12", |_| {
        let error = cuda::open(0, &[MIX], &Places::default()).unwrap_err();
        assert_eq!(error, GpuError::NoCompiler { package: "nvidia-cuda-nvrtc-cu12" });
    });
}

#[test]
fn kernels_are_loaded_launched_and_unloaded() {
    with_fake("kernels_are_loaded_launched_and_unloaded", "card", |folder| {
        let Some(gpu) = fake_card(folder) else { return };
        let card = gpu.card();
        assert_eq!((card.name.as_str(), card.capability), ("Fake 0", (9, 0)));
        assert_eq!((card.multiprocessors, card.shared_memory), (132, 99 << 10));
        // Waiting blocks (4); all that static arrays leave of 99 KiB may be asked for.
        let started =
            ["flags 4", "retain 0", "load", "shared multiply 100608", "shared scale 101376"];
        assert_eq!(log(folder), started);

        let stream = gpu.stream().unwrap();
        let x: Vec<f32> = (0..200u8).map(f32::from).collect();
        let (a, b) = (gpu.buffer(800).unwrap(), gpu.buffer(800).unwrap());
        stream.upload(a.pointer(), &x).unwrap();
        stream.fill(b.pointer(), 0xff, 800).unwrap();
        let before = stream.record().unwrap();
        scale(&stream, a.pointer(), b.pointer(), 0.5).unwrap();
        stream.copy(b.pointer().offset(4), a.pointer(), 8).unwrap();
        let mut y = vec![0f32; 200];
        stream.download(b.pointer(), &mut y).unwrap();
        assert_eq!(y, x.iter().map(|x| 0.5 * x).collect::<Vec<_>>());
        stream.download(a.pointer(), &mut y[..3]).unwrap();
        assert_eq!(y[..3], [0.5, 1.0, 2.0]);
        // A launch takes the fake 2.5 ms.
        assert_eq!(stream.record().unwrap().since(&before).unwrap(), 2.5e-3);
        let other = gpu.stream().unwrap();
        other.wait(&before).unwrap();
        drop(before);
        // Nothing at all is no work.
        stream.upload(a.pointer(), &[0f32; 0]).unwrap();
        stream.copy(a.pointer(), b.pointer(), 0).unwrap();
        stream.fill(a.pointer(), 0, 0).unwrap();
        stream.download(a.pointer(), &mut [0f32; 0]).unwrap();

        let free = gpu.memory().unwrap().free;
        assert_eq!(free, (1 << 20) - 1600);
        drop((a, b, stream, other));
        assert_eq!(gpu.memory().unwrap().free, 1 << 20);
        drop(gpu);
        let log = log(folder);
        let expected = [
            "stream 1",
            "upload 800",
            "synchronise",
            "launch scale 2 1 1 × 128 1 1, 0",
            "download 800",
            "synchronise",
            "download 12",
            "synchronise",
            "end event",
            "stream 1",
            "wait",
            "end event",
            "synchronise",
            "end stream",
            "end stream",
            "unload",
            "release 0",
        ];
        assert_eq!(log[started.len()..], expected);
    });
}

#[test]
fn what_does_not_fit_a_kernel_or_the_card_is_refused_in_words() {
    with_fake("what_does_not_fit_a_kernel_or_the_card_is_refused_in_words", "card", |folder| {
        let Some(gpu) = fake_card(folder) else { return };
        let stream = gpu.stream().unwrap();
        let full = ScaleArgs { x: Pointer(0), y: Pointer(0), count: 0, factor: 0.0 };
        let short = ShortArgs { x: Pointer(0), y: Pointer(0) };
        let shared = 100 << 10;
        for (result, text) in [
            (stream.launch("gather", [1; 3], 128, 0, &full), "there is no kernel gather"),
            (
                stream.launch("scale", [1; 3], 256, 0, &full),
                "kernel scale: 256 threads for a kernel of 128",
            ),
            (
                stream.launch("scale", [1; 3], 128, 0, &short),
                "kernel scale: 16 bytes of arguments for a kernel that takes 24",
            ),
            (
                stream.launch("scale", [1; 3], 128, shared, &full),
                "kernel scale: 102400 bytes of shared memory, 101376 are there",
            ),
            (
                stream.launch("scale", [1, 0, 1], 128, 0, &full),
                "kernel scale: an empty grid [1, 0, 1]",
            ),
            (
                stream.launch("scale", [1, 70_000, 1], 128, 0, &full),
                "cuLaunchKernel(scale, [1, 70000, 1] × 128, 0 bytes): invalid argument (CUDA_ERROR_INVALID_VALUE)",
            ),
        ] {
            assert_eq!(result.unwrap_err().to_string(), text);
        }
        let launched = log(folder).iter().filter(|line| line.starts_with("launch")).count();
        assert_eq!(launched, 1, "only the last one reached the driver");
        let _some = gpu.buffer(1000).unwrap();
        let error = gpu.buffer(1 << 20).unwrap_err().to_string();
        let wanted = "a buffer needs 1048576 bytes of GPU memory, 1047576 are free; ";
        assert!(error.starts_with(wanted), "{error}");
    });
}

#[test]
fn work_can_be_recorded_and_replayed() {
    with_fake("work_can_be_recorded_and_replayed", "card", |folder| {
        let Some(gpu) = fake_card(folder) else { return };
        let stream = gpu.stream().unwrap();
        let (a, b) = (gpu.buffer(800).unwrap(), gpu.buffer(800).unwrap());
        stream.upload(a.pointer(), &[1f32; 200]).unwrap();
        let graph = stream
            .capture(|| {
                scale(&stream, a.pointer(), b.pointer(), 2.0)?;
                scale(&stream, b.pointer(), a.pointer(), 3.0)
            })
            .unwrap();
        let first = || {
            let mut y = [0f32; 1];
            stream.download(a.pointer(), &mut y).unwrap();
            y[0]
        };
        assert_eq!(first(), 1.0, "recorded, not run");
        for result in [6.0, 36.0, 216.0] {
            stream.replay(&graph).unwrap();
            assert_eq!(first(), result);
        }
        // A recording that fails ends, and the stream works again: with an error of ours, which leaves a graph that
        // nobody wants, and with one that the driver ends the recording for.
        let none = GpuError::NoKernel("none".into());
        assert_eq!(stream.capture(|| Err(none.clone())).unwrap_err(), none);
        assert_eq!(
            stream.capture(|| stream.synchronise()).unwrap_err().to_string(),
            "cuStreamSynchronize: error 900"
        );
        assert_eq!(first(), 216.0);
        drop(graph);
        let ends = |what: &str| log(folder).iter().filter(|line| *line == what).count();
        assert_eq!((ends("end template"), ends("end graph")), (2, 2));
    });
}

#[test]
fn uploads_from_pinned_memory_do_not_wait() {
    with_fake("uploads_from_pinned_memory_do_not_wait", "card", |folder| {
        let Some(gpu) = fake_card(folder) else { return };
        let (stream, a) = (gpu.stream().unwrap(), gpu.buffer(16).unwrap());
        let started = log(folder).len();
        let mut pinned = gpu.pinned(16).unwrap();
        pinned.write(0, &[1f32, 2.0, 3.0, 4.0]);
        stream.upload_pinned(a.pointer(), &pinned, 12).unwrap();
        stream.synchronise().unwrap();
        drop(pinned);
        assert_eq!(log(folder)[started..], ["pin", "upload 12", "synchronise", "unpin"]);
        let mut y = [0f32; 3];
        stream.download(a.pointer(), &mut y).unwrap();
        assert_eq!(y, [1.0, 2.0, 3.0]);
    });
}

#[test]
fn faults_are_reported_by_a_later_call() {
    with_fake("faults_are_reported_by_a_later_call", "card", |folder| {
        let Some(gpu) = fake_card(folder) else { return };
        let stream = gpu.stream().unwrap();
        scale(&stream, Pointer(0), Pointer(0), 1.0).unwrap();
        assert_eq!(
            stream.synchronise().unwrap_err().to_string(),
            "cuStreamSynchronize: an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)"
        );
    });
}

#[test]
fn a_card_serves_many_threads() {
    with_fake("a_card_serves_many_threads", "card", |folder| {
        let Some(gpu) = fake_card(folder) else { return };
        let gpu = Arc::new(gpu);
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let gpu = gpu.clone();
                scope.spawn(move || {
                    let (a, b) = (gpu.buffer(800).unwrap(), gpu.buffer(800).unwrap());
                    let stream = gpu.stream().unwrap();
                    for turn in 0..20u8 {
                        stream.upload(a.pointer(), &[f32::from(turn); 200]).unwrap();
                        scale(&stream, a.pointer(), b.pointer(), f32::from(thread)).unwrap();
                        let event = stream.record().unwrap();
                        stream.wait(&event).unwrap();
                        let mut y = [0f32; 200];
                        stream.download(b.pointer(), &mut y).unwrap();
                        assert_eq!(y, [f32::from(turn) * f32::from(thread); 200]);
                    }
                });
            }
        });
        assert_eq!(gpu.memory().unwrap().free, 1 << 20);
    });
}
