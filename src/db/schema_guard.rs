//! What every transaction asks about the schema, and how a failure of SQLite is explained.
//!
//! A newer release may upgrade the database under a process that still runs, and a person may add objects. Both change SQLite's
//! schema counter, so an unchanged counter costs one look. Where SQLite cannot make sense of a statement of ours, the schema is
//! compared with the released one, on a connection of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;

use super::shield::Shield;
use super::verify::confirm_damage;
use super::{connection, migrations, schema};
use crate::error::{Error, Result};

/// The schema of an open database.
pub(super) struct SchemaGuard {
    path: PathBuf,
    /// SQLite's schema counter when the schema was last found to be the latest.
    cookie: AtomicI64,
    /// Keeps a person's objects out of the writer's transactions.
    shield: Shield,
}

impl SchemaGuard {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), cookie: AtomicI64::new(-1), shield: Shield::default() }
    }

    /// Fails where the schema is not the latest, as a newer release's upgrade leaves it under a process that still runs.
    /// To be called inside a transaction.
    pub(super) fn require_latest(&self, conn: &Connection) -> Result<()> {
        let cookie = conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        if self.cookie.load(Ordering::Relaxed) != cookie {
            migrations::release().require_latest(conn, &self.path)?;
            self.cookie.store(cookie, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As [`require_latest`](Self::require_latest), for a transaction that writes.
    pub(super) fn require_writable(&self, conn: &Connection) -> Result<()> {
        self.require_latest(conn)?;
        self.shield.raise(conn, &self.path)
    }

    /// Names the database in an error of SQLite and classifies it. Our statements are right: where SQLite cannot make sense of one,
    /// the schema is compared with the released one.
    pub(super) fn explain(&self, error: Error) -> Error {
        let error = confirm_damage(self.shield.explain(error.with_path(&self.path)));
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
