//! The write-ahead log: how large it is, and who keeps it from being cut back.
//!
//! A reader that stays inside a transaction keeps what was written since in the log, which then grows without bound. SQLite
//! marks readers by locks on the shared memory file, and the kernel tells who holds these. The file itself is never opened
//! here: closing it would drop SQLite's locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::database::beside;

/// The write-ahead log of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteAheadLog {
    /// Size of `state.db-wal`.
    pub bytes: u64,
    /// Processes that read without an end, so that the log grows. Looked for where it is larger than it should be, and on
    /// Linux only.
    pub held_back_by: Vec<u32>,
}

/// Twice the size at which SQLite brings the log into the database.
const LARGE: u64 = 8 * 1024 * 1024;

/// The bytes of the shared memory file that readers lock, as SQLite's file format says.
const READ_LOCKS: std::ops::RangeInclusive<u64> = 123..=127;

/// The log of a database, and who holds it back. Not to be asked inside a read transaction: this process would be one of
/// them.
pub(crate) fn write_ahead_log(database: &Path) -> WriteAheadLog {
    let bytes = fs::metadata(beside(database, "-wal")).map_or(0, |metadata| metadata.len());
    let held_back_by = if bytes > LARGE { long_readers(&beside(database, "-shm")) } else { BTreeSet::new() };
    WriteAheadLog { bytes, held_back_by: held_back_by.into_iter().collect() }
}

impl WriteAheadLog {
    /// Whether it is larger than it should be, and why; `None` where it is not.
    pub(crate) fn trouble(&self) -> Option<String> {
        if self.held_back_by.is_empty() {
            return None;
        }
        let holders: Vec<_> = self.held_back_by.iter().map(|pid| process(*pid)).collect();
        Some(format!(
            "the log state.db-wal has {} bytes and grows, as {} reads without an end; it shrinks once that one is done",
            self.bytes,
            holders.join(" and ")
        ))
    }
}

/// Processes that read almost all the time that this looks. The kernel hands `/proc/locks` out in pieces: while others take and drop
/// locks, a look may miss one.
fn long_readers(shared_memory: &Path) -> BTreeSet<u32> {
    const LOOKS: u32 = 6;
    const ENOUGH: u32 = 4;
    const BETWEEN: Duration = Duration::from_millis(20);
    let mut seen = BTreeMap::<u32, u32>::new();
    for look in 0..LOOKS {
        if look > 0 {
            thread::sleep(BETWEEN);
        }
        readers(shared_memory).into_iter().for_each(|pid| *seen.entry(pid).or_default() += 1);
    }
    seen.into_iter().filter(|(_, looks)| *looks >= ENOUGH).map(|(pid, _)| pid).collect()
}

/// Returns another process that keeps a database open; on Linux only. Not one that looks into it for a moment, as `status` does.
pub(crate) fn opened_by_another(database: &Path) -> Option<u32> {
    const LOOKS: u32 = 4;
    const BETWEEN: Duration = Duration::from_millis(25);
    let mut seen = BTreeMap::<u32, u32>::new();
    for look in 0..LOOKS {
        if look > 0 {
            thread::sleep(BETWEEN);
        }
        lockers(&beside(database, "-shm"), opener).into_iter().for_each(|pid| *seen.entry(pid).or_default() += 1);
    }
    // One look may miss a lock.
    seen.into_iter().find(|(pid, looks)| *pid != std::process::id() && *looks > LOOKS / 2).map(|(pid, _)| pid)
}

/// Processes that read at this moment.
fn readers(shared_memory: &Path) -> BTreeSet<u32> {
    lockers(shared_memory, reader)
}

/// Processes that `of` finds in the lines of `/proc/locks` about a shared memory file.
fn lockers(shared_memory: &Path, of: impl Fn(&str) -> Option<u32>) -> BTreeSet<u32> {
    let Ok(metadata) = fs::metadata(shared_memory) else { return BTreeSet::new() };
    let device = metadata.dev();
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & !0xff;
    let name = format!(" {major:02x}:{minor:02x}:{} ", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().filter(|line| line.contains(&name)).filter_map(of).collect()
}

/// The process of a line of `/proc/locks` about a shared memory file, which it has open: SQLite keeps a lock on it as long as that is.
fn opener(line: &str) -> Option<u32> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, "POSIX", _, "READ", pid, ..] = words[..] else { return None };
    pid.parse().ok()
}

/// The process of a line of `/proc/locks` about a shared memory file, where it reads the database. For instance
/// `1: POSIX  ADVISORY  READ 4711 fe:00:123456 124 124`.
fn reader(line: &str) -> Option<u32> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, "POSIX", _, "READ", pid, _, first, last] = words[..] else { return None };
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let is_read_lock = first <= *READ_LOCKS.end() && last >= *READ_LOCKS.start();
    pid.parse().ok().filter(|_| is_read_lock)
}

/// A process for people: its number and its program.
pub(crate) fn process(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(program) => format!("process {pid} ({})", program.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::reader;

    #[test]
    fn who_reads_is_known_by_the_locks() {
        let of = reader;
        assert_eq!(of("3: POSIX  ADVISORY  READ 4711 fe:00:77 124 124"), Some(4711));
        assert_eq!(of("3: POSIX  ADVISORY  READ 4711 fe:00:77 120 123"), Some(4711), "neighbours are one lock");
        assert_eq!(of("3: POSIX  ADVISORY  READ 4711 fe:00:77 128 128"), None, "who merely has it open");
        assert_eq!(of("3: POSIX  ADVISORY  WRITE 4711 fe:00:77 124 124"), None);
        assert_eq!(of("3: -> POSIX  ADVISORY  READ 4711 fe:00:77 124 124"), None, "who waits");
        assert_eq!(of("3: OFDLCK ADVISORY  READ -1 fe:00:77 124 124"), None);
        assert_eq!(of("3: FLOCK  ADVISORY  WRITE 4711 fe:00:77 0 EOF"), None);
        assert_eq!(of(""), None);
    }
}
