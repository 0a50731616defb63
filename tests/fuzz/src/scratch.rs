//! Files of parsers that read by name: in memory where the system has such a folder, one place per process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An empty folder of this process, kept for its lifetime.
pub(crate) fn folder(name: &str) -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        root.join(format!("nnu-fuzz-{}", std::process::id()))
    });
    let folder = root.join(name);
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder
}

/// Puts an input where its parser looks.
#[expect(clippy::disallowed_methods, reason = "a file that nobody else reads")]
pub(crate) fn put(path: &Path, data: &[u8]) {
    std::fs::write(path, data).expect("a scratch file");
}
