//! The kernel's list of file locks, `/proc/locks`: the one reader of it, and the one rule for how often it is read.
//!
//! The kernel hands the list out in pieces: while others take and drop locks, one look may miss a lock that is held. It never
//! shows one that is not. So one look proves that a lock is held. That it is gone, or that a process keeps it, takes
//! [`LOOKS`] looks: it is gone where none of them shows it, and a process keeps it where two thirds of them do.
//!
//! Overlay and btrfs report other device numbers than `stat` does. So a lock is found by its inode, and [`FileLock`] says
//! whether the device is the same as well: for locks of other processes that matters, as another file system may have a file of
//! that number. Where `/proc` cannot be read, no lock is known. Nothing here opens the file: closing it would drop locks.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use super::file_id::FileId;

/// How many looks are needed to conclude that a lock is gone, or that a process keeps it, and the pause between two.
const LOOKS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(5);

/// In how many of these looks a lock of a process is that keeps it.
const LASTING: u32 = LOOKS * 2 / 3;

/// A POSIX lock that a process holds on a file, as `/proc/locks` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileLock {
    /// The process; in `/proc` of another container it has another number.
    pub(crate) pid: u32,
    /// Whether it is shared; else it is exclusive.
    pub(crate) is_read: bool,
    first: u64,
    last: u64,
    is_same_device: bool,
}

impl FileLock {
    /// Whether the lock covers one of these bytes.
    pub(crate) fn covers(&self, first: u64, last: u64) -> bool {
        self.first <= last && self.last >= first
    }

    /// Whether this process holds it.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }
}

/// The result of waiting for locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockPresence<T> {
    Held,
    /// What was missing in the last look.
    Missing(T),
    /// `/proc/locks` cannot be read.
    Unknown,
}

/// The POSIX locks on a file in one look; `None` where `/proc/locks` cannot be read. A lock that is held may be missing.
pub(crate) fn locks_on(file: FileId) -> Option<Vec<FileLock>> {
    Some(parse(&fs::read_to_string("/proc/locks").ok()?, file))
}

/// Looks until `missing` finds nothing missing. `gives_up` ends the wait after a look that was in vain.
pub(crate) fn wait_for_locks_to_show<T>(
    missing: impl Fn(&dyn Fn(FileId) -> Vec<FileLock>) -> Option<T>,
    gives_up: impl Fn() -> bool,
) -> LockPresence<T> {
    let mut look = 1;
    loop {
        let Ok(list) = fs::read_to_string("/proc/locks") else { return LockPresence::Unknown };
        match missing(&|file| parse(&list, file)) {
            None => return LockPresence::Held,
            Some(missing) if look == LOOKS || gives_up() => return LockPresence::Missing(missing),
            Some(_) => {}
        }
        look += 1;
        thread::sleep(BETWEEN);
    }
}

/// Processes that keep a lock on a file which `counts`.
pub(crate) fn lasting_lock_holders(file: FileId, counts: impl Fn(&FileLock) -> bool) -> Vec<u32> {
    let mut seen = BTreeMap::<u32, u32>::new();
    for look in 0..LOOKS {
        if look > 0 {
            thread::sleep(BETWEEN);
        }
        let locks = locks_on(file).unwrap_or_default();
        let mut holders: Vec<_> =
            locks.iter().filter(|lock| lock.is_same_device && counts(lock)).map(|lock| lock.pid).collect();
        holders.sort_unstable();
        holders.dedup();
        holders.into_iter().for_each(|pid| *seen.entry(pid).or_default() += 1);
    }
    seen.into_iter().filter(|(_, looks)| *looks >= LASTING).map(|(pid, _)| pid).collect()
}

/// The locks on a file in the content of `/proc/locks`.
fn parse(list: &str, file: FileId) -> Vec<FileLock> {
    // As the kernel prints it: glibc's encoding of a device number, taken apart.
    let major = (file.device >> 8) & 0xfff | (file.device >> 32) & !0xfff;
    let minor = file.device & 0xff | (file.device >> 12) & !0xff;
    let lock = |line: &str| {
        // For instance `1: POSIX  ADVISORY  READ 4711 fe:00:123456 128 128`. A process that waits has `->` before `POSIX`.
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "POSIX", _, mode, pid, name, first, last] = words[..] else { return None };
        let (device, inode) = name.rsplit_once(':')?;
        if inode.parse() != Ok(file.inode) {
            return None;
        }
        let last = if last == "EOF" { u64::MAX } else { last.parse().ok()? };
        Some(FileLock {
            pid: pid.parse().ok()?,
            is_read: mode == "READ",
            first: first.parse().ok()?,
            last,
            is_same_device: device == format!("{major:02x}:{minor:02x}"),
        })
    };
    list.lines().filter_map(lock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_found_by_inode() {
        let list = "1: POSIX  ADVISORY  READ 4711 fe:00:77 128 128\n\
                    2: POSIX  ADVISORY  READ 4711 00:2b:78 1073741826 1073742335\n\
                    3: -> POSIX  ADVISORY  WRITE 4712 fe:00:77 128 128\n\
                    4: FLOCK  ADVISORY  WRITE 4713 fe:00:77 0 EOF\n\
                    5: POSIX  ADVISORY  WRITE 4714 00:2b:77 0 EOF\n\
                    6: OFDLCK ADVISORY  READ -1 fe:00:77 124 124\n\
                    no lock\n";
        let file = |inode| FileId { device: 0xfe00, inode };
        let lock = |pid, is_read, first, last, is_same_device| FileLock { pid, is_read, first, last, is_same_device };
        // Neither a process that waits, nor another kind of lock.
        assert_eq!(parse(list, file(77)), [lock(4711, true, 128, 128, true), lock(4714, false, 0, u64::MAX, false)]);
        assert_eq!(parse(list, file(78)), [lock(4711, true, 1_073_741_826, 1_073_742_335, false)]);
        assert_eq!(parse(list, file(7)), [], "another inode");
        assert_eq!(parse("", file(77)), []);
    }

    #[test]
    fn a_range_covers_its_ends() {
        let lock = FileLock { pid: 1, is_read: true, first: 120, last: 123, is_same_device: true };
        assert!(lock.covers(123, 127) && lock.covers(100, 120) && lock.covers(121, 121));
        assert!(!lock.covers(124, 127) && !lock.covers(100, 119));
    }

    #[test]
    fn a_lock_that_one_look_misses_counts_as_held() {
        let looks = std::cell::Cell::new(0);
        let missing = |_: &dyn Fn(FileId) -> Vec<FileLock>| {
            looks.set(looks.get() + 1);
            (looks.get() < 3).then_some("missing")
        };
        assert_eq!(wait_for_locks_to_show(missing, || false), LockPresence::Held);
        assert_eq!(looks.get(), 3);
        assert_eq!(wait_for_locks_to_show(|_| Some(1), || true), LockPresence::Missing(1));
    }
}
