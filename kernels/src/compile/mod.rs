//! From the kernels' text to machine code for a card: finds NVRTC on this machine, compiles files in parallel, and
//! keeps what it compiled. No card and no driver is needed for that.

mod cache;
mod cubin;
mod find;
mod nvrtc;

pub use cubin::{Kernel, kernels};
pub use find::Places;
pub use nvrtc::Compiled;

use crate::error::GpuError;
use crate::sources::{HEADERS, Source};
use cache::{Cache, Parts};
use nvrtc::Nvrtc;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The oldest driver: it loads what any compiler of its major version makes.
pub const OLDEST_DRIVER: (u32, u32) = (12, 0);

/// The oldest compiler: 12.0 overflows its stack on some of the kernels when it compiles them for 9.0.
pub const OLDEST_COMPILER: (u32, u32) = (12, 1);

/// The oldest cards: the first with bfloat16 on the tensor cores and with `cp.async`.
pub const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// What code must run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Compute capability.
    pub capability: (u32, u32),
    /// The newest CUDA that the driver serves: it loads code of its major version and of older ones.
    pub driver: (u32, u32),
}

impl Target {
    /// The wheel whose compiler serves the driver.
    fn package(self) -> &'static str {
        if self.driver.0 < 13 { "nvidia-cuda-nvrtc-cu12" } else { "nvidia-cuda-nvrtc" }
    }
}

/// A compiler with its settings.
#[derive(Debug)]
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Option<Cache>,
    options: Vec<String>,
}

/// A file to be compiled for an architecture, 80 for `sm_80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The file.
    pub source: Source,
    /// The architecture.
    pub arch: u32,
}

/// What became of a [`Job`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Machine code and log.
    pub compiled: Compiled,
    /// It was there already.
    pub cached: bool,
    /// Why it could not be kept.
    pub not_kept: Option<String>,
}

/// What a file asks for by lines that begin `// nvrtc: `.
fn own_options(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("// nvrtc: "))
}

impl Compiler {
    /// The first on this machine that serves the target: on the loader's path, in a toolkit, in a Python environment.
    /// Gives the architecture to compile for, too.
    ///
    /// # Errors
    /// If there is none, or none that serves.
    pub fn find(places: &Places, target: Target) -> Result<(Self, u32), GpuError> {
        let package = target.package();
        let mut reasons = Vec::new();
        for path in places.libraries() {
            match Nvrtc::open(&path).map(|nvrtc| Self::with(nvrtc, places)) {
                Ok(compiler) => match compiler.serves(target) {
                    Ok(arch) => return Ok((compiler, arch)),
                    Err(reason) => reasons.push(format!("{} {reason}", compiler.describe())),
                },
                // A name that the loader doesn't know.
                Err(_) if path.parent() == Some(Path::new("")) => {}
                Err(reason) => reasons.push(format!("NVRTC can't be opened: {reason}")),
            }
        }
        if reasons.is_empty() {
            return Err(GpuError::NoCompiler { package });
        }
        Err(GpuError::UnfitCompiler { reasons, package })
    }

    /// The one in a folder.
    ///
    /// # Errors
    /// In words.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let path = find::libraries_in(folder).into_iter().next();
        let path = path.ok_or_else(|| format!("{}: no libnvrtc.so.* there", folder.display()))?;
        Ok(Self::with(Nvrtc::open(&path)?, &Places::default()))
    }

    fn with(nvrtc: Nvrtc, places: &Places) -> Self {
        let cache = places.cache.as_ref().map(|folder| Cache::new(folder.join("nnu/kernels")));
        let options = ["--std=c++17", "-default-device", "-lineinfo"].map(String::from).to_vec();
        Self { nvrtc, cache, options }
    }

    /// Keeps what it compiles there.
    #[must_use]
    pub fn keeping_in(mut self, folder: PathBuf) -> Self {
        self.cache = Some(Cache::new(folder));
        self
    }

    /// Asks for the registers, shared memory and spills of every kernel in [`Compiled::log`].
    #[must_use]
    pub fn with_resources(mut self) -> Self {
        self.options.push("--ptxas-options=-v".into());
        self
    }

    /// Such as `NVRTC 13.0 (/usr/local/cuda/lib64/libnvrtc.so.13)`.
    pub fn describe(&self) -> String {
        let ((major, minor), path) = (self.nvrtc.version(), self.nvrtc.path().display());
        format!("NVRTC {major}.{minor} ({path})")
    }

    /// The folder of its library; none if the loader found it.
    pub fn folder(&self) -> Option<&Path> {
        self.nvrtc.path().parent().filter(|folder| !folder.as_os_str().is_empty())
    }

    /// Where it keeps what it compiled.
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_ref().map(Cache::folder)
    }

    /// The architecture to compile for, or why it can't.
    fn serves(&self, target: Target) -> Result<u32, String> {
        let (version, ((major, minor), (least, sub))) =
            (self.nvrtc.version(), (target.driver, OLDEST_COMPILER));
        if version < OLDEST_COMPILER {
            return Err(format!("is older than {least}.{sub}"));
        }
        if version.0 > major {
            return Err(format!("is newer than the driver, which is for CUDA {major}.{minor}"));
        }
        let (major, minor) = target.capability;
        self.nvrtc
            .arch_for(target.capability)
            .ok_or_else(|| format!("doesn't know compute capability {major}.{minor}"))
    }

    /// Compiles on all cores, in the order of the jobs.
    pub fn compile(&self, jobs: &[Job]) -> Vec<Result<Done, GpuError>> {
        on_all_cores(jobs, |job| self.compile_one(job))
    }

    fn compile_one(&self, job: &Job) -> Result<Done, GpuError> {
        let mut options = self.options.clone();
        options.push(format!("--gpu-architecture=sm_{}", job.arch));
        options.extend(own_options(job.source.text).map(String::from));
        let (arch, version) = (job.arch, self.nvrtc.version());
        let parts =
            Parts { source: &job.source, headers: HEADERS, options: &options, arch, version };
        if let Some(compiled) = self.cache.as_ref().and_then(|cache| cache.load(&parts)) {
            return Ok(Done { compiled, cached: true, not_kept: None });
        }
        let compiled = self.nvrtc.compile(&job.source, HEADERS, arch, &options)?;
        let kept = self.cache.as_ref().map_or(Ok(()), |cache| cache.store(&parts, &compiled));
        let not_kept = kept.err().map(|error| error.to_string());
        Ok(Done { compiled, cached: false, not_kept })
    }
}

/// What `work` makes of the items, in their order.
pub fn on_all_cores<T: Sync, R: Send + Sync>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    // The compiler recurses deeper than a thread's usual stack is made for.
    const STACK: usize = 16 << 20;
    let next = AtomicUsize::new(0);
    let done: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    let take = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            done[index].get_or_init(|| work(item));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads = (0..cores.min(items.len())).map_while(|_| {
            std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, take).ok()
        });
        // Where the system has no thread left, this one does without its deeper stack.
        if threads.count() == 0 {
            take();
        }
    });
    done.into_iter().map(|result| result.into_inner().expect("every item was taken")).collect()
}
