//! What SQLite finds wrong with a database, within a budget of work.

use rusqlite::Connection;

use super::MOST;
use super::budget::{Budget, is_interrupted};
use crate::db::{integrity_problem, is_missing_function};
use crate::error::{Error, Result};

/// What SQLite finds wrong with a database, or with one of its tables. It says the same of a page that the disk failed to read.
pub(crate) fn integrity(conn: &Connection, budget: &Budget, table: Option<&str>) -> Result<Vec<String>> {
    let pragma = match table {
        Some(table) => format!("PRAGMA integrity_check(\"{}\")", table.replace('"', "\"\"")),
        None => format!("PRAGMA integrity_check({MOST})"),
    };
    let mut found = Vec::new();
    let mut look = || -> Result<()> {
        let mut select = conn.prepare(&pragma)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let verdict: String = row.get(0)?;
            if verdict != "ok" && found.len() < MOST {
                found.push(verdict);
            }
        }
        Ok(())
    };
    budget.renew();
    match look() {
        Err(error) if is_interrupted(&error) => {}
        // A function of somebody's own index or constraint that this SQLite does not have: what is ours is looked at alone.
        Err(Error::Sqlite { source: error, .. }) if table.is_none() && is_missing_function(&error) => {
            tracing::warn!(%error, "something that somebody added cannot be checked");
            found.extend(integrity_problem(conn)?);
        }
        // For instance where the search index cannot be opened.
        Err(Error::Sqlite { source, .. }) if !is_read_failure(&source) => found.push(source.to_string()),
        other => other?,
    }
    if budget.is_spent() {
        found.push("gave up after far more work than a sound database of this size takes: it is damaged".into());
    }
    Ok(found)
}

/// Whether reading failed for another reason than damage, so that trying again may help: the disk failed, memory or file handles
/// ran out, or somebody holds a lock.
pub(crate) fn is_read_failure(error: &rusqlite::Error) -> bool {
    use rusqlite::{ErrorCode, ffi};

    // A file that ends too early is damaged. (A read that fails with `EIO` arrives as damage, see `db::require_readable`.)
    const DAMAGE: [i32; 2] = [ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS];
    let Some(error) = error.sqlite_error() else { return false };
    match error.code {
        ErrorCode::SystemIoFailure => !DAMAGE.contains(&error.extended_code),
        ErrorCode::OutOfMemory
        | ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::DiskFull => true,
        _ => false,
    }
}
