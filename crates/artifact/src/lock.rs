//! Advisory locks on outputs: of two programs that make the same one, the second waits or ends.
//!
//! The lock of `DIR/NAME` is `flock` on the empty file `DIR/.NAME.lock`. The kernel releases it when its holder dies, on
//! network file systems their server does; the holder removes the file at its end. Whoever finds one that nobody holds
//! knows that a program was killed, and removes it together with that program's temporaries, whose names begin with
//! `.NAME.`: only the holder of the lock makes or removes such files, so those of a living program are never touched.
//!
//! No two programs wait for each other: a thread waits for a lock while it holds none, or none but locks that stand before it
//! in the order plan before splits, summary before its pictures.

use crate::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Waits that end sooner are not worth a line.
const SILENT: Duration = Duration::from_millis(500);
/// How often the lock and the signals are asked.
const POLL: Duration = Duration::from_millis(50);
/// How often another line is said, over all waits of this process.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How a program behaves while it waits for another one.
pub struct Patience {
    /// Writes a line of the log.
    pub say: Box<dyn Fn(&str) + Send + Sync>,
    /// Whether a signal asked to stop.
    pub stopped: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patience")
    }
}

static PATIENCE: OnceLock<Patience> = OnceLock::new();
static LAST_SAID: std::sync::Mutex<Option<Instant>> = std::sync::Mutex::new(None);
static NO_LOCKS_SAID: std::sync::Once = std::sync::Once::new();

/// Sets what this process does while it waits; the first call counts. Without it, waiting is silent and endless.
pub fn set_patience(patience: Patience) {
    let _ = PATIENCE.set(patience);
}

/// What to do if another program holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfHeld {
    /// For outputs that take seconds or minutes.
    Wait,
    /// For a training, which takes days.
    Fail,
}

/// The lock of an output, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    output: PathBuf,
    path: PathBuf,
    /// None where the file system has no locks.
    file: Option<File>,
    waited: bool,
    /// A temporary couldn't be removed.
    untidy: AtomicBool,
}

enum Attempt {
    Taken(Lock),
    Held(File),
}

impl Lock {
    fn new(output: &Path, path: PathBuf, file: Option<File>) -> Self {
        let (waited, untidy) = (false, AtomicBool::new(false));
        Self { output: output.into(), path, file, waited, untidy }
    }

    /// Locks an output, whose folder must exist, and removes what a killed program left of it.
    ///
    /// # Errors
    /// If the lock's file can't be made, a signal ended the wait, or another program holds it and `if_held` says so.
    pub(crate) fn take(output: &Path, if_held: IfHeld) -> Result<Self> {
        let begun = Instant::now();
        let mut waited = false;
        loop {
            let attempt = attempt(output).map_err(|e| Error::write(output, "write", &e))?;
            let held = match attempt {
                Attempt::Taken(mut lock) => {
                    lock.waited = waited;
                    return Ok(lock);
                }
                Attempt::Held(file) => file,
            };
            if if_held == IfHeld::Fail {
                let line = format!("{} is at work on this output", holder(&held));
                return Err(Error::busy(output, line)
                    .hint("give the same command again when it has ended, or another --out"));
            }
            wait(output, &held, begun.elapsed())?;
            waited = true;
        }
    }

    /// Whether another program held it first.
    pub(crate) fn waited(&self) -> bool {
        self.waited
    }

    /// Removes what a killed program left of an output that is finished; nothing if none did, or one is at work.
    pub(crate) fn sweep_finished(output: &Path) {
        if fs::symlink_metadata(lock_path(output)).is_ok() {
            drop(attempt(output));
        }
    }

    /// A new temporary beside the output.
    ///
    /// # Errors
    /// If it can't be made.
    pub(crate) fn temporary(&self) -> Result<(PathBuf, File)> {
        let mut options = OpenOptions::new();
        // `create_new` refuses links too.
        options.write(true).create_new(true);
        loop {
            let path = beside(&self.output, &format!("{:016x}.partial", random()));
            match options.open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::write(&self.output, "write", &e)),
            }
        }
    }

    /// Removes a temporary that becomes nothing.
    pub(crate) fn discard(&self, temporary: &Path) {
        if fs::remove_file(temporary).is_err_and(|e| e.kind() != ErrorKind::NotFound) {
            self.untidy.store(true, Ordering::Relaxed);
        }
    }

    /// Removes temporaries of killed programs, or of this one before it ends. Where there are no locks they may be a
    /// living program's and stay.
    fn sweep(&self) {
        if self.file.is_none() {
            return;
        }
        self.untidy.store(false, Ordering::Relaxed);
        let Ok(entries) = fs::read_dir(folder(&self.output)) else { return };
        let prefix = stem(&self.output);
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let token = name
                .strip_prefix(prefix.as_encoded_bytes())
                .and_then(|rest| rest.strip_suffix(b".partial"));
            if token.is_some_and(|t| t.len() == 16 && t.iter().all(u8::is_ascii_hexdigit)) {
                self.discard(&entry.path());
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.untidy.load(Ordering::Relaxed) {
            self.sweep();
        }
        // The next one that finds the lock's file will sweep.
        if self.untidy.load(Ordering::Relaxed) {
            return;
        }
        // Removed while it is held, so that nobody can hold a lock on a file without a name.
        // Asked again after a passing error: of an output that is up to date nobody may ever take the lock again.
        let mine = || self.file.as_ref().is_none_or(|file| is_at(file, &self.path));
        let removed = || !mine() || fs::remove_file(&self.path).is_ok();
        let _ = removed() || removed();
    }
}

fn attempt(output: &Path) -> io::Result<Attempt> {
    let path = lock_path(output);
    loop {
        let Some((file, new)) = open(&path)? else { continue };
        match file.try_lock() {
            // Unless its holder has removed it meanwhile.
            Ok(()) if is_at(&file, &path) => {
                let lock = Lock::new(output, path, Some(file));
                if !new {
                    lock.sweep();
                }
                return Ok(Attempt::Taken(lock));
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Held(file)),
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(e)) if is_missing(&e) => {
                no_locks(output, &e);
                return Ok(Attempt::Taken(Lock::new(output, path, None)));
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

/// Opens the lock's file, which nothing is ever written to, and says whether it's new; none if what lay under its name had
/// to go first, or went by itself.
fn open(path: &Path) -> io::Result<Option<(File, bool)>> {
    let mut options = OpenOptions::new();
    // Network file systems lock only files that are open for writing.
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok(Some((file, true))),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let opened = match options.open(path) {
        // Another user's.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => options.write(false).open(path),
        opened => opened,
    };
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some((file, false))),
        Ok(_) => Err(io::Error::other(format!("{} is no regular file", path.display()))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        // A link: nothing of ours, and nothing that could be locked without touching what it leads to.
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => fs::remove_file(path).map(|()| None),
        Err(e) => Err(e),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => id(file) == id(there),
        _ => false,
    }
}

/// The file system has no locks, such as a network file system without its lock service.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL)
    )
}

fn no_locks(output: &Path, error: &io::Error) {
    NO_LOCKS_SAID.call_once(|| {
        if let Some(patience) = PATIENCE.get() {
            let folder = folder(output);
            (patience.say)(&format!(
                "{}: this file system has no locks ({error}): never let two programs make the same output here",
                folder.display()
            ));
        }
    });
}

fn wait(output: &Path, held: &File, waited: Duration) -> Result<()> {
    let patience = PATIENCE.get();
    if patience.is_some_and(|p| (p.stopped)()) {
        return Err(Error::interrupted(output));
    }
    if let Some(patience) = patience.filter(|_| waited >= SILENT) {
        let mut last = LAST_SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= SAY_EVERY) {
            let holder = holder(held);
            (patience.say)(&format!("{}: waiting for {holder}, which makes it", output.display()));
            *last = Some(Instant::now());
        }
    }
    std::thread::sleep(POLL);
    Ok(())
}

/// Who holds a lock, such as `nnu-train (process 123)`, as far as this machine knows.
fn holder(file: &File) -> String {
    let known = || {
        let inode = format!(":{}", file.metadata().ok()?.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let of_file = |line: &&str| {
            let mut words = line.split_whitespace().skip(1);
            words.next() == Some("FLOCK") && words.nth(3).is_some_and(|id| id.ends_with(&inode))
        };
        let pid = locks.lines().find(of_file)?.split_whitespace().nth(4)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("{} (process {pid})", name.trim().escape_debug()))
    };
    known().unwrap_or_else(|| "another program".into())
}

fn lock_path(output: &Path) -> PathBuf {
    beside(output, "lock")
}

/// `.NAME.what` in the output's folder.
fn beside(output: &Path, what: &str) -> PathBuf {
    let mut name = stem(output);
    name.push(what);
    output.with_file_name(name)
}

/// `.NAME.`, or a hash for names too long to be made longer.
fn stem(output: &Path) -> OsString {
    let name = output.file_name().unwrap_or_default();
    let mut stem = OsString::from(".");
    if name.len() <= 200 {
        stem.push(name);
    } else {
        stem.push(&blake3::hash(name.as_encoded_bytes()).to_hex().as_str()[..32]);
    }
    stem.push(".");
    stem
}

pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.into(),
        _ => PathBuf::from("."),
    }
}

/// A number that nobody can guess, another one at each call: the standard library's hash keys come from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
