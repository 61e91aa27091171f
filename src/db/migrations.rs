//! The one way in which the schema changes: the files in `migrations/`, in order, run by refinery.
//!
//! Reading the version, running what is pending, recording it and checking references happen inside one
//! `BEGIN IMMEDIATE`: processes that open the same old database at once wait for each other, and a kill at any moment
//! leaves the old schema or the new one. The record is checked here before refinery sees it, as refinery panics on a
//! damaged one.

use std::path::Path;

use refinery_core::traits::sync::{Query, Transaction as RefineryTransaction};
use refinery_core::{Migrate, Migration, SchemaVersion, Target};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Result};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The version of the state document that each schema version holds.
const STATE_VERSIONS: &[(u32, &str)] = &[(1, "1.0.0"), (2, "1.0.0")];

/// The schema version of this release.
pub(super) const LATEST_SCHEMA_VERSION: u32 = STATE_VERSIONS[STATE_VERSIONS.len() - 1].0;

/// Marks a file as a state database: `AMXS`.
const APPLICATION_ID: i32 = 0x414d_5853;

const HISTORY: &str = "refinery_schema_history";

/// Which migrations a database has had and which it is to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationStatus {
    /// The database's schema version.
    pub schema_version: u32,
    /// The schema version of this release.
    pub latest_schema_version: u32,
    /// The version of the state document that the database's schema holds.
    pub state_version: String,
    /// Migrations that the database has had, in order.
    pub applied: Vec<AppliedMigration>,
    /// Migrations that it is to get, in order.
    pub pending: Vec<PendingMigration>,
}

/// A migration that a database has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedMigration {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// When it was applied, ISO 8601.
    pub applied_on: String,
}

/// A migration that a database is to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingMigration {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
}

/// Gives a new, empty file this release's schema.
pub(super) fn create(conn: &mut Connection, path: &Path) -> Result<()> {
    in_transaction(conn, path, |transaction| {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        run(transaction, path)
    })
}

/// Brings an existing database to this release's schema. `backup` is called first, under the write lock, where a
/// migration is due; without it, nothing is migrated.
pub(super) fn migrate(conn: &mut Connection, path: &Path, backup: impl FnOnce() -> Result<()>) -> Result<()> {
    // Most databases are up to date: see without taking the write lock.
    if status(conn, path)?.pending.is_empty() {
        return Ok(());
    }
    in_transaction(conn, path, |transaction| {
        // Another process may have been first.
        if status(transaction, path)?.pending.is_empty() {
            return Ok(());
        }
        backup()?;
        run(transaction, path)
    })
}

/// Fails unless the database has this release's schema.
pub(super) fn require_latest(conn: &Connection, path: &Path) -> Result<()> {
    let status = status(conn, path)?;
    if status.pending.is_empty() {
        return Ok(());
    }
    Err(Error::SchemaOutdated {
        path: path.to_path_buf(),
        found: status.schema_version,
        required: LATEST_SCHEMA_VERSION,
    })
}

/// Reads which migrations a database has had. Fails where it is not one of ours, too new, or its record is damaged.
pub(crate) fn status(conn: &Connection, path: &Path) -> Result<MigrationStatus> {
    let application_id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application_id != APPLICATION_ID {
        let detail = "another program's SQLite database".to_owned();
        return Err(Error::NotAStateDatabase { path: path.to_path_buf(), detail });
    }
    let damaged = |detail: String| Error::HistoryDamaged { path: path.to_path_buf(), detail };
    let known = known_migrations();
    let applied = history(conn).map_err(|error| match error {
        Error::Sqlite { source, .. } if source.sqlite_error_code().is_none() => damaged(source.to_string()),
        other => other,
    })?;
    if let Some(newest) = applied.iter().map(|(migration, _)| migration.version).max()
        && newest > LATEST_SCHEMA_VERSION
    {
        let path = path.to_path_buf();
        return Err(Error::SchemaTooNew { path, found: newest, supported: LATEST_SCHEMA_VERSION });
    }
    if applied.is_empty() {
        return Err(damaged("it is empty".into()));
    }
    for (index, (migration, checksum)) in applied.iter().enumerate() {
        let expected = known.get(index).filter(|known| version_of(known) == migration.version);
        let expected = expected.ok_or_else(|| damaged(format!("V{} does not follow", migration.version)))?;
        if expected.name() != migration.name || expected.checksum().to_string() != *checksum {
            return Err(damaged(format!("V{} is not the one of this project", migration.version)));
        }
        if OffsetDateTime::parse(&migration.applied_on, &Rfc3339).is_err() {
            return Err(damaged(format!("the time of V{} is no time", migration.version)));
        }
    }
    let schema_version = applied.len() as u32;
    let pending = known.iter().skip(applied.len());
    Ok(MigrationStatus {
        schema_version,
        latest_schema_version: LATEST_SCHEMA_VERSION,
        state_version: STATE_VERSIONS[applied.len() - 1].1.to_owned(),
        pending: pending.map(|m| PendingMigration { version: version_of(m), name: m.name().to_owned() }).collect(),
        applied: applied.into_iter().map(|(migration, _)| migration).collect(),
    })
}

/// Runs `work` under the write lock with foreign keys off, then checks every reference and commits.
fn in_transaction(conn: &mut Connection, path: &Path, work: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
    // With foreign keys on, rebuilding a parent table would delete its children. They cannot be switched inside a
    // transaction; the caller switches them on, once the schema is the latest.
    conn.pragma_update(None, "foreign_keys", false)?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    work(&transaction)?;
    let broken: Option<String> = transaction.query_row("PRAGMA foreign_key_check", [], |row| row.get(0)).optional()?;
    if let Some(table) = broken {
        let detail = format!("rows of {table} would refer to nothing");
        return Err(Error::MigrationFailed { path: path.to_path_buf(), detail });
    }
    transaction.commit()?;
    Ok(())
}

/// A database in memory with the schema of a version.
pub(super) fn fresh(version: u32) -> Result<Connection> {
    let mut conn = Connection::open_in_memory()?;
    let transaction = conn.transaction()?;
    run_to(&transaction, Path::new("memory"), version)?;
    transaction.commit()?;
    Ok(conn)
}

fn run(transaction: &Transaction<'_>, path: &Path) -> Result<()> {
    run_to(transaction, path, LATEST_SCHEMA_VERSION)
}

fn run_to(transaction: &Transaction<'_>, path: &Path, version: u32) -> Result<()> {
    let target = Target::Version(SchemaVersion::from(version as i32));
    let runner = embedded::migrations::runner().set_grouped(true).set_target(target);
    runner.run(&mut Locked(transaction)).map_err(|error| Error::MigrationFailed {
        path: path.to_path_buf(),
        detail: std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
    })?;
    Ok(())
}

fn known_migrations() -> Vec<Migration> {
    let mut migrations = embedded::migrations::runner().get_migrations().clone();
    migrations.sort();
    migrations
}

fn version_of(migration: &Migration) -> u32 {
    u32::try_from(migration.version()).unwrap_or(u32::MAX)
}

/// The record of applied migrations with their checksums; empty where there is none.
fn history(conn: &Connection) -> Result<Vec<(AppliedMigration, String)>> {
    let exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    if conn.query_row(exists, [HISTORY], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT version, name, applied_on, checksum FROM {HISTORY} ORDER BY version");
    let mut select = conn.prepare(&sql)?;
    let rows = select.query_map([], |row| {
        Ok((AppliedMigration { version: row.get(0)?, name: row.get(1)?, applied_on: row.get(2)? }, row.get(3)?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Lets refinery work inside a transaction that is already open, and leaves the commit to us.
struct Locked<'t>(&'t Transaction<'t>);

impl RefineryTransaction for Locked<'_> {
    type Error = rusqlite::Error;

    fn execute<'a, T: Iterator<Item = &'a str>>(&mut self, queries: T) -> rusqlite::Result<usize> {
        let mut count = 0;
        for query in queries {
            self.0.execute_batch(query)?;
            count += 1;
        }
        Ok(count)
    }
}

impl Query<Vec<Migration>> for Locked<'_> {
    fn query(&mut self, query: &str) -> rusqlite::Result<Vec<Migration>> {
        let mut select = self.0.prepare(query)?;
        let rows = select.query_map([], |row| {
            let applied_on: String = row.get(2)?;
            let checksum: String = row.get(3)?;
            // `status` has seen that both are well-formed.
            let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            Ok(Migration::applied(row.get(0)?, row.get(1)?, applied_on, checksum.parse().unwrap_or_default()))
        })?;
        rows.collect()
    }
}

impl Migrate for Locked<'_> {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_version_has_a_state_version() {
        let versions: Vec<u32> = known_migrations().iter().map(version_of).collect();
        assert_eq!(versions, STATE_VERSIONS.iter().map(|(version, _)| *version).collect::<Vec<_>>());
    }

    #[test]
    fn embedded_migrations_are_those_in_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".gitattributes")
            .collect();
        files.sort();
        let embedded: Vec<String> = known_migrations().iter().map(|migration| format!("{migration}.sql")).collect();
        assert_eq!(files, embedded);
    }
}
