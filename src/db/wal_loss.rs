//! Whether the write-ahead log (WAL) still holds what was committed to it.
//!
//! SQLite reads a WAL up to the first frame that is not whole and ignores the rest; a missing WAL is an empty one. So a WAL that was
//! deleted, cut or garbled after a process was killed silently takes committed updates with it. SQLite's shared memory file, which a
//! killed process leaves behind, says how many frames there were.
//!
//! That file is never synced. After a power cut, or in a restored snapshot of a disk, it holds what the kernel happened to write back
//! at some time before. How much is concluded from it depends on how much it can be trusted, see [`Trust`]. In particular it may tell of
//! an older generation of the WAL: each time SQLite starts the WAL over, the first salt rises by one.
//!
//! It is read through a handle that is never closed, see [`kept_files`].

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::kept_files;
use crate::state_dir::{FileId, beside, locks_on, open_file};

/// What is wrong with a WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LostFrames {
    /// Committed frames that the WAL no longer holds.
    pub(crate) missing: u32,
    /// Committed frames that it should hold.
    pub(crate) frames: u32,
    /// Whether the database file has the pages of all of them: then the file without its WAL is the whole state.
    pub(crate) is_in_database: bool,
}

/// Returns what the WAL of a database has lost; `None` where it is whole, or where that cannot be known.
pub(crate) fn lost_frames(database: &Path) -> Option<LostFrames> {
    // How often a live process may change both files between two looks at them.
    const ATTEMPTS: u32 = 5;
    let shared_memory = beside(database, "-shm");
    let trust = Trust::of(&shared_memory)?;
    let wal = beside(database, "-wal");
    for _ in 0..ATTEMPTS {
        let index = Index::read(&shared_memory)?;
        if is_locked(&shared_memory) && fs::metadata(&wal).is_ok_and(|wal| wal.len() >= index.wal_bytes()) {
            // A live process works with it: its content is that process's, and need not be read at each opening.
            return None;
        }
        let lost = index.lost(&wal, trust)?;
        if Index::read(&shared_memory).as_ref() == Some(&index) {
            return Some(lost);
        }
    }
    None
}

/// Whether a process has the shared memory file locked, as every process does that has the database open. One look: where it
/// misses a lock, the WAL is read, which costs time and gives the same answer.
fn is_locked(shared_memory: &Path) -> bool {
    let file = FileId::at(shared_memory).ok().flatten();
    file.and_then(locks_on).is_some_and(|locks| !locks.is_empty())
}

/// The extended attribute that says when the shared memory file was last known to be exact.
const MARK: &str = "user.agentmux-state.boot";

/// Notes on the shared memory file of a database that is open that it is exact until this machine boots again.
///
/// Where the file system has no extended attributes, a loss of the WAL goes unnoticed.
pub(super) fn mark_shared_memory(database: &Path) {
    let shared_memory = beside(database, "-shm");
    if Trust::of(&shared_memory) == Some(Trust::Exact) {
        return;
    }
    if let Some(mark) = mark_of(&shared_memory)
        && let Err(error) =
            rustix::fs::lsetxattr(&shared_memory, MARK, mark.as_bytes(), rustix::fs::XattrFlags::empty())
    {
        tracing::debug!(%error, "the shared memory file cannot be marked; a loss of the WAL would go unnoticed");
    }
}

/// How much the shared memory file of a database that nobody has open says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It bears the mark of this boot and this mount, and is the file that was marked. A killed process left it: it is exact.
    Exact,
    /// It bears no mark and was changed after this boot, or it was marked while its disk was mounted another time. It may be a copy, or
    /// lie on a disk that was cut off or restored: then it is of some time before. SQLite syncs the WAL before it counts a frame here, so the WAL must have these frames or be of a newer
    /// generation; but it may have been truncated since.
    Earlier,
}

impl Trust {
    /// `None` where the file says nothing: it is not there, is from before this boot, or is a copy of one that was marked.
    fn of(shared_memory: &Path) -> Option<Self> {
        let mut found = [0_u8; 256];
        match rustix::fs::lgetxattr(shared_memory, MARK, &mut found) {
            Ok(length) => {
                let (found, mark) = (std::str::from_utf8(found.get(..length)?).ok()?, mark_of(shared_memory)?);
                if found == mark {
                    return Some(Self::Exact);
                }
                // The mount is the last part.
                let is_this_file = found.rsplit_once(' ')?.0 == mark.rsplit_once(' ')?.0;
                is_this_file.then_some(Self::Earlier)
            }
            Err(_) => {
                let changed = fs::symlink_metadata(shared_memory).ok()?.mtime();
                (changed >= boot_time()?).then_some(Self::Earlier)
            }
        }
    }
}

/// When this machine booted, in seconds since 1970.
fn boot_time() -> Option<i64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())
}

/// The mark of a file: this boot, which file it is, and which mount its disk is on. A copy of the file, or of its disk, is another
/// one.
fn mark_of(file: &Path) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let metadata = fs::symlink_metadata(file).ok()?;
    Some(format!("{} {} {} {}", boot.trim_end(), metadata.dev(), metadata.ino(), mount_of(file)))
}

/// The number of the mount that a file is on, which no other one gets before the next boot; 0 where the kernel is older than 6.8.
fn mount_of(file: &Path) -> u64 {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

        // STATX_MNT_ID_UNIQUE of linux/stat.h.
        const UNIQUE: u32 = 0x4000;
        let found = statx(CWD, file, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::from_bits_retain(UNIQUE));
        found.ok().filter(|it| it.stx_mask & UNIQUE != 0).map_or(0, |it| it.stx_mnt_id)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        0
    }
}

/// What the shared memory file says of the WAL: <https://www.sqlite.org/walformat.html#the_wal_index_file_format>
#[derive(Debug, PartialEq, Eq)]
struct Index {
    page_size: usize,
    /// Frames in the WAL that belong to committed transactions.
    frames: u32,
    /// Those of them whose pages the database file has.
    backfilled: u32,
    salt: [u8; 8],
}

impl Index {
    fn read(shared_memory: &Path) -> Option<Self> {
        let mut bytes = [0; 100];
        kept_files::open(shared_memory).ok()?.read_exact_at(&mut bytes, 0).ok()?;
        let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let is_whole = bytes[..48] == bytes[48..96] && bytes[12] == 1;
        // 1 stands for 65536.
        let page_size = match u16::from_ne_bytes([bytes[14], bytes[15]]) {
            1 => 65536,
            size => usize::from(size),
        };
        let is_page_size = page_size.is_power_of_two() && page_size >= 512;
        let salt = bytes[32..40].try_into().ok()?;
        (is_whole && is_page_size).then_some(Self { page_size, frames: number(16)?, backfilled: number(96)?, salt })
    }

    /// The least size of a WAL that has all frames.
    fn wal_bytes(&self) -> u64 {
        32 + u64::from(self.frames) * (24 + self.page_size as u64)
    }

    /// What a WAL lacks of what this says; `None` where it lacks nothing.
    fn lost(&self, wal: &Path, trust: Trust) -> Option<LostFrames> {
        if self.frames == 0 {
            return None;
        }
        let is_in_database = self.backfilled >= self.frames;
        let lost =
            |committed: u32| LostFrames { missing: self.frames - committed, frames: self.frames, is_in_database };
        match self.contents(wal) {
            Contents::OfNewerGeneration => None,
            Contents::Empty | Contents::OfAnotherDatabase if trust == Trust::Earlier => None,
            // SQLite would read these frames instead of what the database file holds by now.
            Contents::OfAnotherDatabase => Some(lost(0)),
            Contents::Committed(frames) if frames >= self.frames => None,
            // Nothing of the WAL hides a page of the database file, which has them all.
            Contents::Empty | Contents::Missing | Contents::Committed(0) if is_in_database => None,
            Contents::Empty | Contents::Missing => Some(lost(0)),
            Contents::Committed(frames) => Some(lost(frames)),
        }
    }

    fn contents(&self, wal: &Path) -> Contents {
        match open_file(wal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::Missing,
            // Locks of SQLite's are on the database and the shared memory file: this one may be opened and closed.
            Ok(wal) if wal.metadata().is_ok_and(|metadata| metadata.len() == 0) => Contents::Empty,
            Ok(wal) => self.read_contents(wal).unwrap_or(Contents::Committed(0)),
            Err(_) => Contents::Committed(0),
        }
    }

    /// Reads the WAL as SQLite does when it recovers; `None` where it has no whole header.
    fn read_contents(&self, wal: File) -> Option<Contents> {
        let word = |bytes: &[u8], at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let mut wal = BufReader::with_capacity(64 * 1024, wal);
        let mut header = [0; 32];
        wal.read_exact(&mut header).ok()?;
        let is_big_endian = word(&header, 0)? & 1 == 1;
        let mut sum = checksum(&header[..24], (0, 0), is_big_endian);
        if (sum.0, sum.1) != (word(&header, 24)?, word(&header, 28)?) {
            return None;
        }
        if header[16..24] != self.salt {
            let rises = word(&header, 16)?.wrapping_sub(word(&self.salt, 0)?);
            let is_newer = (1..=u32::MAX / 2).contains(&rises);
            return Some(if is_newer { Contents::OfNewerGeneration } else { Contents::OfAnotherDatabase });
        }
        let mut frame = vec![0; 24 + self.page_size];
        let mut committed = 0;
        for number in 1..=self.frames {
            if wal.read_exact(&mut frame).is_err() {
                break;
            }
            let (header, page) = frame.split_at(24);
            sum = checksum(page, checksum(&header[..8], sum, is_big_endian), is_big_endian);
            if header[8..16] != self.salt || Some(sum.0) != word(header, 16) || Some(sum.1) != word(header, 20) {
                break;
            }
            // The last frame of a transaction holds the size of the database after it.
            if word(header, 4)? > 0 {
                committed = number;
            }
        }
        Some(Contents::Committed(committed))
    }
}

/// What a WAL holds, seen from a shared memory file.
enum Contents {
    Missing,
    /// As a checkpoint that truncates leaves it.
    Empty,
    /// So many frames of whole transactions of its generation.
    Committed(u32),
    /// The WAL was restarted after the file was last written back.
    OfNewerGeneration,
    /// It is an older WAL, or one of another database.
    OfAnotherDatabase,
}

/// The checksum of the WAL: <https://www.sqlite.org/fileformat2.html#checksum_algorithm>
fn checksum(bytes: &[u8], (mut first, mut second): (u32, u32), is_big_endian: bool) -> (u32, u32) {
    let word = |bytes: [u8; 4]| if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for pair in bytes.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = pair else { continue };
        first = first.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(second);
        second = second.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(first);
    }
    (first, second)
}
