//! Compiled files on disk, so that a program's second start doesn't compile.

use super::nvrtc::Compiled;
use crate::sources::Source;
use rustix::fs::OFlags;
use std::fs::{DirBuilder, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
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

/// Permission to write, of the group and of others.
const OTHERS_WRITE: u32 = 0o022;

/// A folder with a file per compiled file: hash of the rest, length of the log, log, cubin. It may be deleted at any
/// time, and any number of programs may use it at once: files appear complete, by renaming.
///
/// What lies there is code that runs: it is used only where nobody else could have put it.
#[derive(Debug, Clone)]
pub(super) struct Cache(PathBuf);

impl Cache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// None if it isn't there, is broken, or may be someone else's.
    pub(super) fn load(&self, parts: &Parts<'_>) -> Option<Compiled> {
        check_folder(&self.0).ok()?;
        let content = read_own(&self.0.join(parts.name())).ok()?;
        let (hash, rest) = content.split_first_chunk::<32>()?;
        if blake3::hash(rest) != *hash {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (log, cubin) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        Some(Compiled { cubin: cubin.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
    }

    /// An error too where others may write.
    pub(super) fn store(&self, parts: &Parts<'_>, compiled: &Compiled) -> io::Result<()> {
        let mut rest = (compiled.log.len() as u64).to_le_bytes().to_vec();
        rest.extend_from_slice(compiled.log.as_bytes());
        rest.extend_from_slice(&compiled.cubin);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        check_folder(&self.0)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(blake3::hash(&rest).as_bytes())?;
        file.write_all(&rest)?;
        file.persist(self.0.join(parts.name()))?;
        Ok(())
    }
}

/// The folder is this user's, nobody else may write there, and not everybody may put another one in its place.
fn check_folder(folder: &Path) -> io::Result<()> {
    let real = folder.canonicalize()?;
    check_owner(&real.metadata()?)?;
    for parent in real.ancestors().skip(1) {
        const STICKY: u32 = 0o1000;
        let mode = parent.metadata()?.mode();
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(io::Error::other(format!(
                "everybody may write to {} (mode {:o}); chmod o-w makes it safe",
                parent.display(),
                mode & 0o7777
            )));
        }
    }
    Ok(())
}

fn check_owner(about: &Metadata) -> io::Result<()> {
    let (owner, user) = (about.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(io::Error::other(format!(
            "it belongs to user {owner}, expected {user}, who runs this"
        )));
    }
    if about.mode() & OTHERS_WRITE != 0 {
        let mode = about.mode() & 0o7777;
        return Err(io::Error::other(format!(
            "others may write there (mode {mode:o}); chmod go-w makes it safe"
        )));
    }
    Ok(())
}

/// A plain file of this user's, no link.
fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = flags.bits().try_into().map_err(io::Error::other)?;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    check_owner(&about)?;
    if !about.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

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

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn parts() -> Parts<'static> {
        Parts { source: &SOURCE, headers: &[HEADER], options: &[], arch: 90, version: (13, 0) }
    }

    #[test]
    fn code_is_neither_loaded_from_nor_kept_in_a_folder_of_others() {
        let root = tempfile::tempdir().unwrap();
        let (home, folder) = (root.path().join("home"), root.path().join("home/nnu/kernels"));
        let cache = Cache::new(folder.clone());
        cache.store(&parts(), &compiled()).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode(&home), mode(&folder)), (0o700, 0o700), "made for this user only");
        let refused = |said: &str| {
            assert_eq!(cache.load(&parts()), None, "{said}");
            let error = cache.store(&parts(), &compiled()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        };
        for open in [0o777, 0o775, 0o1777] {
            chmod(&folder, open);
            refused(&format!("others may write there (mode {open:o}); chmod go-w"));
        }
        for safe in [0o755, 0o700] {
            chmod(&folder, safe);
            assert_eq!(cache.load(&parts()), Some(compiled()));
        }
        // A folder that everybody may move away, on the way there; not where only owners may (/tmp).
        chmod(&home, 0o777);
        refused("everybody may write to");
        chmod(&home, 0o1777);
        assert_eq!(cache.load(&parts()), Some(compiled()));
        // By a link the real folder counts.
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        let linked = Cache::new(link);
        assert_eq!(linked.load(&parts()), Some(compiled()));
        chmod(&folder, 0o777);
        assert_eq!(linked.load(&parts()), None);
    }

    #[test]
    fn a_file_of_others_or_a_link_is_compiled_anew() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("kernels"));
        cache.store(&parts(), &compiled()).unwrap();
        let path = cache.folder().join(parts().name());
        chmod(&path, 0o666);
        assert_eq!(cache.load(&parts()), None);
        cache.store(&parts(), &compiled()).unwrap();
        assert_eq!(cache.load(&parts()), Some(compiled()), "replaced by this user's own");

        let elsewhere = root.path().join("elsewhere");
        std::fs::copy(&path, &elsewhere).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(cache.load(&parts()), None);
        cache.store(&parts(), &compiled()).unwrap();
        assert!(path.symlink_metadata().unwrap().is_file());

        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert_eq!(cache.load(&parts()), None);
            std::os::unix::fs::chown(cache.folder(), Some(1), None).unwrap();
            let error = cache.store(&parts(), &compiled()).unwrap_err().to_string();
            assert!(error.contains("it belongs to user 1, expected 0"), "{error}");
        }
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
