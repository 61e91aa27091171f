//! The WAL: how large it is, and which processes keep it from being truncated.
//!
//! A reader that stays inside a transaction keeps what was written since in the WAL, which then grows without bound. SQLite
//! marks readers by locks on the shared memory file, and the kernel lists their holders. The file itself is never opened
//! here: closing it would drop SQLite's locks. A process is found only where it keeps its lock for most of some 100 ms.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::state_dir::{FileId, FileLock, beside, lasting_lock_holders};

/// The write-ahead log of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteAheadLog {
    /// Size of `state.db-wal`.
    pub bytes: u64,
    /// Processes with a read transaction that does not end, so that the WAL grows. Looked for where it is larger than it should
    /// be, and on Linux only.
    pub held_back_by: Vec<u32>,
}

/// Twice the size at which SQLite checkpoints the WAL.
const LARGE: u64 = 8 * 1024 * 1024;

/// The bytes of the shared memory file that readers lock, as SQLite's file format says.
const READ_LOCKS: std::ops::RangeInclusive<u64> = 123..=127;

/// The WAL of a database, and the processes that hold it back. Not to be called inside a read transaction: this process would be
/// one of them.
pub(crate) fn write_ahead_log(database: &Path) -> WriteAheadLog {
    let bytes = fs::metadata(beside(database, "-wal")).map_or(0, |metadata| metadata.len());
    let reads = |lock: &FileLock| lock.is_read && lock.covers(*READ_LOCKS.start(), *READ_LOCKS.end());
    let held_back_by = if bytes > LARGE { lasting_holders(database, reads) } else { Vec::new() };
    WriteAheadLog { bytes, held_back_by }
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

/// Returns another process that keeps a database open; on Linux only. Not one that opens it briefly, as `status` does.
pub(crate) fn opened_by_another(database: &Path) -> Option<u32> {
    // SQLite keeps a shared lock on the file for as long as it is open.
    lasting_holders(database, |lock| lock.is_read).into_iter().find(|pid| *pid != std::process::id())
}

/// Processes that keep such a lock on the shared memory file of a database.
fn lasting_holders(database: &Path, counts: impl Fn(&FileLock) -> bool) -> Vec<u32> {
    let file = FileId::at(&beside(database, "-shm")).ok().flatten();
    file.map(|file| lasting_lock_holders(file, counts)).unwrap_or_default()
}

/// A process in words: its number and its program.
pub(crate) fn process(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(program) => format!("process {pid} ({})", program.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}
