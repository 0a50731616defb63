//! Kernels are compiled by the machine's NVRTC, without a card; which one is taken is tested with fakes.

mod support;

use kernels::compile::{Compiler, Job, Kernel, Places, Target, kernels};
use kernels::{GpuError, Source};
use std::path::Path;
use support::{H100, MIX, build_fake, compiler, places};

#[test]
fn cubins_say_their_kernels_threads_and_arguments() {
    let cache = tempfile::tempdir().unwrap();
    if compiler(cache.path()).is_none() {
        return;
    }
    for arch in [80, 86, 89, 90, 100, 120] {
        let target = Target { capability: (arch / 10, arch % 10), ..H100 };
        let compiler = match Compiler::find(&places(cache.path()), target) {
            Ok((compiler, found)) => {
                assert_eq!(found, arch);
                compiler
            }
            // 12.1 to 12.7.
            Err(GpuError::UnfitCompiler { .. }) if arch > 90 => continue,
            Err(error) => panic!("{error}"),
        };
        let done = compiler.compile(&[Job { source: MIX, arch }]).remove(0).unwrap();
        assert_eq!((done.cached, done.not_kept), (false, None), "sm_{arch}");
        assert_eq!(done.compiled.log, "", "sm_{arch}");
        // Three pointers; two pointers and two numbers of four bytes.
        let expected = [("multiply", 32, 24), ("scale", 128, 24)];
        let expected = expected.map(|(name, threads, bytes)| Kernel {
            name: name.into(),
            threads: Some(threads),
            arguments: Some(bytes),
        });
        assert_eq!(kernels(&done.compiled.cubin).unwrap(), expected, "sm_{arch}");
    }
}

#[test]
fn a_second_compilation_is_the_first_s_output() {
    let cache = tempfile::tempdir().unwrap();
    let Some(compiler) = compiler(cache.path()) else { return };
    let job = [Job { source: MIX, arch: 90 }];
    let compile = || compiler.compile(&job).remove(0).unwrap();
    let first = compile();
    let second = compile();
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(first.compiled, second.compiled);

    let file = |folder: &Path| {
        let entry = std::fs::read_dir(folder).unwrap().next().unwrap();
        entry.unwrap().path()
    };
    let path = file(&cache.path().join("nnu/kernels"));
    let whole = std::fs::read(&path).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", &[&whole[..], b"!"].concat()] {
        #[expect(clippy::disallowed_methods, reason = "damages the cache")]
        std::fs::write(&path, broken).unwrap();
        let again = compile();
        assert_eq!((again.cached, again.compiled), (false, first.compiled.clone()));
        assert_eq!(std::fs::read(&path).unwrap(), whole, "the file is mended");
    }
    // Other text, other file.
    let other = format!("{}\n", MIX.text).leak();
    let other = [Job { source: Source { text: other, ..MIX }, arch: 90 }];
    assert!(!compiler.compile(&other).remove(0).unwrap().cached);
}

#[test]
fn a_cache_that_cannot_be_written_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    #[expect(clippy::disallowed_methods, reason = "a file where a folder should be")]
    std::fs::write(&file, "").unwrap();
    let Some(compiler) = compiler(&file) else { return };
    let done = compiler.compile(&[Job { source: MIX, arch: 90 }]).remove(0).unwrap();
    assert!(!done.cached);
    assert!(done.not_kept.unwrap().contains("Not a directory"));
}

#[test]
fn programs_that_start_at_once_share_a_cache() {
    let test = "programs_that_start_at_once_share_a_cache";
    let job = [Job { source: MIX, arch: 90 }];
    if let Some(cache) = std::env::var_os("TEST_CACHE") {
        let compiler = compiler(Path::new(&cache)).unwrap();
        assert!(!compiler.compile(&job).remove(0).unwrap().compiled.cubin.is_empty());
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let Some(compiler) = compiler(cache.path()) else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| support::run_again(test, &[("TEST_CACHE", cache.path().to_owned())]));
            scope.spawn(|| {
                // The same file several times at once, from several threads.
                let done = compiler.compile(&[job[0]; 4]);
                let cubins = done.into_iter().map(|done| done.unwrap().compiled.cubin);
                let cubins: std::collections::BTreeSet<_> = cubins.collect();
                assert_eq!(cubins.len(), 1);
            });
        }
    });
    // One complete file, and nothing temporary.
    let folder = cache.path().join("nnu/kernels");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    assert!(compiler.compile(&job).remove(0).unwrap().cached);
}

#[test]
fn what_the_compiler_refuses_is_one_line_with_the_place() {
    let cache = tempfile::tempdir().unwrap();
    let Some(compiler) = compiler(cache.path()) else { return };
    let source = Source {
        file: "wrong.cu",
        text: "#include \"device.cuh\"\nstruct A { float* x; };\nKERNEL(wrong, 32, A) { args.y[0] = 1; }\n",
    };
    let jobs = [Job { source: MIX, arch: 90 }, Job { source, arch: 90 }];
    let done = compiler.compile(&jobs);
    assert!(done[0].is_ok());
    let error = done[1].as_ref().unwrap_err();
    let GpuError::Compile { version: (major, minor), log, .. } = error else { panic!("{error}") };
    assert!(log.lines().count() > 2, "{log}");
    assert_eq!(
        error.to_string(),
        format!(
            "wrong.cu doesn't compile for sm_90 with NVRTC {major}.{minor}: \
             wrong.cu(3): error: class \"A\" has no member \"y\""
        )
    );
}

/// Folders with a fake compiler each.
fn fakes(root: &Path, versions: &[(u32, u32, u32)]) -> Places {
    let toolkits = versions.iter().map(|&(major, minor, newest)| {
        let folder = root.join(format!("cuda-{major}.{minor}"));
        let definitions =
            [format!("-DMAJOR={major}"), format!("-DMINOR={minor}"), format!("-DNEWEST={newest}")];
        let definitions = definitions.each_ref().map(String::as_str);
        let name = format!("lib64/libnvrtc.so.{major}");
        build_fake("nvrtc.c", &definitions, &folder.join(name));
        folder
    });
    Places { toolkits: toolkits.collect(), ..Places::default() }
}

#[test]
fn the_first_compiler_that_serves_card_and_driver_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let places = fakes(root.path(), &[(12, 0, 90), (13, 1, 120), (12, 1, 90), (12, 8, 120)]);
    let found = |capability, driver| {
        let (compiler, arch) = Compiler::find(&places, Target { capability, driver }).unwrap();
        let described = compiler.describe();
        (described.split(' ').nth(1).unwrap().to_owned(), arch)
    };
    assert_eq!(found((12, 0), (13, 0)), ("13.1".into(), 120));
    // Code of 13 does not load there; 12.1 doesn't know the second card.
    assert_eq!(found((8, 0), (12, 4)), ("12.1".into(), 80));
    assert_eq!(found((12, 0), (12, 8)), ("12.8".into(), 120));
    // The next lower one of the generation.
    assert_eq!(found((12, 1), (13, 0)), ("13.1".into(), 120));
    assert_eq!(found((8, 9), (12, 8)), ("12.1".into(), 80));
}

#[test]
fn missing_and_unfit_compilers_are_said_with_the_way_out() {
    let none = Compiler::find(&Places::default(), H100).unwrap_err();
    assert_eq!(
        none.to_string(),
        "CUDA's run-time compiler (libnvrtc.so) is not found; `pip install nvidia-cuda-nvrtc` in the active \
         Python environment, set CUDA_HOME to a CUDA toolkit, or use --device cpu"
    );
    let root = tempfile::tempdir().unwrap();
    let mut places = fakes(root.path(), &[(11, 8, 90), (13, 1, 120), (12, 1, 90)]);
    let no_library = root.path().join("broken/lib64/libnvrtc.so.13");
    std::fs::create_dir_all(no_library.parent().unwrap()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a file that is no library")]
    std::fs::write(&no_library, "text").unwrap();
    places.toolkits.push(root.path().join("broken"));
    let target = Target { capability: (12, 0), driver: (12, 4) };
    let unfit = Compiler::find(&places, target).unwrap_err().to_string();
    let at = root.path().display();
    assert_eq!(
        unfit,
        format!(
            "NVRTC 11.8 ({at}/cuda-11.8/lib64/libnvrtc.so.11) is older than 12.1; \
             NVRTC 13.1 ({at}/cuda-13.1/lib64/libnvrtc.so.13) is newer than the driver, which is for CUDA 12.4; \
             NVRTC 12.1 ({at}/cuda-12.1/lib64/libnvrtc.so.12) doesn't know compute capability 12.0; \
             NVRTC can't be opened: {at}/broken/lib64/libnvrtc.so.13: file too short; \
             `pip install -U nvidia-cuda-nvrtc-cu12` in the active Python environment, \
             set CUDA_HOME to another CUDA toolkit, or use --device cpu"
        )
    );
}
