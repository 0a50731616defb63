//! Zip archives as NumPy and PyTorch write them, opened in time and memory that their directory is worth.
//!
//! The end of a zip archive has to be searched for. A file can hold thousands of false ends, each of which sends a reader
//! through all of it, or makes it believe in millions of entries. Archives here have nothing in front of their first entry and
//! no comment behind their directory, so that everything stands at one place: that is looked at first, and the library that
//! reads the directory then finds this one end only.

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zip::ZipArchive;

/// The largest networks have some thousand tensors.
pub const MOST_ENTRIES: u64 = 1 << 16;

const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR_64: &[u8; 4] = b"PK\x06\x07";
const END_SIZE: u64 = 22;
const LOCATOR_64_SIZE: u64 = 20;
const END_64_SIZE: u64 = 56;
/// Bytes of an entry without a name.
const LEAST_ENTRY: u64 = 46;

/// An open file; ends of archives in front of `floor` can't be seen.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    at: u64,
    floor: Arc<AtomicU64>,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let floor = self.floor.load(Relaxed);
        if self.at >= floor {
            let read = self.file.read(buffer)?;
            self.at += read as u64;
            return Ok(read);
        }
        // The whole of what is asked for, so that no end lies between two pieces of it.
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read(&mut buffer[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let hidden = usize::try_from(floor - self.at).unwrap_or(usize::MAX).min(read);
        while let Some(end) = buffer[..hidden].windows(END.len()).position(|w| w == END) {
            buffer[end] = 0;
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

/// Opens an archive.
///
/// # Errors
/// One line, if it isn't one, or none as NumPy and PyTorch write them.
pub fn open(mut file: File) -> std::result::Result<ZipArchive<Reader>, String> {
    let (begin, count) = directory(&mut file)?;
    let floor = Arc::new(AtomicU64::new(begin));
    let reader = Reader { file: BufReader::new(file), at: 0, floor: floor.clone() };
    let archive = ZipArchive::new(reader).map_err(|e| e.to_string())?;
    // The library keeps one entry per name, and other readers another one.
    if (archive.len() as u64) < count {
        return Err(format!("its {count} entries have {} names only", archive.len()));
    }
    floor.store(0, Relaxed);
    Ok(archive)
}

/// Where the directory begins and how many entries it has, once it is sure that it and what is behind it hold one end only.
fn directory(file: &mut File) -> std::result::Result<(u64, u64), String> {
    let failed = |e: Error| e.to_string();
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let end_at = length.checked_sub(END_SIZE).ok_or("it is too short")?;
    let end = Fields::read(file, end_at, END_SIZE).map_err(failed)?;
    // The comment's length.
    if !end.is(END) || end.number(20, 2) != 0 {
        return Err("it does not end as one; it is cut off, or something was added to it".into());
    }
    let (mut count, mut size, mut begin) =
        (end.number(10, 2), end.number(12, 4), end.number(16, 4));
    let mut behind = end_at;
    // PyTorch writes the 64-bit end of every archive; its numbers count where the others are too small for them.
    if let Some(locator_at) = end_at.checked_sub(LOCATOR_64_SIZE) {
        let locator = Fields::read(file, locator_at, LOCATOR_64_SIZE).map_err(failed)?;
        if locator.is(LOCATOR_64) {
            behind = locator.number(8, 8);
            let end = match behind.checked_add(END_64_SIZE) {
                Some(end) if end <= locator_at => Fields::read(file, behind, END_64_SIZE),
                _ => Err(ErrorKind::UnexpectedEof.into()),
            };
            let end = end.map_err(failed)?;
            if !end.is(END_64) {
                return Err("its 64-bit end is not where it is said to be".into());
            }
            if count == 0xffff || size == 0xffff_ffff || begin == 0xffff_ffff {
                (count, size, begin) = (end.number(32, 8), end.number(40, 8), end.number(48, 8));
            }
        }
    }
    if begin.checked_add(size) != Some(behind) {
        return Err(format!(
            "its directory is said to have {size} bytes from byte {begin}, but ends at byte {behind}"
        ));
    }
    if count > MOST_ENTRIES.min(size / LEAST_ENTRY) {
        return Err(format!("its directory of {size} bytes is said to have {count} entries"));
    }
    let all = Fields::read(file, begin, length - begin).map_err(failed)?;
    let ends = all.0.windows(END.len()).filter(|w| *w == END).count();
    if ends != 1 {
        return Err("its directory holds an end of another one".into());
    }
    Ok((begin, count))
}

/// Little-endian numbers at fixed places.
struct Fields(Vec<u8>);

impl Fields {
    fn read(file: &mut File, at: u64, size: u64) -> Result<Self> {
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size {
            Ok(Self(bytes))
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }

    fn is(&self, signature: &[u8; 4]) -> bool {
        self.0.starts_with(signature)
    }

    fn number(&self, at: usize, size: usize) -> u64 {
        self.0[at..at + size].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b))
    }
}
