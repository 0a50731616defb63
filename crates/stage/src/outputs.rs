//! What a call may replace: a program makes its own outputs again, and leaves those of others alone.

use crate::{Error, Result};
use artifact::inspect::AnyRecord;
use artifact::{Kind, Provenance};
use std::io::Read;
use std::path::Path;

/// What stands where a record is to be written.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// What this call would write.
    UpToDate,
    /// What this call would write, but files beside the record are missing or changed.
    Damaged,
    /// This stage's output of another call: other settings, inputs or revision.
    Own,
    /// Something that this stage didn't make: what it is.
    Foreign(String),
}

/// The outputs of a stage.
#[derive(Debug, Clone)]
pub struct Outputs {
    stage: &'static str,
    force: bool,
}

impl Outputs {
    /// Of `nnu-stage`; with `force` everything may be replaced.
    pub fn new(stage: &'static str, force: bool) -> Self {
        Self { stage, force }
    }

    /// What `record` is to a call that would write a `T` with this provenance.
    pub fn standing<T: Kind>(&self, record: &Path, provenance: &Provenance) -> Standing {
        if !record.exists() {
            return Standing::Absent;
        }
        // What is broken, or no record of this kind at all, is `Commit`'s matter.
        let Ok(found) = AnyRecord::load(record) else { return Standing::Own };
        let (header, stage) = (&found.header, found.provenance.stage.as_str());
        if header.kind != T::KIND {
            return Standing::Own;
        }
        // Before there were revisions, a version stood behind the name.
        let stage = stage.split(' ').next().unwrap_or_default();
        if stage.is_empty() {
            return Standing::Foreign(format!("is a {} that no program of nnu made", T::KIND));
        }
        if stage != self.stage {
            return Standing::Foreign(format!("is a {} that nnu-{stage} made", T::KIND));
        }
        let key = provenance.key::<T>();
        if artifact::up_to_date::<T>(record, &key) {
            Standing::UpToDate
        } else if header.key == key {
            Standing::Damaged
        } else {
            Standing::Own
        }
    }

    /// Whether `record` is already what this call would write. Never with `--force`.
    ///
    /// # Errors
    /// If there is something that this stage didn't make.
    pub fn up_to_date<T: Kind>(&self, record: &Path, provenance: &Provenance) -> Result<bool> {
        if self.force {
            return Ok(false);
        }
        match self.standing::<T>(record, provenance) {
            Standing::Foreign(what) => Err(self.refusal(record, &what)),
            standing => Ok(matches!(standing, Standing::UpToDate)),
        }
    }

    /// That something is there which isn't replaced without being asked to.
    pub fn refusal(&self, path: &Path, what: &str) -> Error {
        let expected = format!("expected nothing or what nnu-{} made", self.stage);
        Error::input(format!("{}: {what}, {expected}", path.display()))
            .hint("give another --out, or remove this first; --force replaces it")
    }

    /// Asks before a file that is no record is written: what is there must be of the same form, and no part of something
    /// else.
    ///
    /// # Errors
    /// If it is a record, is of another form, or a record beside it names it.
    pub fn may_write(&self, path: &Path, form: Form) -> Result<()> {
        self.may_write_beside(path, None, form)
    }

    /// As [`Self::may_write`], for a file that goes with `record`, which may name it.
    ///
    /// # Errors
    /// As [`Self::may_write`].
    pub fn may_write_beside(&self, path: &Path, record: Option<&Path>, form: Form) -> Result<()> {
        let (Some(name), false) = (path.file_name(), self.force || !path.exists()) else {
            return Ok(());
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut records: Vec<_> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
        records.retain(|entry| entry.path().extension().is_some_and(|e| e == "toml"));
        let names = |entry: &std::fs::DirEntry| {
            let record = AnyRecord::load(&entry.path());
            record.is_ok_and(|r| r.header.files.keys().any(|file| name == file.as_str()))
        };
        let own = record.and_then(Path::file_name);
        let (of_it, of_others): (Vec<_>, Vec<_>) = records
            .iter()
            .filter(|entry| names(entry))
            .partition(|entry| own == Some(&*entry.file_name()));
        if let Some(record) = of_others.first() {
            let what = format!("belongs to {}", record.path().display());
            return Err(self.refusal(path, &what));
        }
        if !of_it.is_empty() {
            return Ok(());
        }
        if let Ok(record) = AnyRecord::load(path) {
            return Err(self.refusal(path, &format!("is a {} record", record.header.kind)));
        }
        match form.is_of(path) {
            true => Ok(()),
            false => Err(self.refusal(path, &format!("is no {}", form.name))),
        }
    }
}

/// How files that are no records are told by what they hold, so that none replaces something else.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    name: &'static str,
    is: fn(&[u8]) -> bool,
}

impl Form {
    /// Arrays by name, `.npz`.
    pub const NPZ: Self = Self::new("file of weights (.npz)", |bytes| {
        first_entry(bytes).is_some_and(|name| name.ends_with(b".npy"))
    });
    /// What `torch.save` writes.
    pub const PTH: Self = Self::new("checkpoint of nnU-Net (.pth)", |bytes| {
        first_entry(bytes).is_some_and(|name| name.ends_with(b"/data.pkl"))
    });
    /// One array, `.npy`.
    pub const NPY: Self = Self::new("array (.npy)", |bytes| bytes.starts_with(b"\x93NUMPY"));
    /// A picture.
    pub const PNG: Self = Self::new("PNG picture", |bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n"));

    /// Files, called `name`, whose first [`Self::LOOK`] bytes fulfil `is`.
    pub const fn new(name: &'static str, is: fn(&[u8]) -> bool) -> Self {
        Self { name, is }
    }

    /// More than the files hold that are told by their whole content.
    pub const LOOK: u64 = 16 << 20;

    /// Of a file without content nothing is lost; pipes and devices lose nothing either.
    fn is_of(self, path: &Path) -> bool {
        if !path.is_file() {
            return true;
        }
        let mut bytes = Vec::new();
        let Ok(file) = artifact::file::open(path, "read") else { return false };
        let read = file.take(Self::LOOK).read_to_end(&mut bytes);
        read.is_ok() && (bytes.is_empty() || (self.is)(&bytes))
    }
}

/// The name of a zip archive's first entry: behind 30 bytes of its header, its length at byte 26.
fn first_entry(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes.strip_prefix(b"PK\x03\x04")?.get(22..24)?;
    bytes.get(30..)?.get(..usize::from(u16::from_le_bytes([length[0], length[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zip(name: &[u8]) -> Vec<u8> {
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.resize(30, 0);
        bytes[26] = name.len() as u8;
        bytes.extend(name);
        bytes
    }

    #[test]
    fn files_replace_those_of_their_own_form_only() {
        let folder = tempfile::tempdir().unwrap();
        let contents: [(&str, Vec<u8>); 8] = [
            ("npz", zip(b"encoder.weight.npy")),
            ("pth", zip(b"checkpoint/data.pkl")),
            ("npy", b"\x93NUMPY\x01\0".to_vec()),
            ("png", b"\x89PNG\r\n\x1a\n\0".to_vec()),
            ("docx", zip(b"[Content_Types].xml")),
            ("cut", b"PK\x03\x04".to_vec()),
            ("json", b"{\"labels\": {}}".to_vec()),
            ("record.toml", b"[artifact]\nkind = \"plan\"\nversion = 3\n".to_vec()),
        ];
        for (name, bytes) in &contents {
            artifact::Commit::file(&folder.path().join(name), bytes).unwrap();
        }
        artifact::Commit::file(&folder.path().join("empty"), b"").unwrap();
        let forms =
            [("npz", Form::NPZ), ("pth", Form::PTH), ("npy", Form::NPY), ("png", Form::PNG)];
        for (own, form) in forms {
            for (name, _) in &contents {
                let path = folder.path().join(name);
                let asked = Outputs::new("net", false).may_write(&path, form);
                assert_eq!(asked.is_ok(), *name == own, "{name} by {own}: {asked:?}");
                assert!(asked.is_ok() || asked.is_err_and(|e| e.exit == crate::Exit::Input));
                Outputs::new("net", true).may_write(&path, form).unwrap();
            }
            for free in ["empty", "new"] {
                Outputs::new("net", false).may_write(&folder.path().join(free), form).unwrap();
            }
        }
    }
}
