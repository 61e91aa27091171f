//! An open database: one writer and a pool of readers.
//!
//! This file opens, reads and closes; `write` and `maintenance` add what writes.
//!
//! Locking: a writing call takes, in this order, the queue of threads ([`super::writer`]), the queue of processes
//! ([`super::turns`]), and SQLite's write lock. A reader takes none of them: it holds the gate of [`super::wal_limit`] shared and
//! has a read transaction of its own, so that it never waits for a writer for longer than 100 ms. `docs/locking.md` has all locks.
//!
//! Failure: a database that was moved, replaced or deleted while it was open is neither read nor written on ([`super::place`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::{self, Durability};
use super::create::create;
use super::deadline::BUSY_TIMEOUT;
use super::existing::{exists, open_existing, require_one_name, require_whole_wal};
use super::foreign::{Traces, refuse_foreign};
use super::group_commit::GroupConnection;
use super::migrations::{self, MigrationStatus};
use super::nested_write::{Writing, begin_writing};
use super::place::Place;
use super::readers::Readers;
use super::schema_guard::SchemaGuard;
use super::verify::confirm_damage;
use super::wal_limit::WalLimit;
use super::wal_loss::mark_shared_memory;
use super::writer::{Closed, Writer, WriterQueue};
use crate::error::{Error, Result};
use crate::progress::ProgressCallback;

/// An open database.
pub(crate) struct Database {
    pub(super) path: PathBuf,
    readers: Readers,
    write_timeout: Duration,
    /// After the readers, so that it is dropped last: a writing connection that closes last removes the WAL.
    pub(super) writer: WriterQueue,
    pub(super) wal_limit: WalLimit,
    /// Where its files are.
    pub(super) place: Place,
    pub(super) schema: SchemaGuard,
    /// Of a database that is only read; dropped after its connections.
    _traces: Option<Traces>,
}

impl Database {
    /// Opens the database for reading and writing; makes it where there is none, and upgrades it where it is behind.
    /// Before an upgrade, `before_upgrade` is called without the write lock; it returns a closure that is called under it.
    pub(crate) fn open<B: FnOnce() -> Result<()>>(
        path: &Path,
        durability: Durability,
        readers: u32,
        progress: &ProgressCallback,
        before_upgrade: impl FnOnce() -> Result<B>,
    ) -> Result<Self> {
        // Its reads are plain ones: what it finds needs no second look.
        refuse_foreign(path)?;
        open_writer(path, durability, progress, before_upgrade)
            .and_then(|writer| Self::with(path, Writer::Open(GroupConnection::new(writer, path)), readers, None))
            // From now on the locks can be compared.
            .and_then(|database| database.place.locks_are_held().map(|()| database))
            .map_err(|error| confirm_damage(error.with_path(path)))
    }

    /// Opens an existing database, at this release's schema, for reading only.
    pub(crate) fn open_read_only(path: &Path, readers: u32) -> Result<Self> {
        refuse_foreign(path)?;
        let open = || {
            let traces = Traces::before_reading(path);
            drop(open_existing(path)?);
            let database = Self::with(path, Writer::ReadOnly, readers, Some(traces))?;
            database.read(|_| Ok(()))?;
            Ok(database)
        };
        open().map_err(confirm_damage)
    }

    /// Opens an existing database of ours, whatever its schema, to be replaced and for nothing else.
    pub(crate) fn open_to_replace(path: &Path) -> Result<Self> {
        let open = || {
            refuse_foreign(path)?;
            require_one_name(path)?;
            let traces = Traces::before_reading(path);
            drop(open_existing(path)?);
            drop(traces);
            let writer = connection::open_writer(path)?;
            migrations::require_ours(&writer, path)?;
            connection::configure_writer(&writer, Durability::Full)?;
            Self::with(path, Writer::Open(GroupConnection::new(writer, path)), 1, None)
        };
        open().map_err(|error: Error| error.with_path(path))
    }

    /// Which migrations a database has had and is to get.
    pub(crate) fn migration_status(path: &Path) -> Result<MigrationStatus> {
        let status = |mut conn: Connection| migrations::release().status(&*conn.transaction()?, path);
        refuse_foreign(path)?;
        let _traces = Traces::before_reading(path);
        open_existing(path).and_then(status).map_err(|error| confirm_damage(error.with_path(path)))
    }

    fn with(path: &Path, writer: Writer, max_readers: u32, traces: Option<Traces>) -> Result<Self> {
        if matches!(writer, Writer::Open(_)) {
            mark_shared_memory(path);
        }
        Ok(Self {
            path: path.to_path_buf(),
            readers: Readers::new(path, max_readers)?,
            write_timeout: BUSY_TIMEOUT,
            writer: WriterQueue::new(writer),
            wal_limit: WalLimit::new(),
            place: Place::record(path)?,
            schema: SchemaGuard::new(path),
            _traces: traces,
        })
    }

    /// Runs `work` in a read transaction, which sees one snapshot. Waits for a free connection at most half a minute.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        // A connection that is opened now would read another file.
        self.place.database_is_there()?;
        if !self.readers.is_open() {
            return self.read_on_own_connection(work);
        }
        let _gate = self.wal_limit.enter();
        match self.readers.get()? {
            Some(mut conn) => self.read_on(&mut conn, work),
            // Closed in between.
            None => self.read_on_own_connection(work),
        }
    }

    /// As [`read`](Self::read), on a connection of its own: for what may take as long as a caller likes, such as writing to a
    /// caller's sink, and must not keep others from reading.
    pub(crate) fn read_on_own_connection<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read_on_prepared_connection(|_| Ok(()), |conn, ()| work(conn))
    }

    fn read_on<T>(&self, conn: &mut Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        conn.transaction()
            .map_err(Error::from)
            .and_then(|transaction| {
                self.schema.require_latest(&transaction)?;
                work(&transaction)
            })
            .map_err(|error| self.explain(error))
    }

    /// As [`read`](Self::read), on a connection of its own, which `prepare` gets first. The search index keeps its structure in
    /// the memory of a connection, and a check of one that is older than the snapshot reports damage that is not there.
    pub(crate) fn read_on_prepared_connection<P, T>(
        &self,
        prepare: impl FnOnce(&Connection) -> Result<P>,
        work: impl FnOnce(&Connection, P) -> Result<T>,
    ) -> Result<T> {
        self.place.database_is_there()?;
        let mut conn = connection::open_reader(&self.path).map_err(|error| self.explain(error))?;
        let prepared = prepare(&conn).map_err(|error| self.explain(error))?;
        self.read_on(&mut conn, |conn| work(conn, prepared))
    }

    /// Fails where this database cannot be written, even while it is being closed.
    pub(crate) fn require_writable(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        self.lock_writer(self.deadline())?.open(&self.path, true).map(drop)
    }

    /// Fails where this thread is writing this database already: it would wait for itself.
    pub(crate) fn refuse_nested_write(&self) -> Result<()> {
        self.begin_writing().map(drop)
    }

    /// Refuses all further writes, after the one in progress, except the last ones of a database that is being closed.
    pub(crate) fn begin_closing(&self, why: Closed) {
        self.writer.begin_closing(why);
    }

    /// Allows writes again, after closing failed.
    pub(crate) fn cancel_closing(&self) {
        self.writer.cancel_closing();
    }

    /// Closes the writing connection, after the write in progress, and the readers that are idle. Every later write fails and
    /// says why.
    pub(crate) fn close_writer(&self, why: Closed) {
        // Readers first: a writing connection that closes last removes the WAL.
        self.readers.close();
        self.writer.close(why);
    }

    #[cfg(test)]
    pub(super) fn has_waiting_writers(&self) -> bool {
        self.writer.has_waiting()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its place, to add the lock file of a service.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Fails where its files or this process's locks are gone, as long as it is open for writing.
    pub(crate) fn require_in_place(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        match *self.lock_writer(self.deadline())? {
            Writer::Open(_) | Writer::Closing(..) => {
                self.place.files_are_there().and_then(|()| self.place.locks_are_held())
            }
            Writer::ReadOnly | Writer::Closed(_) => Ok(()),
        }
    }

    /// Notes that this thread writes this database.
    pub(super) fn begin_writing(&self) -> Result<Writing> {
        begin_writing(self).ok_or_else(|| Error::NestedWrite { path: self.path.clone() })
    }

    /// Sets how long a write waits for others.
    pub(crate) fn set_write_timeout(&mut self, timeout: Duration) {
        self.write_timeout = timeout;
    }

    /// The deadline of a write that begins now. A time-out beyond what a clock can represent counts as a year.
    pub(super) fn deadline(&self) -> Instant {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        Instant::now() + self.write_timeout.min(YEAR)
    }

    pub(super) fn busy(&self) -> Error {
        Error::Busy { path: self.path.clone() }
    }

    /// Names the database in an error of SQLite and classifies it.
    pub(crate) fn explain(&self, error: Error) -> Error {
        self.schema.explain(error)
    }
}

fn open_writer<B: FnOnce() -> Result<()>>(
    path: &Path,
    durability: Durability,
    progress: &ProgressCallback,
    before_upgrade: impl FnOnce() -> Result<B>,
) -> Result<Connection> {
    if !exists(path)? {
        create(path)?;
    }
    require_one_name(path)?;
    require_whole_wal(path)?;
    let mut conn = connection::open_writer(path)?;
    migrations::release().migrate(&mut conn, path, progress, before_upgrade)?;
    connection::configure_writer(&conn, durability)?;
    // The first read takes the locks that the connection holds from then on.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(conn)
}
