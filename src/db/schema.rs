//! What a database's schema holds, and in what it differs from the one that the migrations make.

use std::path::Path;

use rusqlite::Connection;

use super::migrations;
use super::own_objects::{self, OwnObjects};
use crate::error::{Error, Result};

/// A table, index, trigger or view: its kind, its name, and the SQL that made it.
pub(super) type SchemaObject = (String, String, String);

/// Everything that a schema defines, in order; without what Litestream adds.
pub(super) fn schema(conn: &Connection) -> Result<Vec<SchemaObject>> {
    let mut select = conn.prepare(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
         WHERE tbl_name NOT LIKE '\\_litestream\\_%' ESCAPE '\\' ORDER BY type, name",
    )?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// In what a database's tables, indexes, triggers and views of ours differ from those that this release's migrations make. What a
/// person added is none of them.
pub(crate) fn schema_differences(conn: &Connection, path: &Path) -> Result<Vec<String>> {
    Ok(own_objects(conn, path, migrations::release().latest_version())?.differences)
}

/// What a person added to a database of a version.
pub(super) fn own_objects(conn: &Connection, path: &Path, version: u32) -> Result<OwnObjects> {
    OwnObjects::find(conn, &*migrations::release().schema(version, path)?)
}

/// Fails where a table, index, trigger or view of ours is missing from a database or was changed; returns what a person added.
pub(super) fn require_own_schema(conn: &Connection, path: &Path, version: u32) -> Result<OwnObjects> {
    let own = own_objects(conn, path, version)?;
    if own.differences.is_empty() {
        return Ok(own);
    }
    Err(Error::SchemaChanged { path: path.to_path_buf(), differences: own.differences })
}

/// The tables of ours, in this release's schema, with how many of their rows refer to nothing, where any do.
pub(crate) fn broken_references(conn: &Connection) -> Result<Vec<(String, u64)>> {
    let release = migrations::release();
    own_objects::broken_references(conn, &*release.schema(release.latest_version(), Path::new(""))?, u32::MAX)
}

/// What SQLite finds wrong with the tables of ours, in this release's schema.
pub(crate) fn integrity_problem(conn: &Connection) -> Result<Option<String>> {
    let release = migrations::release();
    own_objects::integrity_problem(conn, &*release.schema(release.latest_version(), Path::new(""))?)
}
