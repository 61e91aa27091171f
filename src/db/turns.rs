//! Fair turns between processes that write the same database.
//!
//! SQLite's write lock has no queue: a process that commits without a pause leaves it free for some microseconds, in which the others
//! have to ask. So there is a queue of one place in front of it: the kernel's lock on the file [`WRITERS_FILE`]. A process holds that place
//! while it asks for the write lock. A process that has written for longer than [`TURN`] has to pass the place before it goes on, and
//! so waits until the process in it has had the write lock.
//!
//! It is a courtesy, not a protection: other programs, such as the shell, do not know of it, and a process that stays in the place
//! without going on, because it is stopped, is passed by.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::deadline::{until, without_waiting};
use crate::state_dir::{WRITERS_FILE, private_file};

/// How long a process goes on writing before it lets others in.
const TURN: Duration = Duration::from_millis(20);

/// How long it waits for the place, and how long it passes by where that was not enough.
const PATIENCE: Duration = Duration::from_millis(500);
const PASSED_BY: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_micros(250);

/// This connection's turns.
pub(super) struct Turns {
    /// `None` where there is no such lock.
    file: Option<File>,
    /// When the turn ends that this process has.
    ends: Instant,
    passed_by_until: Instant,
}

impl Turns {
    pub(super) fn new(database: &Path) -> Self {
        let now = Instant::now();
        Self { file: open(database), ends: now, passed_by_until: now }
    }

    /// Begins a write transaction by `begin`, as soon as no other process writes.
    pub(super) fn begin<T>(
        &mut self,
        deadline: Instant,
        begin: impl Fn() -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if Instant::now() < self.ends {
            match without_waiting(&begin) {
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
                begun => return begun,
            }
        }
        let place = self.take_place(deadline);
        let begun = until(deadline, begin);
        drop(place);
        self.ends = Instant::now() + TURN;
        begun
    }

    /// Waits for the place; `None` where it is not to be had.
    fn take_place(&mut self, deadline: Instant) -> Option<Place<'_>> {
        let start = Instant::now();
        let file = self.file.as_ref().filter(|_| self.passed_by_until <= start)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Some(Place(file)),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    self.passed_by_until = Instant::now() + PASSED_BY;
                    return None;
                }
                // A file system without such locks.
                Err(TryLockError::Error(_)) => return None,
            }
        }
    }
}

/// The place in the queue, which is free again when this is dropped.
struct Place<'f>(&'f File);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "could not leave the queue of writers");
        }
    }
}

fn open(database: &Path) -> Option<File> {
    let path = database.with_file_name(WRITERS_FILE);
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path);
    let is_private = |file: &File| file.metadata().is_ok_and(|metadata| metadata.mode() & 0o777 == 0o600);
    file.and_then(|file| {
        // Whatever the umask.
        if !is_private(&file) {
            file.set_permissions(private_file())?;
        }
        Ok(file)
    })
    .inspect_err(|error| tracing::debug!(%error, "writes take no turns with other processes"))
    .ok()
}
