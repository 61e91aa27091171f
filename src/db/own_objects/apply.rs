//! Making objects of a person's in a database: quietly, and each of them all or nothing.
//!
//! The caller has a transaction. An object that cannot be made leaves the transaction as it was before; a full disk or a failed read
//! or write is an error for the caller.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use super::left_out::{LeftOut, reason};
use super::released::SchemaEntry;
use super::sql::starts_with;
use crate::error::{Error, Result};

/// Runs `work` with a connection that runs and checks nothing of a person's and accepts every schema that SQLite accepts. The
/// settings are restored, also after a panic.
pub(super) fn quietly<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    /// Puts the settings back, also after a panic.
    struct Back<'c>(&'c Connection, Vec<(DbConfig, bool)>, Vec<(Limit, i32)>);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            let Self(conn, settings, limits) = self;
            let settings = settings.iter().map(|(setting, was)| conn.set_db_config(*setting, *was).map(drop));
            let limits = limits.iter().map(|(limit, was)| conn.set_limit(*limit, *was).map(drop));
            let checks = [conn.pragma_update(None, "ignore_check_constraints", false)];
            for error in settings.chain(limits).chain(checks).filter_map(rusqlite::Result::err) {
                tracing::error!(%error, "could not put a setting of the connection back");
            }
        }
    }
    let settings = [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        // The tables that a virtual one keeps for itself are copied as they are.
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false),
        // As in the shell of SQLite 3.40, which may have made them.
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, true),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, true),
    ];
    let limits = [(Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766), (Limit::SQLITE_LIMIT_COLUMN, 2000)];
    let mut back = Back(conn, Vec::new(), Vec::new());
    for (setting, value) in settings {
        back.1.push((setting, conn.db_config(setting)?));
        conn.set_db_config(setting, value)?;
    }
    for (limit, value) in limits {
        back.2.push((limit, conn.limit(limit)?));
        conn.set_limit(limit, value)?;
    }
    conn.pragma_update(None, "ignore_check_constraints", true)?;
    work()
}

/// Runs `work` in a savepoint: all or nothing.
pub(super) fn alone<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    conn.execute_batch("SAVEPOINT own_object")?;
    let result = work().map_err(|error| match error {
        // By kind, where it is the disk and not the object.
        Error::Sqlite { source, .. }
            if matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
            ) =>
        {
            Error::from(source).with_path(conn.path().map(Path::new).unwrap_or(Path::new("")))
        }
        other => other,
    });
    if result.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK TO own_object")?;
    }
    if !conn.is_autocommit() {
        conn.execute_batch("RELEASE own_object")?;
    }
    result
}

/// Makes one object by its SQL, and nothing else: only the first statement of what stands in the schema.
pub(super) fn create(conn: &Connection, entry: &SchemaEntry) -> Result<()> {
    if !starts_with(&entry.sql, "CREATE ") {
        let record = format!("{} {:?}", entry.kind, entry.name);
        return Err(Error::InvalidValue { record, detail: "its SQL is no CREATE statement".into() });
    }
    conn.prepare(&entry.sql)?.raw_execute()?;
    Ok(())
}

/// Recreates indexes, views and triggers, in this order: a trigger may be on a view.
pub(super) fn make(conn: &Connection, entries: &[SchemaEntry], left_out: &mut Vec<LeftOut>) -> Result<()> {
    for kind in ["index", "view", "trigger"] {
        for entry in entries.iter().filter(|entry| entry.kind == kind) {
            match alone(conn, || create(conn, entry)) {
                Ok(()) => {}
                Err(error @ (Error::DiskFull { .. } | Error::Io { .. })) => return Err(error),
                Err(error) => {
                    left_out.push(LeftOut::new(entry, reason(&error), format!("{};\n", entry.sql)));
                }
            }
        }
    }
    Ok(())
}
