//! Whether an open database is still at its path, with the files beside it and the locks that this process took.
//!
//! SQLite works on open files, not on paths: a database that is moved, replaced or deleted is written on, and every update
//! in it is lost once the process ends. Looking costs a `stat` for each file. The files are never opened here: closing one
//! would drop this process's locks on it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::database::beside;
use crate::error::{Error, Result};

/// What identifies a file while it is open, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The identity of a file by its metadata.
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The identity of the file at a path; `None` where there is none. Links are not followed.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(Self::of(&metadata))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::io("find", path)(error)),
        }
    }
}

/// The files of the databases that this process has open, one entry for each time.
static OPEN: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

/// Of these, the databases on which the locks of this process were visible.
static SHOWN: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

/// Whether a file belongs to a database that this process has open, under whatever name it was found.
pub(crate) fn is_open_file(file: FileId) -> bool {
    lock(&OPEN).contains(&file)
}

/// The place of an open database.
pub(crate) struct Place {
    path: PathBuf,
    database: FileId,
    /// `-wal` and `-shm`, once they exist.
    beside: [(&'static str, OnceLock<FileId>); 2],
    /// The lock file that its owner holds, where a service owns the database.
    lock_file: OnceLock<(PathBuf, FileId)>,
    /// Set once the locks of this process were visible.
    shows_locks: OnceLock<()>,
    /// Why it is no longer written for good.
    lost: OnceLock<Lost>,
    recorded: Instant,
    /// When all files were last seen in their place, in nanoseconds since it was recorded.
    seen: AtomicU64,
}

/// What cannot come back while the database stays open.
#[derive(Debug, Clone)]
struct Lost {
    path: PathBuf,
    detail: &'static str,
}

impl Place {
    /// Records where a database is that was just opened.
    pub(crate) fn record(path: &Path) -> Result<Self> {
        let Some(database) = FileId::at(path)? else { return Err(moved(path, "it is gone")) };
        let place = Self {
            path: path.to_path_buf(),
            database,
            beside: [("-wal", OnceLock::new()), ("-shm", OnceLock::new())],
            lock_file: OnceLock::new(),
            shows_locks: OnceLock::new(),
            lost: OnceLock::new(),
            recorded: Instant::now(),
            seen: AtomicU64::new(0),
        };
        lock(&OPEN).push(database);
        Ok(place)
    }

    /// Adds the lock file of the service that owns the database: without it, another service may start.
    pub(crate) fn add_lock_file(&self, path: &Path, file: FileId) {
        let _ = self.lock_file.set((path.to_path_buf(), file));
    }

    /// Fails where another file is at the path of the database, or none. For reads.
    pub(crate) fn database_is_there(&self) -> Result<()> {
        match FileId::at(&self.path)? {
            Some(found) if found == self.database => Ok(()),
            Some(_) => Err(moved(&self.path, "another file has its name")),
            None => Err(moved(&self.path, "it is gone")),
        }
    }

    /// As [`files_are_there`](Self::files_are_there), but takes a look that somebody has had since then.
    pub(crate) fn files_are_there_since(&self, since: Instant) -> Result<()> {
        let since = since.saturating_duration_since(self.recorded).as_nanos();
        if self.lost.get().is_none() && u128::from(self.seen.load(Ordering::Acquire)) >= since {
            return Ok(());
        }
        self.files_are_there()
    }

    /// Fails where the database, a file beside it or the owner's lock file is gone or another one. For writes, while a
    /// connection for writing is open: SQLite keeps the files beside the database as long as that is.
    pub(crate) fn files_are_there(&self) -> Result<()> {
        let now = self.recorded.elapsed().as_nanos();
        self.look()?;
        self.seen.fetch_max(u64::try_from(now).unwrap_or(u64::MAX), Ordering::AcqRel);
        Ok(())
    }

    fn look(&self) -> Result<()> {
        if let Some(lost) = self.lost.get() {
            return Err(lost.error());
        }
        self.database_is_there()?;
        for (suffix, recorded) in &self.beside {
            let found = FileId::at(&beside(&self.path, suffix))?;
            match (recorded.get(), found) {
                (None, Some(found)) if recorded.set(found).is_ok() => lock(&OPEN).push(found),
                (Some(recorded), found) if found != Some(*recorded) => {
                    let detail = if found.is_some() { "another file has its name" } else { "it is gone" };
                    return Err(moved(&beside(&self.path, suffix), detail));
                }
                _ => {}
            }
        }
        match self.lock_file.get() {
            Some((path, file)) if FileId::at(path)? != Some(*file) => {
                // Where the whole directory was moved meanwhile, that is what happened.
                self.database_is_there()?;
                Err(self.lose(path, "the file was deleted or replaced, so that another service may have started"))
            }
            _ => Ok(()),
        }
    }

    /// Fails where this process no longer holds the locks by which SQLite keeps others from taking the database for
    /// unused. They are dropped when other code in the process closes one of the files. Only where they were visible
    /// before, as right after the database was opened, when this is called first.
    pub(crate) fn locks_are_held(&self) -> Result<()> {
        // The kernel hands `/proc/locks` out in pieces: while others take and drop locks, a look may miss one.
        const LOOKS: u32 = 20;
        const BETWEEN: Duration = Duration::from_millis(5);
        self.files_are_there()?;
        let shared_memory = beside(&self.path, "-shm");
        let mut missing = None;
        for look in 0..LOOKS {
            let Ok(locks) = fs::read_to_string("/proc/locks") else { return Ok(()) };
            missing = self.missing_lock(&locks, &shared_memory);
            // Where the same database is open already, SQLite takes the locks only once for both.
            match missing {
                None => {
                    if self.shows_locks.set(()).is_ok() {
                        lock(&SHOWN).push(self.database);
                    }
                    return Ok(());
                }
                Some(_) if !lock(&SHOWN).contains(&self.database) => return Ok(()),
                Some(_) if look + 1 < LOOKS => thread::sleep(BETWEEN),
                Some(_) => {}
            }
        }
        missing.map_or(Ok(()), |path| {
            self.files_are_there()?;
            Err(self.lose(path, "other code in this process has opened the file and closed it again"))
        })
    }

    /// The file on which this process holds no lock, by the content of `/proc/locks`.
    fn missing_lock<'p>(&'p self, locks: &str, shared_memory: &'p Path) -> Option<&'p Path> {
        let pid = std::process::id();
        let is_held = |file: Option<&FileId>, byte| file.is_some_and(|file| holds(locks, pid, file.inode, byte));
        let [_, (_, shared_memory_file)] = &self.beside;
        if !is_held(Some(&self.database), DATABASE_LOCK) {
            Some(&self.path)
        } else if !is_held(shared_memory_file.get(), SHARED_MEMORY_LOCK) {
            Some(shared_memory)
        } else {
            None
        }
    }

    /// From now on it is not written any more.
    fn lose(&self, path: &Path, detail: &'static str) -> Error {
        self.lost.get_or_init(|| Lost { path: path.to_path_buf(), detail }).error()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let files = self.beside.iter().filter_map(|(_, file)| file.get()).chain([&self.database]);
        files.for_each(|file| remove(&OPEN, file));
        if self.shows_locks.get().is_some() {
            remove(&SHOWN, &self.database);
        }
    }
}

impl Lost {
    fn error(&self) -> Error {
        Error::LockLost { path: self.path.clone(), detail: self.detail.to_owned() }
    }
}

fn moved(path: &Path, detail: &str) -> Error {
    Error::DatabaseMoved { path: path.to_path_buf(), detail: detail.to_owned() }
}

/// A byte of the database that a connection in WAL mode locks for as long as it is open (`SHARED_FIRST`).
const DATABASE_LOCK: u64 = 0x4000_0002;

/// The byte of the shared memory file that a process locks for as long as it has the file open (the "dead man switch").
const SHARED_MEMORY_LOCK: u64 = 128;

/// Whether a process holds a lock on a byte of a file, by the content of `/proc/locks`. Device numbers do not count:
/// overlay and btrfs report others than `stat` does.
fn holds(locks: &str, pid: u32, inode: u64, byte: u64) -> bool {
    locks.lines().any(|line| {
        // For instance `1: POSIX  ADVISORY  READ 4711 fe:00:123456 128 128`.
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "POSIX", _, _, holder, file, first, last] = words[..] else { return false };
        let number = |text: &str| text.parse::<u64>().ok();
        let last = if last == "EOF" { Some(u64::MAX) } else { number(last) };
        holder.parse() == Ok(pid)
            && file.rsplit(':').next().and_then(number) == Some(inode)
            && number(first).zip(last).is_some_and(|(first, last)| (first..=last).contains(&byte))
    })
}

/// Whether this process holds a lock on a file. To open and close such a file would drop it.
pub(crate) fn is_locked_here(file: FileId) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let (pid, inode) = (std::process::id().to_string(), format!(":{}", file.inode));
    locks.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], [_, "POSIX", _, _, holder, name, ..] if holder == pid && name.ends_with(&inode))
    })
}

/// Removes one entry of a file.
fn remove(files: &Mutex<Vec<FileId>>, file: &FileId) {
    let mut files = lock(files);
    if let Some(index) = files.iter().position(|it| it == file) {
        files.swap_remove(index);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_process_inode_and_byte() {
        let locks = "1: POSIX  ADVISORY  READ 4711 fe:00:77 128 128\n\
                     2: POSIX  ADVISORY  READ 4711 00:2b:78 1073741826 1073742335\n\
                     3: -> POSIX  ADVISORY  WRITE 4712 fe:00:77 128 128\n\
                     4: FLOCK  ADVISORY  WRITE 4713 fe:00:77 0 EOF\n\
                     5: POSIX  ADVISORY  WRITE 4714 fe:00:77 0 EOF\n";
        assert!(holds(locks, 4711, 77, SHARED_MEMORY_LOCK));
        assert!(holds(locks, 4711, 78, DATABASE_LOCK));
        assert!(holds(locks, 4714, 77, SHARED_MEMORY_LOCK), "up to the end of the file");
        assert!(!holds(locks, 4711, 77, SHARED_MEMORY_LOCK + 1));
        assert!(!holds(locks, 4711, 7, SHARED_MEMORY_LOCK), "another inode");
        assert!(!holds(locks, 4712, 77, SHARED_MEMORY_LOCK), "it waits");
        assert!(!holds(locks, 4713, 77, SHARED_MEMORY_LOCK), "another kind of lock");
        assert!(!holds("", 4711, 77, SHARED_MEMORY_LOCK));
    }
}
