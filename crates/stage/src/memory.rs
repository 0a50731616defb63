//! What a piece of work may take: asked before it is begun, since an allocation that fails ends the whole process, and
//! one that succeeds where there is no memory ends it too, later.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

const GIB: f64 = (1u64 << 30) as f64;

/// Refuses work that takes `bytes` in all, with what the process holds already, where the machine hasn't so much: the
/// free memory and swap, the limits of the control groups (containers, jobs of a cluster), the process's own
/// (`ulimit -v`). Where nothing is known of them, only the last is asked.
///
/// # Errors
/// An input's fault, with what is needed and what is there.
pub fn require(bytes: f64) -> Result<()> {
    match limit() {
        Some(limit) if bytes > limit as f64 => Err(lacking(bytes, Some(limit as f64))),
        _ if !can_be_had(bytes) => Err(lacking(bytes, None)),
        _ => Ok(()),
    }
}

fn lacking(bytes: f64, limit: Option<f64>) -> Error {
    let there = match limit {
        Some(limit) => format!("{} GiB are there", gib(limit)),
        None => "the system gives this process less (ulimit -v)".into(),
    };
    Error::input(format!("needs about {} GiB of memory, {there}", gib(bytes))).hint(
        "look whether its header's size and spacing (mm) are right; else use a larger machine",
    )
}

/// Gibibytes with two digits.
pub fn gib(bytes: f64) -> String {
    crate::digits(bytes / GIB, 2)
}

/// Whether the system would give so much beyond what the process holds. Nothing is touched, so that nothing is taken.
fn can_be_had(bytes: f64) -> bool {
    let more = (bytes - resident().unwrap_or(0) as f64).max(0.0);
    // `as` saturates, and more than isize::MAX is never given.
    Vec::<u8>::new().try_reserve_exact(more as usize).is_ok()
}

/// Half of the address space that `ulimit -v` leaves this process, taken from it as long as the result lives; nothing
/// where there is no such limit. It isn't touched, so that it takes no memory.
pub(crate) fn half_of_what_is_left() -> Vec<u8> {
    let limit = read("/proc/self/limits").and_then(|text| number(&text, "Max address space"));
    let used = read("/proc/self/status").and_then(|text| number(&text, "VmSize:"));
    let left = limit.zip(used).map_or(0, |(limit, used)| limit.saturating_sub(1024 * used));
    let mut kept = Vec::new();
    // Where not even that is to be had, the threads get what they get.
    let _ = kept.try_reserve_exact(usize::try_from(left / 2).unwrap_or(0));
    kept
}

/// Bytes that this process may take in all; none where it isn't known.
pub fn limit() -> Option<u64> {
    let free = available()?;
    let groups = groups().into_iter().filter_map(|group| group.free());
    Some(groups.fold(free, u64::min) + resident().unwrap_or(0))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The number behind a key of a list such as `MemAvailable:  23 kB`.
fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the machine could still give, files that are only cached counted as free.
fn available() -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let swap = number(&text, "SwapFree:").unwrap_or(0);
    Some(1024 * (number(&text, "MemAvailable:")? + swap))
}

/// What this process holds.
fn resident() -> Option<u64> {
    Some(1024 * number(&read("/proc/self/status")?, "VmRSS:")?)
}

/// A control group's folder, and how its files are called.
struct Group {
    folder: PathBuf,
    most: &'static str,
    used: &'static str,
    cached: &'static str,
}

impl Group {
    /// What it could still give; none if it has no limit.
    fn free(&self) -> Option<u64> {
        let file = |name: &str| read(self.folder.join(name));
        let value = |name: &str| file(name)?.trim().parse::<u64>().ok();
        let (most, used) = (value(self.most)?, value(self.used)?);
        let cached = file("memory.stat").and_then(|text| number(&text, self.cached)).unwrap_or(0);
        Some(most.saturating_sub(used.saturating_sub(cached)))
    }
}

/// The process's own groups and all above them, of either version.
fn groups() -> Vec<Group> {
    let text = read("/proc/self/cgroup").unwrap_or_default();
    text.lines().flat_map(|line| groups_of(line, Path::new("/sys/fs/cgroup"))).collect()
}

/// Of a line `NUMBER:CONTROLLERS:PATH`; without controllers it's version 2.
fn groups_of(line: &str, root: &Path) -> Vec<Group> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (root, [most, used, cached]) = match controllers {
        "" => (root.into(), ["memory.max", "memory.current", "inactive_file "]),
        _ if controllers.split(',').any(|c| c == "memory") => {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "];
            (root.join("memory"), names)
        }
        _ => return Vec::new(),
    };
    let inside = Path::new(path.trim_start_matches('/'));
    let folders = inside.ancestors().map(|folder| root.join(folder));
    folders.map(|folder| Group { folder, most, used, cached }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_machine_has_a_pebibyte_and_each_has_a_mebibyte() {
        require(f64::from(1 << 20)).unwrap();
        for bytes in [2f64.powi(50), 1e30, f64::INFINITY] {
            let error = require(bytes).unwrap_err();
            assert_eq!(error.exit, crate::Exit::Input);
            assert!(error.message.starts_with("needs about "), "{}", error.message);
        }
        assert_eq!((gib(1.5 * GIB), gib(27_123.4 * GIB)), ("1.5".into(), "27000".into()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_limit_is_between_what_is_held_and_what_is_built_in() {
        let limit = limit().unwrap();
        let text = read("/proc/meminfo").unwrap();
        let all =
            1024 * (number(&text, "MemTotal:").unwrap() + number(&text, "SwapTotal:").unwrap());
        // What this test itself takes may be counted twice.
        let own = resident().unwrap();
        assert!(limit > own && limit <= all + own, "{limit} of {all}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's own files")]
    fn groups_of_both_versions_limit() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("job/memory.max", "1000\n");
        write("job/memory.current", "800\n");
        write("job/memory.stat", "anon 500\ninactive_file 300\n");
        write("job/step/memory.max", "max\n");
        write("job/step/memory.current", "700\n");
        write("memory/box/memory.limit_in_bytes", "400\n");
        write("memory/box/memory.usage_in_bytes", "500\n");
        let free = |line| {
            let groups = groups_of(line, root.path());
            groups.iter().filter_map(Group::free).collect::<Vec<u64>>()
        };
        assert_eq!(free("0::/job/step"), [500]);
        assert_eq!(free("4:cpu,memory:/box"), [0]);
        assert!(free("3:cpuset:/job").is_empty());
        assert!(free("broken").is_empty());
    }
}
