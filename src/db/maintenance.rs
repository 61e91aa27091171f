//! Work on a whole database: replacing its content, rebuilding it, and checkpointing its WAL.
//!
//! Each function holds the writer for all of its work, so that other writers of this process wait, up to their own deadlines. Where
//! one fails, the database is as it was.

use std::path::Path;
use std::time::Instant;

use super::connection;
use super::copy::{match_page_size, write_back};
use super::database::Database;
use super::deadline::until;
use super::write::SHORT_BUSY_TIMEOUT;
use crate::error::{Error, Result};
use crate::progress::ProgressCallback;

impl Database {
    /// Replaces the content by that of a copy, which belongs to us alone: in one transaction. Readers see
    /// the old state or the new one. `before` is called first, while nobody can write; where another process writes between it
    /// and the transaction, it is called again. Returns its last result.
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
                match_page_size(copy, conn.alone())?;
                if write_back(copy, conn.alone(), progress, || Ok(version()? == seen))? {
                    return Ok(result);
                }
            }
            Err(Error::Busy { path: self.path.clone() })
        };
        replace().map_err(|error: Error| self.explain(error))
    }

    /// Rebuilds the database (`VACUUM`), so that free pages can be given back bit by bit from now on. Others wait meanwhile.
    pub(crate) fn enable_incremental_vacuum(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        let mut writer = self.lock_writer(self.deadline())?;
        let conn = writer.open(&self.path, false)?.alone();
        connection::vacuum(conn, |conn| Ok(conn.pragma_update(None, "auto_vacuum", "incremental")?))
            .map_err(|error| self.explain(error))
    }

    /// Checkpoints the WAL as far as no reader needs it, and truncates it where nobody reads: deleted text does not stay in it.
    /// Waits for readers at most 50 ms.
    pub(crate) fn checkpoint_wal(&self) -> Result<()> {
        let _writing = self.begin_writing()?;
        let mut writer = self.lock_writer(self.deadline())?;
        let conn = writer.open(&self.path, false)?.alone();
        let written = until(Instant::now() + SHORT_BUSY_TIMEOUT, || {
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        written.map_err(|error| self.explain(error.into()))
    }
}
