//! Outputs appear complete or not at all: siblings first, the record last, each by write → fsync → rename, under the
//! output's lock.
//!
//! Temporaries are new files under names that can't be guessed. A link under an output's own name is replaced, never
//! written through; links to folders are followed.

use crate::lock::{IfHeld, Lock, folder};
use crate::record::{Header, Kind, Provenance, load_header, render};
use crate::{Error, Result, hash_bytes, npy};
use ndarray::{ArrayView, Dimension};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An output in the making. Dropping it without [`Commit::finish`] leaves what was there before.
#[derive(Debug)]
pub struct Commit {
    record: PathBuf,
    /// Temporary and final path of each sibling.
    pending: Vec<(PathBuf, PathBuf)>,
    hashes: BTreeMap<String, String>,
    /// Names of files that go when this output comes.
    gone: Vec<String>,
    /// Of this record, or of the one whose folder is locked as a whole.
    lock: Arc<Lock>,
}

/// Holds an output's lock.
#[derive(Debug)]
pub struct Locked {
    _lock: Arc<Lock>,
}

impl Commit {
    /// Starts the output whose record is `record`, after waiting for any other program that makes it; missing folders
    /// are made. Ask again whether the output is up to date: that other program may have made it.
    ///
    /// # Errors
    /// If the folder can't be made or written to: asked now, not after hours of computing. If a signal ended the wait.
    pub fn begin(record: &Path) -> Result<Self> {
        Self::locked(record, IfHeld::Wait)
    }

    /// As [`Self::begin`], for outputs that others may work on for days.
    ///
    /// # Errors
    /// As [`Self::begin`]; [`crate::Fault::Busy`] if another program is at work on this output.
    pub fn begin_unless_held(record: &Path) -> Result<Self> {
        Self::locked(record, IfHeld::Fail)
    }

    fn locked(record: &Path, if_held: IfHeld) -> Result<Self> {
        make_folder(&folder(record))?;
        Ok(Self::under(record, Arc::new(Lock::take(record, if_held)?)))
    }

    fn under(record: &Path, lock: Arc<Lock>) -> Self {
        let (pending, hashes, gone) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { record: record.into(), pending, hashes, gone, lock }
    }

    /// Whether another program had this output before, and may have made it.
    pub fn waited(&self) -> bool {
        self.lock.waited()
    }

    /// Keeps the output locked beyond [`Self::finish`], until the guard is dropped.
    #[must_use]
    pub fn lock(&self) -> Locked {
        Locked { _lock: Arc::clone(&self.lock) }
    }

    /// Starts another record in the same folder, covered by this output's lock.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self::under(&self.record.with_file_name(name), Arc::clone(&self.lock))
    }

    /// Adds a sibling of these bytes.
    ///
    /// # Errors
    /// If it can't be written (disk full, …).
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(self.record.with_file_name(name), bytes)?;
        self.hashes.insert(name.into(), hash_bytes(bytes));
        Ok(())
    }

    /// Removes a file that an earlier call left beside the record, when this output takes its place.
    pub fn without(&mut self, name: &str) {
        self.gone.push(name.into());
    }

    /// Writes these bytes to a temporary that becomes the file `path`.
    fn write(&mut self, path: PathBuf, bytes: &[u8]) -> Result<()> {
        let (temp, mut file) = self.lock.temporary()?;
        self.pending.push((temp, path.clone()));
        let fail = |e| Error::write(&path, "write", &e);
        file.write_all(bytes).map_err(fail)?;
        file.sync_all().map_err(fail)
    }

    /// Adds an array as `.npy` (version 1, C order, little endian).
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn npy<T: npy::Element, D: Dimension>(
        &mut self,
        name: &str,
        array: &ArrayView<'_, T, D>,
    ) -> Result<()> {
        self.stream(name, |file| npy::write(array, file))
    }

    /// Adds a sibling that `write` makes piece by piece, for files too large to hold in memory.
    ///
    /// # Errors
    /// As [`Self::bytes`]; also what `write` returns.
    pub fn stream(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let (temp, file) = self.lock.temporary()?;
        let path = self.record.with_file_name(name);
        self.pending.push((temp, path.clone()));
        let mut file = Hashed { file, hasher: blake3::Hasher::new() };
        let fail = |e| Error::write(&path, "write", &e);
        write(&mut file).map_err(fail)?;
        file.file.sync_all().map_err(fail)?;
        self.hashes.insert(name.into(), format!("b3:{}", file.hasher.finalize().to_hex()));
        Ok(())
    }

    /// Moves the siblings into place, then writes the record; `body` is checked first.
    ///
    /// # Errors
    /// If something can't be written; then neither record nor a mixture of old and new siblings is left as valid.
    pub fn finish<T: Kind>(self, provenance: &Provenance, body: &T) -> Result<()> {
        let text = toml::to_string(body)
            .map_err(|e| Error::input(&self.record, format!("cannot be written as TOML: {e}")))?;
        self.finish_with_text(provenance, body, &text)
    }

    /// As [`Self::finish`], with the body's TOML given (comments survive); it must parse to `body`.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_with_text<T: Kind>(
        mut self,
        provenance: &Provenance,
        body: &T,
        text: &str,
    ) -> Result<()> {
        body.check().map_err(|e| Error::input(&self.record, e))?;
        let header = Header {
            kind: T::KIND.into(),
            version: T::VERSION,
            key: provenance.key::<T>(),
            files: std::mem::take(&mut self.hashes),
        };
        // From here on the record is the last of the pending files, which dropping `self` removes after a failure.
        let last = self.pending.len();
        let text = render::<T>(&header, provenance, text);
        self.write(self.record.clone(), text.as_bytes())?;
        check_replaceable::<T>(&self.record)?;
        if self.outdates_record(&header.files) {
            fs::remove_file(&self.record).map_err(|e| Error::write(&self.record, "replace", &e))?;
            sync_folder(&self.record)?;
        }
        for name in &self.gone {
            remove(&self.record.with_file_name(name))?;
        }
        for (i, (temp, path)) in self.pending.iter().enumerate() {
            if i == last {
                sync_folder(&self.record)?;
            }
            rename(temp, path)?;
        }
        self.pending.clear();
        sync_folder(&self.record)
    }

    /// Whether the record that is there must go before the files beside it change: it vouches for one of them with other
    /// bytes. It stays if what changes is none of its own, so that it can be replaced in a single step.
    fn outdates_record(&self, new: &BTreeMap<String, String>) -> bool {
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        if !exists(&self.record) {
            return false;
        }
        let there = |name: &&String| exists(&self.record.with_file_name(name));
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        let vouched =
            load_header(&self.record, &text).map(|(old, _)| old.files).unwrap_or_default();
        let outdated = |name: &&String| match vouched.get(*name) {
            Some(hash) => new.get(*name) != Some(hash),
            // A record without any such list vouches for all that lies beside it.
            None => vouched.is_empty(),
        };
        new.keys().chain(&self.gone).filter(there).any(|name| outdated(&name))
    }

    /// Writes a file beside the record at once: one for people, which no record vouches for.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn file_beside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        place(&self.lock, &self.record.with_file_name(name), bytes)
    }

    /// Writes one file that is no record (a table or picture for people) by the same write → fsync → rename; a file that
    /// holds these bytes already is left alone.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
        if holds(path, bytes) {
            Lock::sweep_finished(path);
            return Ok(());
        }
        make_folder(&folder(path))?;
        place(&Lock::take(path, IfHeld::Wait)?, path, bytes)
    }
}

/// Whether a regular file, no link, holds these bytes.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let alike = |m: fs::Metadata| m.is_file() && m.len() == bytes.len() as u64;
    fs::symlink_metadata(path).is_ok_and(alike) && fs::read(path).is_ok_and(|found| found == bytes)
}

fn place(lock: &Lock, path: &Path, bytes: &[u8]) -> Result<()> {
    let (temp, mut file) = lock.temporary()?;
    let fail = |e| Error::write(path, "write", &e);
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail);
    written.and_then(|()| rename(&temp, path)).inspect_err(|_| lock.discard(&temp))?;
    sync_folder(path)
}

/// Whether a record of kind `T` may be written here: where nothing is, an empty file, or a record of this kind, be it of
/// another version or broken.
///
/// # Errors
/// If something else is there.
pub fn check_replaceable<T: Kind>(path: &Path) -> Result<()> {
    let fail = |e| Error::write(path, "replace", &e);
    match fs::metadata(path) {
        Ok(there) if there.is_file() => {}
        Ok(_) => {
            return Err(Error::input(path, format!("is no file, expected a {}", T::KIND)));
        }
        // Whether the folder can be made is asked when it is.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(e) => return Err(fail(e)),
    }
    // The header stands at the top; what else is there may be of any size.
    let mut there = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut there));
    read.map_err(fail)?;
    let text = String::from_utf8_lossy(&there);
    let kind = match load_header(path, &text) {
        Ok((header, _)) => header.kind,
        Err(_) => text
            .lines()
            .find_map(|line| line.trim().strip_prefix("kind = \"")?.strip_suffix('"'))
            .unwrap_or_default()
            .into(),
    };
    if there.is_empty() || kind == T::KIND {
        return Ok(());
    }
    let found = if kind.is_empty() { "no record".into() } else { format!("a {kind} record") };
    Err(Error::input(path, format!("is {found}, which a {} would replace", T::KIND))
        .hint("give another output, or move this file away"))
}

/// A file that is hashed while it is written.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        for (temp, _) in &self.pending {
            self.lock.discard(temp);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that moves outputs into place")]
fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::write(to, "move the finished file here", &e))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::write(path, "remove what is out of date", &e))
        }
        _ => Ok(()),
    }
}

/// Makes a folder and those above it; each new name is as durable as what will lie below.
fn make_folder(path: &Path) -> Result<()> {
    make_folders(path).map_err(|e| Error::write(path, "make this folder", &e))
}

fn make_folders(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = folder(path);
    make_folders(&above)?;
    match fs::create_dir(path) {
        // Another program was faster.
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let file = format!("{} is a file", path.display());
            return Err(std::io::Error::new(ErrorKind::NotADirectory, file));
        }
        made => made?,
    }
    File::open(above)?.sync_all()
}

/// Makes the names in a file's folder durable.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder(path);
    let open = File::open(&folder).and_then(|f| f.sync_all());
    open.map_err(|e| Error::write(&folder, "sync", &e))
}
