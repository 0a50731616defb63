//! Compiled files on disk, so that a program's second start doesn't compile.

use super::nvrtc::Compiled;
use crate::sources::Source;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a compiled file depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) source: &'a Source,
    pub(super) headers: &'a [Source],
    pub(super) options: &'a [String],
    pub(super) arch: u32,
    pub(super) version: (u32, u32),
}

impl Parts<'_> {
    /// Such as `gather-sm_90-0123…cdef`.
    fn name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(&format!("NVRTC {}.{}", self.version.0, self.version.1));
        for source in std::iter::once(self.source).chain(self.headers) {
            add(source.file);
            add(source.text);
        }
        for option in self.options {
            add(option);
        }
        let stem = self.source.file.trim_end_matches(".cu");
        format!("{stem}-sm_{}-{}", self.arch, &hasher.finalize().to_hex()[..32])
    }
}

/// A folder with a file per compiled file: hash of the rest, length of the log, log, cubin. It may be deleted at any
/// time, and any number of programs may use it at once: files appear complete, by renaming.
#[derive(Debug, Clone)]
pub(super) struct Cache(PathBuf);

impl Cache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// None if it isn't there, or is broken.
    pub(super) fn load(&self, parts: &Parts<'_>) -> Option<Compiled> {
        let content = std::fs::read(self.0.join(parts.name())).ok()?;
        let (hash, rest) = content.split_first_chunk::<32>()?;
        if blake3::hash(rest) != *hash {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (log, cubin) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        Some(Compiled { cubin: cubin.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
    }

    pub(super) fn store(&self, parts: &Parts<'_>, compiled: &Compiled) -> std::io::Result<()> {
        let mut rest = (compiled.log.len() as u64).to_le_bytes().to_vec();
        rest.extend_from_slice(compiled.log.as_bytes());
        rest.extend_from_slice(&compiled.cubin);
        std::fs::create_dir_all(&self.0)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(blake3::hash(&rest).as_bytes())?;
        file.write_all(&rest)?;
        file.persist(self.0.join(parts.name()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source { file: "mix.cu", text: "KERNEL(mix, 32, A) {}" };
    const HEADER: Source = Source { file: "device.cuh", text: "#pragma once" };

    fn compiled() -> Compiled {
        Compiled { cubin: vec![0x7f, 0, 255], log: "größer".into() }
    }

    #[test]
    fn what_was_stored_is_loaded_until_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("a/b"));
        let options = ["-lineinfo".to_owned()];
        let parts = Parts {
            source: &SOURCE,
            headers: &[HEADER],
            options: &options,
            arch: 90,
            version: (13, 0),
        };
        assert_eq!(cache.load(&parts), None);
        cache.store(&parts, &compiled()).unwrap();
        assert_eq!(cache.load(&parts), Some(compiled()));
        // The only file: nothing temporary stays.
        let files: Vec<_> = std::fs::read_dir(cache.folder()).unwrap().collect();
        let path = files.into_iter().next().unwrap().unwrap().path();
        assert_eq!(std::fs::read_dir(cache.folder()).unwrap().count(), 1);

        let whole = std::fs::read(&path).unwrap();
        for broken in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[broken] ^= 1;
            #[expect(clippy::disallowed_methods, reason = "damages the cache")]
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(cache.load(&parts), None, "byte {broken} is changed");
            #[expect(clippy::disallowed_methods, reason = "damages the cache")]
            std::fs::write(&path, &whole[..broken]).unwrap();
            assert_eq!(cache.load(&parts), None, "only {broken} bytes");
        }
        cache.store(&parts, &compiled()).unwrap();
        assert_eq!(cache.load(&parts), Some(compiled()));
    }

    #[test]
    fn whatever_changes_the_code_changes_the_name() {
        let options = ["-lineinfo".to_owned(), "-a".to_owned()];
        let joined = ["-lineinfo-a".to_owned()];
        let other_header = Source { text: "", ..HEADER };
        let parts = Parts {
            source: &SOURCE,
            headers: &[HEADER],
            options: &options,
            arch: 90,
            version: (13, 0),
        };
        let names = [
            parts.name(),
            Parts { arch: 89, ..parts }.name(),
            Parts { version: (13, 1), ..parts }.name(),
            Parts { options: &joined, ..parts }.name(),
            Parts { options: &options[..1], ..parts }.name(),
            Parts { headers: &[other_header], ..parts }.name(),
            Parts { headers: &[], ..parts }.name(),
            Parts { source: &Source { text: "", ..SOURCE }, ..parts }.name(),
            Parts { source: &Source { file: "m.cu", ..SOURCE }, ..parts }.name(),
        ];
        for (i, name) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|other| other == name), Some(i), "{name}");
        }
        assert!(parts.name().starts_with("mix-sm_90-"), "{}", parts.name());
    }
}
