//! Verifying a database: integrity, references, schema, and whether its content can be read.
//!
//! SQLite reports a read that the disk has failed as damage. So damage is believed only after the files have been read by other
//! means ([`confirm_damage`]): nobody should go back to a backup because of a bad cable. Each function opens connections of its own,
//! for reading only, and changes nothing.

use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::disk::require_readable;
use super::existing::open_existing;
use super::foreign::Traces;
use super::own_objects::{self, quoted};
use super::schema::require_own_schema;
use super::wal_loss::lost_frames;
use super::{connection, migrations};
use crate::error::{Error, Result};

/// Returns an error that speaks of damage as it is where the damage is confirmed, or else the error of the disk. Other errors are
/// returned as they are.
pub(crate) fn confirm_damage(error: Error) -> Error {
    let (Error::Corrupt { path, .. } | Error::NotAStateDatabase { path, .. } | Error::HistoryDamaged { path, .. }) =
        &error
    else {
        return error;
    };
    let is_whole = || lost_frames(path).is_none() && require_whole(path, |conn| check(conn, path)).is_ok();
    match require_readable(path) {
        Err(failed) => failed,
        Ok(()) if is_whole() => {
            let source = io::Error::other("a read failed, and the next one did not");
            Error::Io { action: "read", path: path.clone(), source }
        }
        Ok(()) => error,
    }
}

/// Fails where a database does not exist, is not ours, or has another schema; `check` looks at its content.
pub(crate) fn require_whole(path: &Path, check: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let _traces = Traces::before_reading(path);
    let conn = open_existing(path)?;
    let whole = || {
        let status = migrations::release().status(&conn, path)?;
        check(&conn)?;
        require_own_schema(&conn, path, status.schema_version).map(drop)
    };
    whole().map_err(|error| error.with_path(path))
}

/// Fails where SQLite finds anything wrong with a database.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<()> {
    let release = migrations::release();
    let (verdict, broken) = match release.status(conn, path) {
        Ok(status) => {
            let schema = release.schema(status.schema_version, path)?;
            (own_objects::integrity_problem(conn, &schema)?, own_objects::broken_reference(conn, &schema)?)
        }
        // Of a newer release, or without a record of its migrations: the owner of an object is not known.
        Err(_) => {
            let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
            let broken = conn.query_row("PRAGMA foreign_key_check", [], |row| row.get(0)).optional()?;
            (Some(verdict).filter(|verdict| verdict != "ok"), broken)
        }
    };
    if let Some(verdict) = verdict {
        return Err(corrupt(path, verdict));
    }
    broken.map_or(Ok(()), |table: String| {
        Err(corrupt(path, format!("rows of {table} refer to nothing; `PRAGMA foreign_key_check` names them")))
    })
}

pub(super) fn corrupt(path: &Path, detail: String) -> Error {
    Error::Corrupt { path: path.to_path_buf(), detail }
}

/// Verifies a database that nobody has open: its kind, its integrity, that nothing of ours in its schema was changed, and, by
/// `read`, that its content can be read. What a person added to it does no harm: it never runs inside a write of ours.
pub(crate) fn verify_database(path: &Path, read: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let verify = || {
        let conn = connection::open_reader(path)?;
        let snapshot = conn.unchecked_transaction()?;
        let status = migrations::release().status(&snapshot, path)?;
        check(&snapshot, path)?;
        require_own_schema(&snapshot, path, status.schema_version)?;
        if status.pending.is_empty() {
            return read(&snapshot);
        }
        drop(snapshot);
        read_as_latest(&conn, path, status.schema_version, read)
    };
    verify().map_err(|error: Error| confirm_damage(error.with_path(path)))
}

/// Verifies that SQLite finds nothing wrong with a database, which may be of another release or have been changed.
pub(crate) fn verify_integrity(path: &Path) -> Result<()> {
    connection::open_reader(path)
        .and_then(|conn| check(&conn, path))
        .map_err(|error| confirm_damage(error.with_path(path)))
}

/// Reads a database of an older version by this release's readers: temporary views stand for its tables, with the default or NULL in
/// the columns that came later. Only a value that is there and cannot be read counts: this is no upgrade.
fn read_as_latest(
    conn: &Connection,
    path: &Path,
    version: u32,
    read: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let release = migrations::release();
    let fresh = release.fresh(release.latest_version(), path)?;
    let older = release.schema(version, path)?;
    conn.pragma_update(None, "query_only", false)?;
    let tables = "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut select = fresh.prepare(tables)?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (table, sql) in rows.collect::<rusqlite::Result<Vec<(String, String)>>>()? {
        if sql.starts_with("CREATE VIRTUAL") {
            continue;
        }
        if !older.has_relation(&table) {
            conn.execute_batch(&sql.replacen("CREATE TABLE", "CREATE TEMP TABLE", 1))?;
            continue;
        }
        let mut columns = fresh.prepare("SELECT name, \"notnull\", dflt_value FROM pragma_table_info(?1)")?;
        let mut rows = columns.query([&table])?;
        let (mut items, mut differs) = (Vec::new(), false);
        while let Some(row) = rows.next()? {
            let (name, not_null, default): (String, bool, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if older.has_column(&table, &name) {
                items.push(quoted(&name));
                continue;
            }
            differs = true;
            match default {
                None if not_null => return Ok(()),
                default => items.push(format!("{} AS {}", default.as_deref().unwrap_or("NULL"), quoted(&name))),
            }
        }
        if differs {
            let (name, items) = (quoted(&table), items.join(", "));
            conn.execute_batch(&format!("CREATE TEMP VIEW {name} AS SELECT {items} FROM main.{name}"))?;
        }
    }
    match read(conn) {
        Err(error @ Error::InvalidRow { .. }) => Err(error),
        Err(error) => {
            tracing::debug!(%error, "a database of an older release was not read as a whole");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
