//! The writing connection of a database, and the queue of threads in front of it.
//!
//! The queue is a fair mutex that takes a deadline. Closing a database changes the state behind it, so a caller that comes later
//! gets an error that says why. A panic in a caller's closure rolls its transaction back; the connection stays usable.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::group_commit::GroupConnection;
use crate::error::{Error, Result};

/// The queue of writing threads.
pub(super) struct WriterQueue {
    writer: Mutex<Writer>,
    /// How many callers wait to join a group: each of them comes to the writer, or gives up at its deadline.
    waiting_writers: AtomicUsize,
}

/// The state of the writing connection.
pub(super) enum Writer {
    Open(GroupConnection),
    /// Only what belongs to closing is still written.
    Closing(GroupConnection, Closed),
    ReadOnly,
    Closed(Closed),
}

impl Writer {
    /// The connection, or the error that says why there is none. `closing` is for the last writes of a database that is being closed.
    pub(super) fn open(&mut self, path: &Path, closing: bool) -> Result<&mut GroupConnection> {
        let path = path.to_path_buf();
        match self {
            Self::Open(conn) => Ok(conn),
            Self::Closing(conn, _) if closing => Ok(conn),
            Self::ReadOnly => Err(Error::ReadOnly { path, detail: "it was opened for reading only".into() }),
            Self::Closing(_, why) | Self::Closed(why) => {
                let path = path.parent().unwrap_or(&path).to_path_buf();
                Err(match why {
                    Closed::TakenOver => Error::TakenOver { path },
                    Closed::ShutDown => Error::ShutDown { path },
                })
            }
        }
    }
}

/// Why a database is no longer written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    TakenOver,
    ShutDown,
}

impl WriterQueue {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer: Mutex::new(writer), waiting_writers: AtomicUsize::new(0) }
    }

    /// Waits for the writer until the deadline.
    pub(super) fn lock(&self, deadline: Instant) -> Option<MutexGuard<'_, Writer>> {
        self.writer.try_lock_until(deadline)
    }

    /// As [`lock`](Self::lock); meanwhile, [`has_waiting`](Self::has_waiting) counts this caller.
    pub(super) fn lock_to_join(&self, deadline: Instant) -> Option<MutexGuard<'_, Writer>> {
        self.waiting_writers.fetch_add(1, Ordering::SeqCst);
        let writer = self.writer.try_lock_until(deadline);
        self.waiting_writers.fetch_sub(1, Ordering::SeqCst);
        writer
    }

    /// The writer where it is free.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Writer>> {
        self.writer.try_lock()
    }

    /// Whether a caller is sure to come to the writer.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting_writers.load(Ordering::SeqCst) > 0
    }

    /// Commits what a group has left open, where the writer is free within that time.
    pub(super) fn commit_within(&self, patience: Duration) {
        if let Some(mut writer) = self.writer.try_lock_for(patience)
            && let Writer::Open(conn) | Writer::Closing(conn, _) = &mut *writer
        {
            conn.commit();
        }
    }

    /// Refuses all further writes, after the one in progress, except the last ones of a database that is being closed.
    pub(super) fn begin_closing(&self, why: Closed) {
        let mut writer = self.writer.lock();
        *writer = match std::mem::replace(&mut *writer, Writer::ReadOnly) {
            Writer::Open(mut conn) => {
                conn.commit();
                Writer::Closing(conn, why)
            }
            other => other,
        };
    }

    /// Allows writes again, after closing failed.
    pub(super) fn cancel_closing(&self) {
        let mut writer = self.writer.lock();
        *writer = match std::mem::replace(&mut *writer, Writer::ReadOnly) {
            Writer::Closing(conn, _) => Writer::Open(conn),
            other => other,
        };
    }

    /// Closes the connection, after the write in progress.
    pub(super) fn close(&self, why: Closed) {
        *self.writer.lock() = Writer::Closed(why);
    }
}
