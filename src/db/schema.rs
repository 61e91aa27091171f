//! Questions about a database's schema by this release's migrations: differences, a person's objects, broken references.
//!
//! Each function reads in the caller's transaction and changes nothing. The released schemas are made once in a process, in memory.

use std::path::Path;

use rusqlite::Connection;

use super::migrations;
use super::own_objects::{self, OwnObjects};
use crate::error::{Error, Result};

/// Differences of our tables, indexes, triggers and views from those that this release's migrations make. Additions of a person's
/// are none.
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
