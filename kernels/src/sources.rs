//! The kernels' text, part of the program.

/// A file of kernels, or a header of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Name of the file, without folder.
    pub file: &'static str,
    /// What it says.
    pub text: &'static str,
}

macro_rules! sources {
    ($($file:literal),* $(,)?) => {
        &[$(Source { file: $file, text: include_str!(concat!("../", $file)) }),*]
    };
}

/// Every `.cu` file of this folder. One file is one module of the card, compiled and cached on its own.
pub const SOURCES: &[Source] = sources![
    "augment_previous.cu",
    "augment_space.cu",
    "augment_voxels.cu",
    "convolve.cu",
    "convolve_gradient.cu",
    "loss.cu",
    "norm.cu",
    "optimiser.cu",
    "pack.cu",
    "pool.cu",
    "ranges.cu",
    "tensor.cu",
    "window.cu"
];

/// What they may include.
pub const HEADERS: &[Source] = sources!["device.cuh"];

#[cfg(test)]
mod tests {
    use super::*;

    fn files(ending: &str) -> Vec<String> {
        let folder = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        names
    }

    #[test]
    fn every_file_is_listed_once_in_order() {
        for (ending, sources) in [(".cu", SOURCES), (".cuh", HEADERS)] {
            let listed: Vec<&str> = sources.iter().map(|source| source.file).collect();
            assert_eq!(listed, files(ending));
        }
    }
}
