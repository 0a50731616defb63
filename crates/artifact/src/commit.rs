//! Outputs appear complete or not at all: siblings first, the record last, each by write → fsync → rename.

use crate::record::{Header, Kind, Provenance, render};
use crate::{Error, Result, hash_bytes, npy};
use ndarray::{ArrayView, Dimension};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An output in the making. Dropping it without [`Commit::finish`] leaves what was there before.
#[derive(Debug)]
pub struct Commit {
    record: PathBuf,
    /// Temporary path and final name of each sibling.
    pending: Vec<(PathBuf, String)>,
    hashes: BTreeMap<String, String>,
}

impl Commit {
    /// Starts the output whose record is `record`; missing folders are made.
    ///
    /// # Errors
    /// If the folder can't be made or written to: asked now, not after hours of computing.
    pub fn begin(record: &Path) -> Result<Self> {
        let folder = folder(record);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "make this folder", &e))?;
        let commit = Self { record: record.into(), pending: Vec::new(), hashes: BTreeMap::new() };
        let probe = temporary(record);
        drop(create(&probe)?);
        fs::remove_file(&probe).map_err(|e| Error::io(&probe, "remove", &e))?;
        Ok(commit)
    }

    /// Adds a sibling of these bytes.
    ///
    /// # Errors
    /// If it can't be written (disk full, …).
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.record.with_file_name(name);
        let temp = temporary(&path);
        self.pending.push((temp.clone(), name.into()));
        write_synced(&temp, bytes)?;
        self.hashes.insert(name.into(), hash_bytes(bytes));
        Ok(())
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
        let path = self.record.with_file_name(name);
        let temp = temporary(&path);
        self.pending.push((temp.clone(), name.into()));
        let mut file = Hashed { file: create(&temp)?, hasher: blake3::Hasher::new() };
        let fail = |e| Error::io(&temp, "write", &e);
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
        let name = self.record.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.pending.push((temporary(&self.record), name));
        write_synced(&self.pending[last].0, render::<T>(&header, provenance, text).as_bytes())?;
        // An old record must not vouch for new siblings: remove it first, unless no sibling is replaced.
        let mut siblings = self.pending[..last].iter();
        if siblings.any(|(_, name)| self.record.with_file_name(name).exists())
            && self.record.exists()
        {
            fs::remove_file(&self.record).map_err(|e| Error::io(&self.record, "replace", &e))?;
            sync_folder(&self.record)?;
        }
        for (i, (temp, name)) in self.pending.iter().enumerate() {
            if i == last {
                sync_folder(&self.record)?;
            }
            rename(temp, &self.record.with_file_name(name))?;
        }
        sync_folder(&self.record)
    }

    /// Writes one file that is no record (a table or picture for people) by the same write → fsync → rename; a file that
    /// holds these bytes already is left alone.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
        let same_length = fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64);
        if same_length && fs::read(path).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        let folder = folder(path);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "make this folder", &e))?;
        let temp = temporary(path);
        write_synced(&temp, bytes).inspect_err(|_| {
            let _ = fs::remove_file(&temp);
        })?;
        rename(&temp, path)?;
        sync_folder(path)
    }
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
            let _ = fs::remove_file(temp);
        }
    }
}

/// One fixed name per output, so that what a killed process left is overwritten by the next.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.into(),
        _ => PathBuf::from("."),
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that creates outputs")]
fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| Error::io(path, "write", &e))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    let fail = |e| Error::io(path, "write", &e);
    file.write_all(bytes).map_err(fail)?;
    file.sync_all().map_err(fail)
}

#[expect(clippy::disallowed_methods, reason = "the one place that moves outputs into place")]
fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io(to, "move the finished file here", &e))
}

fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder(path);
    let open = File::open(&folder).and_then(|f| f.sync_all());
    open.map_err(|e| Error::io(&folder, "sync", &e))
}
