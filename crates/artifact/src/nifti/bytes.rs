//! Bytes of a NIfTI file, inflated if need be, without ever allocating what the file only claims.

use super::header::{Header, SIZE_MAX, sniff};
use crate::{Error, Result, file};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::Decompressor;
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Deflate can't make more than 1032 bytes out of one (258 bytes from two bits).
pub(crate) const MOST_INFLATION: u64 = 1032;

/// A header and a trailer are believed up to so many times the stored bytes, or so many bytes; beyond, memory grows with
/// what really comes out.
const BELIEVED: (usize, u64) = (64, 16 << 20);

/// Content behind the voxels that is inflated too, so that the checksum behind it is compared.
const SURPLUS: u64 = 1 << 20;

pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// The first bytes of a file, inflated: enough for a header.
pub(super) fn read_start(path: &Path) -> Result<Vec<u8>> {
    let open = || file::open(path, "open");
    let mut start = Vec::new();
    open()?.take(2).read_to_end(&mut start).map_err(|e| Error::io(path, "read", &e))?;
    let gzip = is_gzip(&start);
    start.clear();
    if gzip {
        inflate_start(BufReader::new(open()?), &mut start)
            .map_err(|e| Error::input(path, format!("gzip data: {e}")))?;
    } else {
        open()?
            .take(SIZE_MAX as u64)
            .read_to_end(&mut start)
            .map_err(|e| Error::io(path, "read", &e))?;
    }
    Ok(start)
}

thread_local! {
    // One of each a thread, not one a file: they are tens of KiB at aligned addresses, which glibc before 2.38 doesn't find
    // again once they are freed, so that a process would grow with every file.
    static START: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    static WHOLE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// Appends the first [`SIZE_MAX`] inflated bytes, or all that come before the data breaks off. Checksums are looked at where
/// the whole is read.
fn inflate_start(mut source: impl BufRead, start: &mut Vec<u8>) -> std::io::Result<()> {
    const TRAILER: usize = 8;
    START.with_borrow_mut(|inflate| {
        loop {
            skip_gzip_header(&mut source)?;
            inflate.reset(false);
            if !inflate_until_full(inflate, &mut source, start)? {
                return Ok(());
            }
            source.read_exact(&mut [0; TRAILER])?;
            // Padding after the last member, or nothing.
            if !source.fill_buf()?.starts_with(&[0x1f]) {
                return Ok(());
            }
        }
    })
}

/// True at the end of the deflated data, false once [`SIZE_MAX`] bytes are there.
fn inflate_until_full(
    inflate: &mut Decompress,
    source: &mut impl BufRead,
    start: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let mut piece = [0; 4096];
    while start.len() < SIZE_MAX {
        let space = piece.len().min(SIZE_MAX - start.len());
        let stored = source.fill_buf()?;
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(stored, &mut piece[..space], FlushDecompress::None)?;
        let nothing_left = stored.is_empty();
        let read = (inflate.total_in() - read) as usize;
        let written = (inflate.total_out() - written) as usize;
        source.consume(read);
        start.extend_from_slice(&piece[..written]);
        match status {
            Status::StreamEnd => return Ok(true),
            _ if read == 0 && written == 0 && nothing_left => {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            _ => {}
        }
    }
    Ok(false)
}

/// The header of a gzip member (RFC 1952, section 2.3): ten bytes, then what their fourth says.
fn skip_gzip_header(source: &mut impl BufRead) -> std::io::Result<()> {
    let (checksum, extra, name, comment) = (2, 4, 8, 16);
    let mut head = [0; 10];
    source.read_exact(&mut head)?;
    if !is_gzip(&head) || head[2] != 8 {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "invalid gzip header"));
    }
    let flags: u8 = head[3];
    if flags & extra != 0 {
        let mut length = [0; 2];
        source.read_exact(&mut length)?;
        skip(source, u64::from(u16::from_le_bytes(length)))?;
    }
    for _ in 0..(flags & (name | comment)).count_ones() {
        source.skip_until(0)?;
    }
    skip(source, if flags & checksum == 0 { 0 } else { 2 })
}

fn skip(source: &mut impl BufRead, bytes: u64) -> std::io::Result<()> {
    std::io::copy(&mut source.take(bytes), &mut std::io::sink()).map(drop)
}

/// Parses the header at the start of possibly compressed bytes.
pub(super) fn parse_header(path: &Path, stored: &[u8]) -> Result<Header> {
    if !is_gzip(stored) {
        return Header::parse(stored).map_err(|e| no_header(path, "is", stored, e));
    }
    let mut start = Vec::new();
    inflate_start(stored, &mut start).map_err(|e| truncated(path, &e.to_string()))?;
    Header::parse(&start).map_err(|e| no_header(path, "is gzip of what is", &start, e))
}

/// What is wrong with a header, or what it is if it's none.
fn no_header(path: &Path, is: &str, start: &[u8], wrong: String) -> Error {
    const EXPECTED: &str = "expected a NIfTI file: .nii, .nii.gz, or a pair .hdr and .img";
    // A few letters say nothing of what they began, and the beginning of a header isn't foreign.
    let told = start.is_empty() || start.len() >= 16;
    let strange = |found: &file::Foreign| (told || !found.is_plain()) && !found.is_nifti();
    match file::foreign(start).filter(|found| sniff(start).is_err() && strange(found)) {
        Some(found) => {
            Error::input(path, format!("{is} {}, {EXPECTED}", found.name)).hint(found.hint)
        }
        None => Error::input(path, wrong).hint(EXPECTED),
    }
}

fn truncated(path: &Path, what: &str) -> Error {
    Error::input(path, format!("gzip data is broken or cut off: {what}"))
        .hint("copy or download the file again")
}

/// Why the content didn't come out: memory that isn't there is no fault of the file.
fn unpacked(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::OutOfMemory => {
            Error::input(path, "takes more memory to unpack than the system gives this process")
                .hint("look whether its header's size is right; else use a larger machine")
        }
        _ => truncated(path, &error.to_string()),
    }
}

/// The first `needed` bytes of the content of `stored`; memory stays below what the stored bytes can really hold.
pub(super) fn inflate(path: &Path, stored: Vec<u8>, needed: u64) -> Result<Vec<u8>> {
    if !is_gzip(&stored) {
        if (stored.len() as u64) < needed {
            return Err(too_short(path, stored.len() as u64, needed));
        }
        return Ok(stored);
    }
    let most = stored.len() as u64 * MOST_INFLATION;
    if needed > most {
        return Err(Error::input(
            path,
            format!("holds at most {most} bytes, but its header claims {needed}"),
        )
        .hint("the file is cut off or its header is wrong"));
    }
    if let Some(content) = inflate_one_member(&stored, needed) {
        return Ok(content);
    }
    inflate_members(path, &stored, needed)
}

/// Whether a file's size, or of gzip the trailer's, is that of content of so many bytes. If not it may be whole all the
/// same: of several members, or with something behind the voxels.
pub(super) fn ends_as_told(path: &Path, needed: u64) -> Result<bool> {
    let fail = |e| Error::io(path, "read", &e);
    let mut file = file::open(path, "read")?;
    let size = file.metadata().map_err(fail)?.len();
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(fail)?;
    if !is_gzip(&start) {
        return Ok(size >= needed);
    }
    let mut trailer = [0; 4];
    file.seek(SeekFrom::End(-4)).and_then(|_| file.read_exact(&mut trailer)).map_err(fail)?;
    // A gzip trailer counts modulo 2^32.
    let told = u64::from(u32::from_le_bytes(trailer));
    Ok(told == needed & u64::from(u32::MAX) && size.saturating_mul(MOST_INFLATION) >= needed)
}

fn too_short(path: &Path, found: u64, needed: u64) -> Error {
    Error::input(path, format!("content has {found} bytes, but its header claims {needed}"))
        .hint("the file is cut off or its header is wrong")
}

/// The usual case, and the fastest: one gzip member whose trailer tells its size.
fn inflate_one_member(stored: &[u8], needed: u64) -> Option<Vec<u8>> {
    let size = u64::from(u32::from_le_bytes(*stored.last_chunk()?));
    let (times, bytes) = BELIEVED;
    let believed = bytes.max((stored.len() * times) as u64);
    if size < needed || size - needed > SURPLUS || size > believed {
        return None;
    }
    let mut content = vec![0; usize::try_from(size).ok()?];
    let written = WHOLE.with_borrow_mut(|d| d.gzip_decompress(stored, &mut content)).ok()?;
    (written as u64 >= needed).then_some(content)
}

/// Any number of members, streamed; the buffer grows with what really comes out. Checks every member's checksum,
/// unless much more comes than the header speaks of: then nothing behind it is looked at.
fn inflate_members(path: &Path, stored: &[u8], needed: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut rest = stored;
    // Bytes after the last member that don't start another one are padding, which gzip tools ignore too.
    while is_gzip(rest) {
        let mut member = GzDecoder::new(rest);
        let missing = needed - content.len() as u64;
        member.by_ref().take(missing).read_to_end(&mut content).map_err(|e| unpacked(path, &e))?;
        let surplus = std::io::copy(&mut member.by_ref().take(SURPLUS), &mut std::io::sink())
            .map_err(|e| unpacked(path, &e))?;
        if surplus == SURPLUS {
            break;
        }
        rest = member.into_inner();
    }
    if (content.len() as u64) < needed {
        return Err(too_short(path, content.len() as u64, needed));
    }
    Ok(content)
}

/// The two files of a pair, header first, from the name of either; a single file gives `None`.
pub(super) fn pair_of(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    // By the system's own names, which need not be UTF-8.
    let has = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    let bare = if has(path, "gz") { path.with_extension("") } else { path.into() };
    let find = |ending: &str| {
        let plain = bare.with_extension(ending);
        let mut packed = plain.clone().into_os_string();
        packed.push(".gz");
        [plain, packed.into()].into_iter().find(|p| p.exists()).ok_or_else(|| {
            let message = format!("half of a pair, but its .{ending} file is missing beside it");
            Error::input(path, message)
        })
    };
    if has(&bare, "hdr") {
        return Ok(Some((path.into(), find("img")?)));
    }
    if has(&bare, "img") {
        return Ok(Some((find("hdr")?, path.into())));
    }
    Ok(None)
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    file::read(path, "read")
}
