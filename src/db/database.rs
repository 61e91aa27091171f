use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::backup;
use super::connection::{self, Durability};
use super::deadline::{BUSY_TIMEOUT, until};
use super::disk::require_readable;
use super::foreign::{self, Traces, refuse_foreign};
use super::group::{Group, GroupConnection, Part};
use super::lost_log::{lost_frames, mark_shared_memory};
use super::migrations::{self, MigrationStatus};
use super::place::Place;
use super::schema;
use super::shield::Shield;
use crate::directory::{self, sync_directory};
use crate::error::{Error, Result};
use crate::progress::ProgressCallback;
use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard, RwLock};
use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, Transaction};
use tempfile::NamedTempFile;

/// An open database: one writer and a pool of readers.
///
/// Locks, in the order in which they are taken: the writer (in a queue that is fair, at most `write_timeout` for a call and all that it waits for), the place in
/// the queue of processes ([`super::turns`]), SQLite's write lock. A reader takes none of them. `gate` is held shared by every reader,
/// and exclusively, for a moment, by a writer that starts the WAL over; neither waits for the other for long.
pub(crate) struct Database {
    path: PathBuf,
    /// `None` once it is no longer written: each read then opens a connection of its own. A connection that stayed open would keep
    /// the WAL beside a database that counts as closed, and SQLite's notes of locks that are gone once other code in this
    /// process reads the file, as for a copy.
    readers: RwLock<Option<Pool<SqliteConnectionManager>>>,
    max_readers: u32,
    write_timeout: Duration,
    /// After the readers, so that it is closed last: a writing connection that closes last tidies the WAL away.
    writer: Mutex<Writer>,
    /// How many callers wait for the writer to join a group: each of them comes to it, or gives up at its deadline.
    waiting_writers: AtomicUsize,
    gate: RwLock<()>,
    /// When the WAL may be started over again, and the pause after that.
    next_restart: Mutex<(Instant, Duration)>,
    commits: AtomicU32,
    /// SQLite's counter of schema changes, as it was when the schema was last found to be the latest.
    schema_cookie: AtomicI64,
    /// Where its files are.
    place: Place,
    /// What keeps a person's objects out of the writer's transactions.
    shield: Shield,
    /// Of a database that is only read; dropped after its connections.
    _traces: Option<Traces>,
}

thread_local! {
    /// The databases that this thread is writing, by their addresses.
    static WRITING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes that this thread writes a database, until it is dropped.
struct Writing;

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.with_borrow_mut(Vec::pop);
    }
}

/// How long the work of one caller takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Not long: it is this library's own.
    Short,
    /// Nobody knows: it is a closure of the caller's.
    Unknown,
}

/// How long a caller waits for others to commit its work before it tries to do so itself.
const COMMIT_PATIENCE: Duration = Duration::from_millis(20);

/// The WAL is started over at this size. Its size is looked at once in this number of commits.
const LARGE_WAL: u64 = 16 * 1024 * 1024;
const COMMITS_BETWEEN: u32 = 8;

/// How long new readers wait while the WAL is started over, and how long that waits for readers who are there.
const GATE_PATIENCE: Duration = Duration::from_millis(100);
const RESTART_PATIENCE: Duration = Duration::from_millis(50);

/// How long after that it is tried again: at first, and at most after it has failed several times, as beside a long read.
const SHORT_RESTART_PAUSE: Duration = Duration::from_millis(100);
const LONG_RESTART_PAUSE: Duration = Duration::from_secs(5);

enum Writer {
    Open(GroupConnection),
    /// Only what belongs to closing is still written.
    Closing(GroupConnection, Closed),
    ReadOnly,
    Closed(Closed),
}

impl Writer {
    /// The connection, or why there is none. `closing` is what belongs to closing.
    fn open(&mut self, path: &Path, closing: bool) -> Result<&mut GroupConnection> {
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

impl Database {
    /// Opens the database for reading and writing; makes it where there is none, upgrades it where it is behind, after
    /// `before_upgrade`, which is called without the write lock and returns what is called under it.
    pub(crate) fn open<B: FnOnce() -> Result<()>>(
        path: &Path,
        durability: Durability,
        readers: u32,
        progress: &ProgressCallback,
        before_upgrade: impl FnOnce() -> Result<B>,
    ) -> Result<Self> {
        refuse_foreign(path)
            .and_then(|()| open_writer(path, durability, progress, before_upgrade))
            .and_then(|writer| Self::with(path, Writer::Open(GroupConnection::new(writer, path)), readers, None))
            // From now on the locks can be compared.
            .and_then(|database| database.place.locks_are_held().map(|()| database))
            .map_err(|error| tell_from_failed_read(error.at(path)))
    }

    /// Opens an existing database, at this release's schema, for reading only.
    pub(crate) fn open_read_only(path: &Path, readers: u32) -> Result<Self> {
        let open = || {
            refuse_foreign(path)?;
            let traces = Traces::before_reading(path);
            drop(open_existing(path)?);
            let database = Self::with(path, Writer::ReadOnly, readers, Some(traces))?;
            database.read(|_| Ok(()))?;
            Ok(database)
        };
        match open() {
            // SQLite says so, too, where the disk has failed to read.
            Err(Error::Corrupt { .. } | Error::NotAStateDatabase { .. } | Error::HistoryDamaged { .. }) => {
                require_readable(path)?;
                open()
            }
            other => other,
        }
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
        open().map_err(|error: Error| error.at(path))
    }

    /// Which migrations a database has had and is to get.
    pub(crate) fn migration_status(path: &Path) -> Result<MigrationStatus> {
        let status = |mut conn: Connection| migrations::release().status(&*conn.transaction()?, path);
        refuse_foreign(path)?;
        let _traces = Traces::before_reading(path);
        open_existing(path).and_then(status).map_err(|error| tell_from_failed_read(error.at(path)))
    }

    fn with(path: &Path, writer: Writer, max_readers: u32, traces: Option<Traces>) -> Result<Self> {
        let max_readers = max_readers.max(1);
        let manager = SqliteConnectionManager::file(path)
            .with_flags(connection::READ_ONLY)
            .with_init(|conn| connection::configure_reader(conn).map_err(sqlite_error));
        let readers = Pool::builder()
            .max_size(max_readers)
            .min_idle(Some(0))
            // Connections are never replaced: what looks after that keeps the pool's threads for half a minute after its end.
            .max_lifetime(None)
            .idle_timeout(None)
            // Each read asks the connection something at once; a separate question would only cost time.
            .test_on_check_out(false)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(manager);
        if matches!(writer, Writer::Open(_)) {
            mark_shared_memory(path);
        }
        Ok(Self {
            path: path.to_path_buf(),
            readers: RwLock::new(Some(readers)),
            max_readers,
            write_timeout: BUSY_TIMEOUT,
            writer: Mutex::new(writer),
            waiting_writers: AtomicUsize::new(0),
            gate: RwLock::new(()),
            next_restart: Mutex::new((Instant::now(), SHORT_RESTART_PAUSE)),
            commits: AtomicU32::new(0),
            schema_cookie: AtomicI64::new(-1),
            place: Place::record(path)?,
            shield: Shield::default(),
            _traces: traces,
        })
    }

    /// Fails where the schema is not the latest, as a newer release's upgrade leaves it under a process that still runs.
    /// To be asked inside a transaction.
    fn require_latest_schema(&self, conn: &Connection) -> Result<()> {
        let cookie = conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        if self.schema_cookie.load(Ordering::Relaxed) != cookie {
            migrations::release().require_latest(conn, &self.path)?;
            self.schema_cookie.store(cookie, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As [`require_latest_schema`](Self::require_latest_schema), for a transaction that writes.
    fn require_writable_schema(&self, conn: &Connection) -> Result<()> {
        self.require_latest_schema(conn)?;
        self.shield.raise(conn, &self.path)
    }

    /// Runs `work` in a read transaction: all that it reads is of one snapshot.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        // A connection that is opened now would read another file.
        self.place.database_is_there()?;
        let Some(readers) = self.readers.read().clone() else { return self.read_apart(work) };
        // A reader that comes while the WAL is to be started over waits a moment, so that there is one without readers.
        let _gate = self.gate.try_read_for(GATE_PATIENCE);
        // r2d2 turns the failure to open a connection into a text; opening one directly tells the kind.
        let mut conn = match readers.get_timeout(BUSY_TIMEOUT / 2) {
            Ok(conn) => conn,
            Err(error) => {
                drop(open_existing(&self.path)?);
                tracing::warn!(%error, "no connection for reading became free");
                return Err(Error::TooManyReaders { path: self.path.clone(), max_readers: self.max_readers });
            }
        };
        self.read_on(&mut conn, work)
    }

    /// As [`read`](Self::read), on a connection of its own: for what may take as long as a caller likes, such as writing to a
    /// caller's sink, and must not keep others from reading.
    pub(crate) fn read_apart<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read_anew(|_| Ok(()), |conn, ()| work(conn))
    }

    fn read_on<T>(&self, conn: &mut Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        conn.transaction()
            .map_err(Error::from)
            .and_then(|transaction| {
                self.require_latest_schema(&transaction)?;
                work(&transaction)
            })
            .map_err(|error| self.explain(error))
    }

    /// As [`read`](Self::read), on a connection of its own, which `prepare` gets first. The search index keeps its structure in
    /// the memory of a connection, and a check of one that is older than the snapshot reports damage that is not there.
    pub(crate) fn read_anew<P, T>(
        &self,
        prepare: impl FnOnce(&Connection) -> Result<P>,
        work: impl FnOnce(&Connection, P) -> Result<T>,
    ) -> Result<T> {
        self.place.database_is_there()?;
        let mut conn = connection::open_reader(&self.path).map_err(|error| self.explain(error))?;
        let prepared = prepare(&conn).map_err(|error| self.explain(error))?;
        self.read_on(&mut conn, |conn| work(conn, prepared))
    }

    /// Runs `work` in a write transaction, which it may share with others who write at the same time. When this returns `Ok`,
    /// the transaction is durable; else `work` left no trace.
    pub(crate) fn write_in_group<T, E: From<Error>>(
        &self,
        length: Work,
        work: impl FnOnce(&Part<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writing = self.begin_writing()?;
        let deadline = self.deadline();
        self.waiting_writers.fetch_add(1, Ordering::SeqCst);
        let writer = self.writer.try_lock_until(deadline);
        self.waiting_writers.fetch_sub(1, Ordering::SeqCst);
        let mut writer = writer.ok_or_else(|| self.busy())?;
        let conn = writer.open(&self.path, false)?;
        if length == Work::Unknown {
            // A caller whose work is done must not wait for a batch: it may take long, or wait for that caller.
            conn.commit();
        }
        let joined = self.require_files().map_err(Failed::Ours).and_then(|()| {
            conn.join(
                deadline,
                |conn| self.require_writable_schema(conn).map_err(Failed::Ours),
                |part| work(part).map_err(Failed::Theirs),
            )
        });
        // A waiting caller commits, or leaves it to the next one. Without one, or where the group is old, this caller commits.
        if self.waiting_writers.load(Ordering::SeqCst) == 0 || conn.is_due() {
            conn.commit();
        }
        self.limit_wal(conn);
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

    /// Waits until a group's transaction is durable, or has failed. Where the one to whom the commit was left gave up, this
    /// caller commits.
    fn outcome(&self, group: &Group) -> rusqlite::Result<Instant> {
        loop {
            if let Some(outcome) = group.outcome(COMMIT_PATIENCE) {
                return outcome;
            }
            if let Some(mut writer) = self.writer.try_lock_for(COMMIT_PATIENCE)
                && let Writer::Open(conn) | Writer::Closing(conn, _) = &mut *writer
            {
                conn.commit();
            }
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

    /// Starts the WAL over where it has become large: readers that overlap without a gap would let it grow without bound.
    fn limit_wal(&self, conn: &mut GroupConnection) {
        if !self.commits.fetch_add(1, Ordering::Relaxed).is_multiple_of(COMMITS_BETWEEN)
            || fs::metadata(beside(&self.path, "-wal")).is_ok_and(|wal| wal.len() < LARGE_WAL)
        {
            return;
        }
        let mut next_restart = self.next_restart.lock();
        if Instant::now() < next_restart.0 {
            return;
        }
        let restarted = self.gate.try_write_for(RESTART_PATIENCE).is_some_and(|_gate| {
            until(Instant::now() + RESTART_PATIENCE, || {
                let busy = conn.alone().query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, bool>(0));
                busy.is_ok_and(|busy| !busy)
            })
        });
        if !restarted {
            tracing::debug!("a reader keeps the WAL from being started over");
        }
        let pause = if restarted { SHORT_RESTART_PAUSE } else { (next_restart.1 * 2).min(LONG_RESTART_PAUSE) };
        *next_restart = (Instant::now() + pause, pause);
    }

    /// Runs `work` in a write transaction of its own. When this returns `Ok`, the transaction is durable; else it left no
    /// trace.
    pub(crate) fn write<T, E: From<Error>>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let _writing = self.begin_writing()?;
        let deadline = self.deadline();
        let mut writer = self.lock_writer(deadline)?;
        self.write_as(&mut writer, deadline, false, work)
    }

    /// As [`write`](Self::write), but where somebody else writes it does not wait.
    ///
    /// # Errors
    /// [`Error::Busy`] where somebody does.
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
        self.require_writable_schema(&transaction).map_err(|error| self.explain(error))?;
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
        self.limit_wal(writer);
        let result = outcome.map_err(|(_, error)| error)?;
        self.place.files_are_there()?;
        Ok(result)
    }

    /// Replaces the content by that of a copy, which belongs to us alone: in one transaction, under readers who see the
    /// old state or the new. `before` is called first, while nobody can write; where somebody writes in the moment
    /// between it and the transaction, it is called again. Returns what it returned last.
    pub(crate) fn replace_by<T>(
        &self,
        copy: &Path,
        progress: &ProgressCallback,
        mut before: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        const ATTEMPTS: u32 = 20;
        let _writing = self.begin_writing()?;
        let mut writer = self.lock_writer(self.deadline())?;
        let conn = writer.open(&self.path, false)?;
        self.place.files_are_there()?;
        let mut replace = || {
            let observer = connection::open_reader(&self.path)?;
            // Changes whenever another connection has committed.
            let version = || observer.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0));
            for _ in 0..ATTEMPTS {
                // SQLite's backup takes the write lock by itself, and must not find it taken: it is given up in between.
                let lock = conn.begin_alone(self.deadline())?;
                let seen = version()?;
                let result = before()?;
                lock.rollback()?;
                backup::match_page_size(copy, conn.alone())?;
                if backup::write_back(copy, conn.alone(), progress, || Ok(version()? == seen))? {
                    return Ok(result);
                }
            }
            Err(Error::Busy { path: self.path.clone() })
        };
        replace().map_err(|error: Error| self.explain(error))
    }

    /// Writes the database anew, so that free pages can be given back bit by bit from now on. Nobody else can write meanwhile.
    pub(crate) fn enable_incremental_vacuum(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        let mut writer = self.lock_writer(self.deadline())?;
        let conn = writer.open(&self.path, false)?.alone();
        connection::vacuum(conn, |conn| Ok(conn.pragma_update(None, "auto_vacuum", "incremental")?))
            .map_err(|error| self.explain(error))
    }

    /// Copies the WAL to the database file as far as no reader needs it, and truncates it where nobody reads: what was deleted
    /// does not stay in it. Waits for others for a moment only.
    pub(crate) fn write_back_log(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        let mut writer = self.lock_writer(self.deadline())?;
        let conn = writer.open(&self.path, false)?.alone();
        let written = until(Instant::now() + SHORT_BUSY_TIMEOUT, || {
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        written.map_err(|error| self.explain(error.into()))
    }

    /// Whether this database may be written, also while it is being closed.
    pub(crate) fn require_writable(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        self.lock_writer(self.deadline())?.open(&self.path, true).map(drop)
    }

    /// Fails where this thread is writing this database already: it would wait for itself.
    pub(crate) fn refuse_nested_write(&self) -> Result<()> {
        self.begin_writing().map(drop)
    }

    /// Lets nobody write any more, after the write at hand, but for what belongs to closing.
    pub(crate) fn begin_closing(&self, why: Closed) {
        let mut writer = self.writer.lock();
        *writer = match std::mem::replace(&mut *writer, Writer::ReadOnly) {
            Writer::Open(mut conn) => {
                conn.commit();
                Writer::Closing(conn, why)
            }
            other => other,
        };
    }

    /// Goes on after closing failed.
    pub(crate) fn cancel_closing(&self) {
        let mut writer = self.writer.lock();
        *writer = match std::mem::replace(&mut *writer, Writer::ReadOnly) {
            Writer::Closing(conn, _) => Writer::Open(conn),
            other => other,
        };
    }

    /// Closes the writing connection, after the write in progress, and the readers that are idle. Every later write fails and says why.
    pub(crate) fn close_writer(&self, why: Closed) {
        // Before the writer, so that it is closed last.
        drop(self.readers.write().take());
        *self.writer.lock() = Writer::Closed(why);
    }

    #[cfg(test)]
    pub(super) fn has_waiting_writers(&self) -> bool {
        self.waiting_writers.load(Ordering::SeqCst) > 0
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

    /// Waits for the writer. A panic in a caller's closure rolled its transaction back; the connection is as good as before.
    fn lock_writer(&self, deadline: Instant) -> Result<MutexGuard<'_, Writer>> {
        self.writer.try_lock_until(deadline).ok_or_else(|| self.busy())
    }

    /// Notes that this thread writes this database.
    fn begin_writing(&self) -> Result<Writing> {
        let address = std::ptr::from_ref(self).addr();
        WRITING.with_borrow_mut(|writing| {
            if writing.contains(&address) {
                return Err(Error::NestedWrite { path: self.path.clone() });
            }
            writing.push(address);
            Ok(Writing)
        })
    }

    /// Sets how long a write waits for others.
    pub(crate) fn set_write_timeout(&mut self, timeout: Duration) {
        self.write_timeout = timeout;
    }

    /// When a write that begins now gives up. A time-out beyond what a clock can represent counts as a year.
    fn deadline(&self) -> Instant {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        Instant::now() + self.write_timeout.min(YEAR)
    }

    fn busy(&self) -> Error {
        Error::Busy { path: self.path.clone() }
    }

    /// Names the database in an error of SQLite's and classifies it. Statements of this library are right: where SQLite cannot make
    /// sense of one, the schema is looked at.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let error = tell_from_failed_read(self.shield.explain(error.at(&self.path)));
        if !error.is_refused_statement() {
            return error;
        }
        match require_own_schema(&self.path) {
            Err(changed @ (Error::SchemaChanged { .. } | Error::Corrupt { .. })) => changed,
            _ => error,
        }
    }
}

/// Fails where the schema of a database is not the one of its version.
fn require_own_schema(path: &Path) -> Result<()> {
    let conn = connection::open_reader(path)?;
    let status = migrations::release().status(&conn, path)?;
    schema::require_own_schema(&conn, path, status.schema_version).map(drop)
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

/// Opens a database that must be there, for reading; tells the kind of what is wrong with it.
fn open_existing(path: &Path) -> Result<Connection> {
    if !exists(path)? {
        return Err(Error::NoDatabase { path: path.to_path_buf() });
    }
    require_whole_wal(path)?;
    let open = || {
        let conn = connection::open_reader(path)?;
        let read = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        match read.as_ref().err().and_then(rusqlite::Error::sqlite_error).map(|error| error.extended_code) {
            Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK) => {
                // Killed in the middle of a transaction without a write-ahead log: only who may write can undo it.
                connection::open_writer(path)?.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
                connection::open_reader(path)
            }
            _ => Ok(read.map(|()| conn)?),
        }
    };
    open().map_err(|error: Error| error.at(path))
}

/// Tells damage from a read that the disk has failed, which SQLite reports as damage: returns the error as it is, or that of the disk.
/// Nobody should go back to a backup because of that.
pub(crate) fn tell_from_failed_read(error: Error) -> Error {
    let (Error::Corrupt { path, .. } | Error::NotAStateDatabase { path, .. } | Error::HistoryDamaged { path, .. }) =
        &error
    else {
        return error;
    };
    let is_whole = || lost_frames(path).is_none() && require_whole(path, |conn| backup::check(conn, path)).is_ok();
    match require_readable(path) {
        Err(failed) => failed,
        Ok(()) if is_whole() => {
            let source = io::Error::other("a read failed, and the next one did not");
            Error::Io { action: "read", path: path.clone(), source }
        }
        Ok(()) => error,
    }
}

/// Fails where a database is not there, is not ours, or has another schema; `check` looks at what is in it.
pub(crate) fn require_whole(path: &Path, check: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let _traces = Traces::before_reading(path);
    let conn = open_existing(path)?;
    let whole = || {
        let status = migrations::release().status(&conn, path)?;
        check(&conn)?;
        schema::require_own_schema(&conn, path, status.schema_version).map(drop)
    };
    whole().map_err(|error| error.at(path))
}

/// The newest folder with a damaged database whose place no other one has taken yet.
pub(crate) fn newest_set_aside(path: &Path) -> Option<PathBuf> {
    let file = path.file_name()?;
    let is_file = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|it| it.is_file());
    // Folders of releases before this marker have neither it nor a report.
    let is_unfinished = |folder: &Path| is_file(folder.join(UNFINISHED)) || !is_file(folder.join(RECOVERY_REPORT_FILE));
    let folders = set_aside_folders(path).into_iter();
    folders.filter(|(_, folder)| is_file(folder.join(file)) && is_unfinished(folder)).max().map(|(_, folder)| folder)
}

/// The folders of damaged databases, with their numbers.
pub(crate) fn set_aside_folders(path: &Path) -> Vec<(u64, PathBuf)> {
    let entries = path.parent().and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten();
    let folder = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix(SET_ASIDE_PREFIX)?.parse().ok()?;
        Some((number, entry.path()))
    };
    entries.filter_map(folder).collect()
}

/// The name of a file that SQLite keeps beside a database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Moves a damaged database and all that SQLite keeps beside it into a folder of their own; the folder. They are never
/// deleted: what is in them may still be read by other means.
///
/// Killed in between, it continues with the same folder: a database and its WAL stay together. [`publish`] ends it. Only under
/// the lock on the directory.
pub(crate) fn set_aside(path: &Path, now: DateTime<Utc>) -> Result<PathBuf> {
    let is_moved = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let folder = match newest_set_aside(path).filter(|_| is_moved) {
        Some(folder) => folder,
        None => create_set_aside_folder(path, now)?,
    };
    // The database first: without its WAL, it would be taken for whole.
    for suffix in ["", "-wal", "-journal", "-shm"] {
        let file = beside(path, suffix);
        let target = folder.join(file.file_name().unwrap_or_default());
        match fs::symlink_metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("move", file)(error)),
            Ok(_) => {}
        }
        let target = if fs::symlink_metadata(&target).is_ok() {
            // SQLite makes an empty one when it reads the moved database. What is in the way is kept, too.
            create_set_aside_folder(path, now)?.join(file.file_name().unwrap_or_default())
        } else {
            target
        };
        fs::rename(&file, &target).map_err(Error::io("move", file))?;
    }
    sync_directory(&folder)?;
    path.parent().map_or(Ok(()), sync_directory)?;
    Ok(folder)
}

/// Makes a folder for a damaged database, with a number above all others, also where the clock was set back, and marks it as
/// unfinished. Folders that a killed process made and did not use are removed.
fn create_set_aside_folder(path: &Path, now: DateTime<Utc>) -> Result<PathBuf> {
    let mut number = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    for (other, folder) in set_aside_folders(path) {
        let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        if names.into_iter().all(|name| name == UNFINISHED) {
            // Where this fails, an empty folder is left.
            let _ = fs::remove_file(folder.join(UNFINISHED));
            let _ = fs::remove_dir(&folder);
        } else {
            number = number.max(other.saturating_add(1));
        }
    }
    let folder = path.with_file_name(format!("{SET_ASIDE_PREFIX}{number}"));
    directory::create_directory(&folder)?;
    directory::replace_file(&folder.join(UNFINISHED), |_| Ok(()))?;
    Ok(folder)
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

/// Fails where the file of a database has another name, a hard link: SQLite keeps the WAL beside the name by which it opens the
/// file, so that two names have two of them.
fn require_one_name(path: &Path) -> Result<()> {
    // A file system that cannot rename without replacing gives a new database its name by a link, which goes at once; FUSE may
    // count it for a second.
    const PATIENCE: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match names(path)? {
            0 | 1 => return Ok(()),
            _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            links => return Err(Error::HardLinked { path: path.to_path_buf(), links }),
        }
    }
}

/// How many names a database file has, but for a temporary one that a process was killed before removing: nobody opens the file by
/// that.
fn names(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() || metadata.nlink() <= 1 {
        return Ok(1);
    }
    let is_temporary = |entry: &fs::DirEntry| {
        let is_same = |found: fs::Metadata| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino());
        entry.file_name().to_string_lossy().starts_with(NEW_PREFIX) && entry.metadata().is_ok_and(is_same)
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let entries = fs::read_dir(directory).map_err(Error::io("read", directory))?.flatten();
    Ok(metadata.nlink().saturating_sub(entries.into_iter().filter(is_temporary).count() as u64))
}

/// Fails where updates are lost that the WAL held. Only before this process opens the database: SQLite would take what is left for
/// everything.
fn require_whole_wal(path: &Path) -> Result<()> {
    let Some(lost) = lost_frames(path) else { return Ok(()) };
    let detail =
        format!("{} of the {} pages in its log state.db-wal are missing or damaged", lost.missing, lost.frames);
    Err(Error::Corrupt { path: path.to_path_buf(), detail })
}

/// Whether the database is there. A log without its database is not taken for the absence of both.
fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => match foreign::kind(&metadata) {
            Some(found) => Err(Error::NotAStateDatabase { path: path.to_path_buf(), found }),
            None => Ok(true),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_left = |log: &PathBuf| fs::symlink_metadata(log).is_ok_and(|metadata| metadata.len() > 0);
            let log = [beside(path, "-wal"), beside(path, "-journal")].into_iter().find(is_left);
            // The database of a process that is just making it comes before its log: look again.
            if let Some(log) = &log
                && fs::symlink_metadata(path).is_err()
            {
                let detail = format!("the file is missing, though its log {} is there", log.display());
                return Err(Error::Corrupt { path: path.to_path_buf(), detail });
            }
            Ok(log.is_some())
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Makes a new database under a temporary name, complete, and gives it its name.
///
/// So an empty or half-made database never stands under the name, not even after a kill, and an empty file there is
/// always a loss and never a beginning.
fn create(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let _turn = directory::lock(directory)?;
    if exists(path)? {
        // Another process was first; its database is as good.
        return Ok(());
    }
    if let Some(folder) = newest_set_aside(path) {
        // What set the damaged one aside was killed before another took its place. An empty one must not.
        let detail = format!(
            "it was set aside as {}, and nothing has taken its place yet (to start anew, move that folder away)",
            folder.display()
        );
        return Err(Error::Corrupt { path: path.to_path_buf(), detail });
    }
    directory::remove_temporary_files(directory, &[NEW_PREFIX])?;
    let file = directory::temporary_file(directory, NEW_PREFIX)?;
    backup::create_copy(file.path(), |_| Ok(()))?;
    publish(file, path)
}

/// Gives a complete database that nobody has open the name under which there is none.
pub(crate) fn publish(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(Error::io("write", file.path()))?;
    // Closed before it gets its name: closing any handle on a live database drops SQLite's locks on it.
    let file = file.into_temp_path();
    file.persist_noclobber(path).map_err(|error| Error::io("create", path)(error.error))?;
    path.parent().map_or(Ok(()), sync_directory)?;
    end_set_aside(path)
}

/// Removes the marks of folders with damaged databases whose place is taken.
pub(crate) fn end_set_aside(path: &Path) -> Result<()> {
    for (_, folder) in set_aside_folders(path) {
        match fs::remove_file(folder.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", folder)(error)),
            _ => {}
        }
    }
    Ok(())
}

pub(crate) const NEW_PREFIX: &str = ".state-";

/// Folders of damaged databases begin so; the time in milliseconds follows.
pub(crate) const SET_ASIDE_PREFIX: &str = "damaged-";

/// In such a folder: its place is still empty.
const UNFINISHED: &str = "unfinished";

/// In such a folder: what a recovery found.
pub(crate) const RECOVERY_REPORT_FILE: &str = "recovery.json";

/// How long who does not want to wait for others waits for their commit.
const SHORT_BUSY_TIMEOUT: Duration = Duration::from_millis(50);

fn sqlite_error(error: Error) -> rusqlite::Error {
    match error {
        Error::Sqlite { source, .. } => source,
        other => rusqlite::Error::ToSqlConversionFailure(Box::new(other)),
    }
}
