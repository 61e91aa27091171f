//! Writing a database: in a transaction that callers share, or in one of its own.
//!
//! A call waits in one queue of threads, then in the queue of processes, then for SQLite's write lock; one deadline bounds all of
//! them (`write_timeout`), and [`Error::Busy`] says that nothing was changed. `Ok` means that the transaction is durable in a file
//! that still has its name. An error, or a panic in the closure, rolls back what the closure did. After a failed write, the WAL is
//! truncated where possible, to make room.

use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use rusqlite::Transaction;

use super::database::Database;
use super::group_commit::{Group, Part};
use super::writer::Writer;
use crate::error::{Error, Result};

/// How long the closure of a write may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Briefly: it is this library's own.
    Short,
    /// Without a known limit: it is a closure of the caller's.
    Unknown,
}

/// How long a caller waits for others to commit its work before it tries to do so itself.
const COMMIT_PATIENCE: Duration = Duration::from_millis(20);

/// How long a call that should not wait for others waits for SQLite's locks.
pub(super) const SHORT_BUSY_TIMEOUT: Duration = Duration::from_millis(50);

impl Database {
    /// Runs `work` in a write transaction, which it may share with others who write at the same time. When this returns `Ok`,
    /// the transaction is durable; else `work` left no trace.
    pub(crate) fn write_in_group<T, E: From<Error>>(
        &self,
        length: Work,
        work: impl FnOnce(&Part<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writing = self.begin_writing()?;
        let deadline = self.deadline();
        let mut writer = self.writer.lock_to_join(deadline).ok_or_else(|| self.busy())?;
        let conn = writer.open(&self.path, false)?;
        if length == Work::Unknown {
            // A caller whose work is done must not wait for a batch: it may take long, or wait for that caller.
            conn.commit();
        }
        let joined = self.require_files().map_err(Failed::Ours).and_then(|()| {
            conn.join(
                deadline,
                |conn| self.schema.require_writable(conn).map_err(Failed::Ours),
                |part| work(part).map_err(Failed::Theirs),
            )
        });
        // A waiting caller commits, or leaves it to the next one. Without one, or where the group is old, this caller commits.
        if !self.writer.has_waiting() || conn.is_due() {
            conn.commit();
        }
        self.wal_limit.apply(&self.path, conn);
        drop(writer);
        let failed = |error: rusqlite::Error| E::from(self.explain(error.into()));
        match joined {
            // What was committed to a file that has lost its name is not acknowledged.
            Ok((result, group)) => {
                let durable = self.outcome(&group).map_err(failed)?;
                // A look that another member of the group has had since then is as good.
                self.place.files_are_there_since(durable)?;
                Ok(result)
            }
            Err(Failed::Theirs(error)) => Err(error),
            Err(Failed::Ours(error)) => Err(self.explain(error).into()),
            Err(Failed::Sqlite(error)) => Err(failed(error)),
        }
    }

    /// Waits until a group's transaction is durable, or has failed. Where the caller that was to commit gave up, this one
    /// commits.
    fn outcome(&self, group: &Group) -> rusqlite::Result<Instant> {
        loop {
            if let Some(outcome) = group.outcome(COMMIT_PATIENCE) {
                return outcome;
            }
            self.writer.commit_within(COMMIT_PATIENCE);
        }
    }

    /// Fails before a write where the files are gone. Right after another write, which has looked, it is not looked again: what is
    /// written to a file that has lost its name just then is not acknowledged.
    fn require_files(&self) -> Result<()> {
        const RECENT: Duration = Duration::from_millis(5);
        match Instant::now().checked_sub(RECENT) {
            Some(since) => self.place.files_are_there_since(since),
            None => self.place.files_are_there(),
        }
    }

    /// As [`write`](Self::write), for work of this library's own: an error names the database and its kind.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.write(work).map_err(|error: Error| self.explain(error))
    }

    /// Runs `work` in a write transaction of its own. When this returns `Ok`, the transaction is durable; else it left no
    /// trace.
    pub(crate) fn write<T, E: From<Error>>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let _writing = self.begin_writing()?;
        let deadline = self.deadline();
        let mut writer = self.lock_writer(deadline)?;
        self.write_as(&mut writer, deadline, false, work)
    }

    /// As [`write`](Self::write), but does not wait where another caller writes.
    ///
    /// # Errors
    /// [`Error::Busy`] where one does.
    pub(crate) fn try_write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let _writing = self.begin_writing()?;
        let mut writer = self.writer.try_lock().ok_or_else(|| self.busy())?;
        self.write_as(&mut writer, Instant::now() + SHORT_BUSY_TIMEOUT, false, work)
            .map_err(|error: Error| self.explain(error))
    }

    /// As [`write`](Self::write), also while the database is being closed.
    pub(crate) fn write_while_closing<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let _writing = self.begin_writing()?;
        let deadline = self.deadline();
        let mut writer = self.lock_writer(deadline)?;
        self.write_as(&mut writer, deadline, true, work).map_err(|error: Error| self.explain(error))
    }

    fn write_as<T, E: From<Error>>(
        &self,
        writer: &mut Writer,
        deadline: Instant,
        closing: bool,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let writer = writer.open(&self.path, closing)?;
        let failed = |error: rusqlite::Error| self.explain(error.into());
        self.require_files()?;
        let transaction = writer.begin_alone(deadline).map_err(failed)?;
        self.schema.require_writable(&transaction).map_err(|error| self.explain(error))?;
        let outcome = match work(&transaction) {
            Ok(result) => transaction.commit().map(|()| result).map_err(|error| (true, failed(error).into())),
            Err(error) => {
                // As SQLite does where the disk is full.
                let was_rolled_back = transaction.is_autocommit();
                drop(transaction);
                Err((was_rolled_back, error))
            }
        };
        if let Err((true, _)) = &outcome {
            writer.make_room();
        }
        self.wal_limit.apply(&self.path, writer);
        let result = outcome.map_err(|(_, error)| error)?;
        self.place.files_are_there()?;
        Ok(result)
    }

    /// Waits for the writer.
    pub(super) fn lock_writer(&self, deadline: Instant) -> Result<MutexGuard<'_, Writer>> {
        self.writer.lock(deadline).ok_or_else(|| self.busy())
    }
}

/// How a caller's part of a shared transaction failed.
enum Failed<E> {
    Theirs(E),
    Ours(Error),
    Sqlite(rusqlite::Error),
}

impl<E> From<rusqlite::Error> for Failed<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
