//! Records: the `[artifact]` and `[provenance]` tables, loading with checks, keys.

use crate::lock::Lock;
use crate::{Error, Result, file};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::path::Path;

/// A kind of record. The body's top-level entries are all tables, so that the header can stand above them.
pub trait Kind: Serialize + DeserializeOwned {
    /// Name in `artifact.kind`.
    const KIND: &'static str;
    /// Version in `artifact.version`; exactly this one is read.
    const VERSION: u32;
    /// Everything that serde can't see: ranges, lengths, agreement between fields. One line: field, found, expected.
    fn check(&self) -> std::result::Result<(), String>;
}

/// `[artifact]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// What this is.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Hash of kind, version and provenance; empty in files of foreign stages.
    #[serde(default)]
    pub key: String,
    /// Sibling files and their hashes (`b3:` + BLAKE3 in hex; empty = not given).
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// `[provenance]`: everything that can change the bytes, and nothing else (no clock, host, path, thread count).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Stage, such as `preprocess`.
    pub stage: String,
    /// Device kind where it can change the bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Seed of all random draws, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Revision of the stage's code and of each crate that it computes with: raised whenever bytes may differ.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revisions: BTreeMap<String, u32>,
    /// Options that can change the bytes.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub options: toml::Table,
    /// Input files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The flag that named it, or its role.
    pub name: String,
    /// Hash of its bytes.
    pub hash: String,
}

/// A record as read from disk.
#[derive(Debug, Clone)]
pub struct Record<T> {
    /// `[artifact]`.
    pub header: Header,
    /// `[provenance]`.
    pub provenance: Provenance,
    /// The rest.
    pub body: T,
}

impl Provenance {
    /// Adds an input file by its role and hash.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, hash: impl Into<String>) -> Self {
        self.inputs.push(Input { name: name.into(), hash: hash.into() });
        self
    }

    /// Adds an option that can change the bytes.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Into<toml::Value>) -> Self {
        self.options.insert(name.into(), value.into());
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets the device kind.
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.device = device.into();
        self
    }

    /// The key of an output of kind `T` with this provenance.
    pub fn key<T: Kind>(&self) -> String {
        let text = toml::to_string(self).expect("provenance is plain TOML");
        hash_bytes(format!("{} {}\n{text}", T::KIND, T::VERSION).as_bytes())
    }
}

/// `b3:` and the BLAKE3 hash in hex.
pub fn hash_bytes(bytes: &[u8]) -> String {
    format!("b3:{}", blake3::hash(bytes).to_hex())
}

/// Hash of a file's bytes, as [`hash_bytes`].
///
/// # Errors
/// If the file can't be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let fail = |e| Error::io(path, "read", &e);
    let mut file = file::open(path, "read")?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(fail)?;
    Ok(format!("b3:{}", hasher.finalize().to_hex()))
}

impl<T: Kind> Record<T> {
    /// Reads and checks a record; its siblings must exist. [`Self::verify`] also hashes them.
    ///
    /// # Errors
    /// One line with the field, what was found and what was expected.
    pub fn load(path: &Path) -> Result<Self> {
        let text = file::text(path, &format!("read this {} record", T::KIND))?;
        let (header, provenance) = load_header(path, &text)?;
        if header.kind != T::KIND {
            return Err(Error::input(
                path,
                format!("artifact.kind = \"{}\", expected \"{}\"", header.kind, T::KIND),
            ));
        }
        if header.version != T::VERSION {
            return Err(Error::input(
                path,
                format!("artifact.version = {}, expected {}", header.version, T::VERSION),
            )
            .hint(format!("this {} was written by another version; make it again", T::KIND)));
        }
        let body: T = toml::from_str(&text).map_err(|e| syntax(path, &text, &e))?;
        body.check().map_err(|e| Error::input(path, e))?;
        let record = Self { header, provenance, body };
        for name in record.header.files.keys() {
            let sibling = sibling(path, name)?;
            if !sibling.is_file() {
                return Err(Error::input(
                    &sibling,
                    format!("missing, but {} lists it", path.display()),
                )
                .hint("make this output again"));
            }
        }
        Ok(record)
    }

    /// Hashes every sibling and compares with the record.
    ///
    /// # Errors
    /// Names the first sibling whose bytes changed.
    pub fn verify(&self, path: &Path) -> Result<()> {
        match sibling_faults(path, &self.header).into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// Compares every sibling's hash with the header; all that is wrong.
pub(crate) fn sibling_faults(path: &Path, header: &Header) -> Vec<Error> {
    let faults = header.files.iter().filter_map(|(n, hash)| sibling_fault(path, n, hash).err());
    faults.collect()
}

fn sibling_fault(path: &Path, name: &str, expected: &str) -> Result<()> {
    let file = sibling(path, name)?;
    let found = hash_file(&file)?;
    if expected.is_empty() || found == expected {
        return Ok(());
    }
    Err(Error::input(
        &file,
        format!("hash is {}, but {} says {}", short(&found), path.display(), short(expected)),
    )
    .hint("the file was changed after its record was written; make this output again"))
}

/// `[artifact]` and `[provenance]` of any record.
pub(crate) fn load_header(path: &Path, text: &str) -> Result<(Header, Provenance)> {
    #[derive(Deserialize)]
    struct Top {
        artifact: Option<Header>,
        #[serde(default)]
        provenance: Provenance,
    }
    if text.trim().is_empty() {
        return Err(Error::input(path, "is empty, expected a record")
            .hint("make this output again, or copy it again"));
    }
    let top: Top = toml::from_str(text).map_err(|e| syntax(path, text, &e))?;
    let Some(header) = top.artifact else {
        return Err(Error::input(path, "no [artifact] table, expected one with kind and version"));
    };
    Ok((header, top.provenance))
}

/// A name that becomes part of a path must not lead out of its folder. One line: field, found, expected.
pub(crate) fn check_name(field: &str, name: &str) -> std::result::Result<(), String> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(format!("{field} = \"{}\", expected a plain name", name.escape_debug()));
    }
    Ok(())
}

/// A sibling's path; names with folders or parents are refused.
pub(crate) fn sibling(record: &Path, name: &str) -> Result<std::path::PathBuf> {
    if check_name("", name).is_err() || name.contains('\\') {
        return Err(Error::input(
            record,
            format!("artifact.files names \"{name}\", expected a file beside the record"),
        ));
    }
    Ok(record.with_file_name(name))
}

fn short(hash: &str) -> &str {
    hash.get(..15).unwrap_or(hash)
}

/// What is wrong with a record's text, with its line and key.
pub(crate) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    Error::input(path, crate::place::describe(text, error))
}

/// Whether `path` is already what a call with this key would write: same key, siblings unchanged. What a program that was
/// killed after its last step left beside it is removed.
pub fn up_to_date<T: Kind>(path: &Path, key: &str) -> bool {
    let Ok(record) = Record::<T>::load(path) else { return false };
    let yes = record.header.key == key && record.verify(path).is_ok();
    if yes {
        Lock::sweep_finished(path);
    }
    yes
}

/// The text of a record without siblings of its own, for records that are siblings of another.
///
/// # Errors
/// If the body doesn't pass its own check.
pub fn text<T: Kind>(provenance: &Provenance, body: &T) -> std::result::Result<String, String> {
    body.check()?;
    let header = Header {
        kind: T::KIND.into(),
        version: T::VERSION,
        key: provenance.key::<T>(),
        files: BTreeMap::new(),
    };
    Ok(render::<T>(&header, provenance, &toml::to_string(body).map_err(|e| e.to_string())?))
}

/// The text of a record: header, provenance, body.
pub(crate) fn render<T: Kind>(header: &Header, provenance: &Provenance, body: &str) -> String {
    #[derive(Serialize)]
    struct Top<'a> {
        artifact: &'a Header,
        provenance: &'a Provenance,
    }
    let top = toml::to_string(&Top { artifact: header, provenance }).expect("header is plain TOML");
    debug_assert_eq!(header.kind, T::KIND);
    // A list of tables that is empty is no table: it stands above all of them, or it would be the provenance's.
    let first =
        if body.starts_with('[') { 0 } else { body.find("\n[").map_or(body.len(), |at| at + 1) };
    let (values, tables) = body.split_at(first);
    match values.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        true => format!("{values}\n{top}\n{tables}"),
        false => format!("{top}\n{body}"),
    }
}
