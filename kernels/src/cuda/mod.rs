//! A card through NVIDIA's driver: `libcuda` is looked up when it is asked for, so that the same program runs where
//! there is none; the kernels are compiled for the card that is there, all files at once on all cores, and cached.

mod call;
mod card;
mod driver;
mod modules;
mod slots;

pub use card::cards;

use crate::compile::{Compiler, Job, Places};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::sources::{SOURCES, Source};
use std::path::PathBuf;
use std::sync::Arc;

/// How the kernels came onto the card, for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Such as `NVRTC 13.0 (/usr/local/cuda/lib64/libnvrtc.so.13)`.
    pub compiler: String,
    /// The architecture compiled for, 80 for `sm_80`.
    pub arch: u32,
    /// Files that were compiled.
    pub compiled: usize,
    /// Files that were found compiled.
    pub cached: usize,
    /// Where compiled files are kept.
    pub cache: Option<PathBuf>,
    /// Why files could not be kept.
    pub not_kept: Option<String>,
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { compiler, arch, compiled, cached, .. } = self;
        write!(
            f,
            "kernels for sm_{arch}: {compiled} files compiled by {compiler}, {cached} cached"
        )?;
        match (&self.not_kept, &self.cache) {
            (Some(reason), Some(folder)) => {
                write!(f, "; not kept in {}: {reason}", folder.display())
            }
            (_, Some(folder)) => write!(f, " in {}", folder.display()),
            (_, None) => {
                write!(f, "; no folder to keep them in: neither XDG_CACHE_HOME nor HOME is set")
            }
        }
    }
}

impl Gpu {
    /// A card by its number, `N` of `--device cuda:N`, with all kernels loaded.
    ///
    /// # Errors
    /// A line with the way out for whatever is missing on this machine: driver, card, compiler.
    pub fn cuda(index: usize) -> Result<Self, GpuError> {
        open(index, SOURCES, &Places::of_process()).map(|(gpu, _)| gpu)
    }
}

/// As [`Gpu::cuda`], with other kernels and places.
///
/// # Errors
/// As there.
pub fn open(index: usize, sources: &[Source], places: &Places) -> Result<(Gpu, Start), GpuError> {
    let found = card::find(index)?;
    let (compiler, arch) = Compiler::find(places, found.target)?;
    let jobs: Vec<Job> = sources.iter().map(|&source| Job { source, arch }).collect();
    let done = compiler.compile(&jobs).into_iter().collect::<Result<Vec<_>, _>>()?;
    let cached = done.iter().filter(|done| done.cached).count();
    let start = Start {
        compiler: compiler.describe(),
        arch,
        compiled: done.len() - cached,
        cached,
        cache: compiler.cache().map(std::path::Path::to_owned),
        not_kept: done.iter().find_map(|done| done.not_kept.clone()),
    };
    let files = sources.iter().zip(&done);
    let files = files.map(|(source, done)| (source.file, done.compiled.cubin.as_slice()));
    Ok((Gpu::new(Arc::new(driver::CudaDriver::new(found, files)?)), start))
}
