//! Whether an open database is still at its path, with the files beside it and the locks that this process took.
//!
//! SQLite works on open files, not on paths: a database that is moved, replaced or deleted is written on, and every update
//! in it is lost once the process ends. Looking costs a `stat` for each file. The files are never opened here: closing one
//! would drop this process's locks on it.
//!
//! The lists behind the two mutexes are held only for a look. A file that is gone makes an update fail, and the next one looks
//! again, as the file may be moved back; a lock that is gone cannot come back, so every later update fails, too.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::state_dir::{
    FileId, FileLock, LockPresence, add_open_file, beside, remove_open_file, wait_for_locks_to_show,
};

/// The databases on which locks of this process were visible, one entry for each time that one is open.
static SHOWN: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

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
        add_open_file(database);
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

    /// As [`files_are_there`](Self::files_are_there), but accepts a look that any caller has taken since then.
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
                (None, Some(found)) if recorded.set(found).is_ok() => add_open_file(found),
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
        self.files_are_there()?;
        let shared_memory = beside(&self.path, "-shm");
        // Where the same database is open already, SQLite takes the locks only once for both.
        let were_never_shown = || !lock(&SHOWN).contains(&self.database);
        match wait_for_locks_to_show(|locks_on| self.missing_lock(locks_on, &shared_memory), were_never_shown) {
            LockPresence::Held if self.shows_locks.set(()).is_ok() => {
                lock(&SHOWN).push(self.database);
                Ok(())
            }
            LockPresence::Missing(path) if !were_never_shown() => {
                self.files_are_there()?;
                Err(self.lose(path, "other code in this process has opened the file and closed it again"))
            }
            _ => Ok(()),
        }
    }

    /// The file on which this process holds no lock, by one look at the locks on each.
    fn missing_lock<'p>(
        &'p self,
        locks_on: &dyn Fn(FileId) -> Vec<FileLock>,
        shared_memory: &'p Path,
    ) -> Option<&'p Path> {
        let is_held = |file: FileId, byte| locks_on(file).iter().any(|lock| lock.is_ours() && lock.covers(byte, byte));
        let [_, (_, shared_memory_file)] = &self.beside;
        if !is_held(self.database, DATABASE_LOCK) {
            Some(&self.path)
        } else if !shared_memory_file.get().is_some_and(|file| is_held(*file, SHARED_MEMORY_LOCK)) {
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
        files.for_each(|file| remove_open_file(*file));
        if self.shows_locks.get().is_some() {
            let mut shown = lock(&SHOWN);
            if let Some(index) = shown.iter().position(|file| *file == self.database) {
                shown.swap_remove(index);
            }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
