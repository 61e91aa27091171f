//! The pool of connections that read.
//!
//! A connection is opened when it is needed and kept. A caller waits half a minute for a free one. Once a database is closed for
//! writing, the pool is dropped: a connection that stayed open would keep the WAL beside a database that counts as closed, and
//! SQLite's notes of locks that are gone once other code in this process reads the file, as for a copy.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use parking_lot::{Mutex, RwLock};
use r2d2::{Pool, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;

use super::connection;
use super::deadline::BUSY_TIMEOUT;
use super::existing::open_existing;
use crate::error::{Error, Result};

/// The connections that read a database.
pub(super) struct Readers {
    path: PathBuf,
    /// `None` once the database is closed for writing.
    pool: RwLock<Option<Pool<SqliteConnectionManager>>>,
    max_readers: u32,
}

impl Readers {
    pub(super) fn new(path: &Path, max_readers: u32) -> Result<Self> {
        let max_readers = max_readers.max(1);
        require_threads().map_err(Error::io("start threads to read", path))?;
        let manager = SqliteConnectionManager::file(path)
            .with_flags(connection::READ_ONLY)
            .with_init(|conn| connection::configure_reader(conn).map_err(sqlite_error));
        let pool = Pool::builder()
            .max_size(max_readers)
            .min_idle(Some(0))
            // Connections are never replaced: that would keep the pool's threads for half a minute after its end.
            .max_lifetime(None)
            .idle_timeout(None)
            // Each read uses the connection at once; a separate test would only cost time.
            .test_on_check_out(false)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(manager);
        Ok(Self { path: path.to_path_buf(), pool: RwLock::new(Some(pool)), max_readers })
    }

    /// Waits for a connection; `None` where the pool is closed.
    pub(super) fn get(&self) -> Result<Option<PooledConnection<SqliteConnectionManager>>> {
        let Some(pool) = self.pool.read().clone() else { return Ok(None) };
        match pool.get_timeout(BUSY_TIMEOUT / 2) {
            Ok(conn) => Ok(Some(conn)),
            Err(error) => {
                // r2d2 turns the failure to open a connection into a text; opening one directly gives its kind.
                drop(open_existing(&self.path)?);
                tracing::warn!(%error, "no connection for reading became free");
                Err(Error::TooManyReaders { path: self.path.clone(), max_readers: self.max_readers })
            }
        }
    }

    /// Whether reads use the pool.
    pub(super) fn is_open(&self) -> bool {
        self.pool.read().is_some()
    }

    /// Closes the idle connections; a later read opens one of its own.
    pub(super) fn close(&self) {
        drop(self.pool.write().take());
    }
}

fn sqlite_error(error: Error) -> rusqlite::Error {
    match error {
        Error::Sqlite { source, .. } => source,
        other => rusqlite::Error::ToSqlConversionFailure(Box::new(other)),
    }
}

/// Fails where this process may not start as many threads as a pool does when it is built, which panics then.
fn require_threads() -> io::Result<()> {
    /// r2d2's number of threads, where none is given.
    const POOL_THREADS: usize = 3;
    let gate = Mutex::new(());
    let closed = gate.lock();
    thread::scope(|scope| {
        let started = (0..POOL_THREADS).map(|_| thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())));
        let started = started.collect::<io::Result<Vec<_>>>();
        drop(closed);
        started.map(drop)
    })
}
