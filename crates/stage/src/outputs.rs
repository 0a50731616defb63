//! What a call may replace: a program makes its own outputs again, and leaves those of others alone.

use crate::{Error, Result};
use artifact::inspect::AnyRecord;
use artifact::{Kind, Provenance};
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

    /// Asks before a file that is no record is written: it must not be part of something else.
    ///
    /// # Errors
    /// If a record beside it names it.
    pub fn may_write(&self, path: &Path) -> Result<()> {
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
        match records.iter().find(|entry| names(entry)) {
            None => Ok(()),
            Some(record) => {
                let what = format!("belongs to {}", record.path().display());
                Err(self.refusal(path, &what))
            }
        }
    }
}
