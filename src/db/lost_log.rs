//! Whether the write-ahead log still holds what was committed to it.
//!
//! SQLite reads a log up to its first frame that is not whole, and takes what comes after for never written; a log that is gone is
//! an empty one. The shared memory file, which stays behind when a process is killed, says how many frames there were.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::database::{self, beside};

/// How many frames are missing at the end of the log of a database that nobody has open, of how many; `None` where none are, or
/// nothing tells.
pub(crate) fn missing_frames(database: &Path) -> Option<(u32, u32)> {
    let shared_memory = beside(database, "-shm");
    // To open the file where this process has the database open would drop its locks.
    if database::is_open_here(database) || is_locked(&shared_memory) {
        return None;
    }
    let bytes = fs::read(&shared_memory).ok()?;
    let index = Index::read(&bytes)?;
    let log = fs::read(beside(database, "-wal")).unwrap_or_default();
    let whole = whole_frames(&log, &index).unwrap_or(0);
    let is_missing = whole < index.frames && index.backfilled < index.frames;
    // Somebody who works with it, and whose locks cannot be seen, has changed both meanwhile.
    let is_unchanged = || fs::read(&shared_memory).is_ok_and(|now| now == bytes);
    (is_missing && is_unchanged()).then(|| (index.frames - whole, index.frames))
}

/// Whether somebody holds a lock on a file, or on one that might be it: not every file system says its true device.
fn is_locked(file: &Path) -> bool {
    let Ok(metadata) = fs::metadata(file) else { return false };
    let inode = format!(":{} ", metadata.ino());
    // Where nobody can tell, nothing is looked at.
    fs::read_to_string("/proc/locks").map_or(true, |locks| locks.contains(&inode))
}

/// What the shared memory file says of the log: <https://www.sqlite.org/walformat.html#the_wal_index_file_format>
struct Index {
    page_size: usize,
    /// Frames in the log that belong to committed transactions.
    frames: u32,
    /// Those of them that the database has.
    backfilled: u32,
    salt: [u8; 8],
}

impl Index {
    fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let is_whole = bytes.get(..48)? == bytes.get(48..96)? && bytes[12] == 1;
        // 1 stands for 65536.
        let page_size = match u16::from_ne_bytes([bytes[14], bytes[15]]) {
            1 => 65536,
            size => usize::from(size),
        };
        let salt = bytes[32..40].try_into().ok()?;
        is_whole.then_some(Self { page_size, frames: number(16)?, backfilled: number(96)?, salt })
    }
}

/// How many frames at the beginning of a log are whole and of the same generation as the index.
fn whole_frames(log: &[u8], index: &Index) -> Option<u32> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let is_big_endian = word(log, 0)? & 1 == 1;
    if log.get(16..24)? != index.salt {
        return Some(0);
    }
    let mut sum = checksum(log.get(..24)?, (0, 0), is_big_endian);
    if Some(sum.0) != word(log, 24) || Some(sum.1) != word(log, 28) {
        return Some(0);
    }
    let mut whole = 0;
    for frame in log.get(32..)?.chunks_exact(24 + index.page_size) {
        let (header, page) = frame.split_at(24);
        sum = checksum(page, checksum(&header[..8], sum, is_big_endian), is_big_endian);
        if header[8..16] != index.salt || Some(sum.0) != word(header, 16) || Some(sum.1) != word(header, 20) {
            break;
        }
        whole += 1;
    }
    Some(whole)
}

/// The checksum of the log: <https://www.sqlite.org/fileformat2.html#checksum_algorithm>
fn checksum(bytes: &[u8], (mut first, mut second): (u32, u32), is_big_endian: bool) -> (u32, u32) {
    let word = |bytes: [u8; 4]| if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for pair in bytes.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = pair else { continue };
        first = first.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(second);
        second = second.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(first);
    }
    (first, second)
}
