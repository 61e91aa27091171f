//! Which migrations a database has had, and whether its record of them can be trusted. Read in one snapshot; nothing is changed.

use std::path::Path;

use refinery_core::{Migration, SchemaVersion};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, ForeignFile, HistoryProblem, Result};

/// Marks a file as a state database: `AMXS`.
pub(in crate::db) const APPLICATION_ID: i32 = 0x414d_5853;

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

/// Reads which migrations a database has had. Fails where it is not one of ours, too new, or its record is damaged.
pub(super) fn status(
    migrations: &[Migration],
    state_versions: &[(u32, &str)],
    conn: &Connection,
    path: &Path,
) -> Result<MigrationStatus> {
    let latest = migrations.last().map_or(0, version_of);
    // In one snapshot: between two reads another process may upgrade the database, and the record would seem cut.
    let _snapshot = if conn.is_autocommit() { Some(conn.unchecked_transaction()?) } else { None };
    require_ours(conn, path)?;
    let damaged = |problem| Error::HistoryDamaged { path: path.to_path_buf(), problem };
    let applied = match read(conn) {
        Ok(Some(applied)) => applied,
        Ok(None) => return Err(damaged(HistoryProblem::Missing)),
        // A value of another type than the column's.
        Err(Error::Sqlite { source, .. }) if source.sqlite_error_code().is_none() => {
            return Err(damaged(HistoryProblem::Unreadable { detail: source.to_string() }));
        }
        Err(other) => return Err(other),
    };
    let newest = applied.iter().map(|(migration, _)| migration.version).max().unwrap_or(0);
    if newest > latest {
        let path = path.to_path_buf();
        return Err(Error::SchemaTooNew { path, found: newest, supported: latest });
    }
    if applied.is_empty() {
        return Err(damaged(HistoryProblem::Missing));
    }
    for (known, (migration, checksum)) in migrations.iter().zip(&applied) {
        let version = version_of(known);
        if version != migration.version {
            return Err(damaged(HistoryProblem::Cut { version }));
        }
        if known.name() != migration.name || known.checksum().to_string() != *checksum {
            return Err(damaged(HistoryProblem::Altered { version }));
        }
        if OffsetDateTime::parse(&migration.applied_on, &Rfc3339).is_err() {
            let detail = format!("the time of V{version} is no time");
            return Err(damaged(HistoryProblem::Unreadable { detail }));
        }
    }
    let version: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap_or(0);
    if version > newest {
        return Err(damaged(HistoryProblem::Cut { version: newest + 1 }));
    }
    let state_version = state_versions.iter().find(|(version, _)| *version == newest);
    let pending = migrations.iter().skip(applied.len());
    Ok(MigrationStatus {
        schema_version: newest,
        latest_schema_version: latest,
        state_version: state_version.map_or("", |(_, state_version)| state_version).to_owned(),
        pending: pending.map(|m| PendingMigration { version: version_of(m), name: m.name().to_owned() }).collect(),
        applied: applied.into_iter().map(|(migration, _)| migration).collect(),
    })
}

/// Fails unless a database is one of this project's.
pub(in crate::db) fn require_ours(conn: &Connection, path: &Path) -> Result<()> {
    let application_id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application_id == APPLICATION_ID {
        return Ok(());
    }
    let found = ForeignFile::OtherProgram { application_id };
    Err(Error::NotAStateDatabase { path: path.to_path_buf(), found })
}

/// The record of applied migrations with their checksums; `None` where there is none.
fn read(conn: &Connection) -> Result<Option<Vec<(AppliedMigration, String)>>> {
    let exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    if conn.query_row(exists, [HISTORY], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let columns =
        "SELECT count(*) FROM pragma_table_info(?1) WHERE name IN ('version', 'name', 'applied_on', 'checksum')";
    if conn.query_row(columns, [HISTORY], |row| row.get::<_, u32>(0))? < 4 {
        return Ok(None);
    }
    let sql = format!("SELECT version, name, applied_on, checksum FROM {HISTORY} ORDER BY version");
    let mut select = conn.prepare(&sql)?;
    let rows = select.query_map([], |row| {
        Ok((AppliedMigration { version: row.get(0)?, name: row.get(1)?, applied_on: row.get(2)? }, row.get(3)?))
    })?;
    Ok(Some(rows.collect::<rusqlite::Result<_>>()?))
}

/// The number of a migration.
pub(super) fn version_of(migration: &Migration) -> u32 {
    u32::try_from(SchemaVersion::from(migration.version())).unwrap_or(u32::MAX)
}
