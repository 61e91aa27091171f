//! What a database's schema holds, and in what it differs from the one that the migrations make.

use std::path::Path;

use rusqlite::Connection;

use super::migrations;
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

/// In what the schema of a database differs from the one that this release's migrations make.
pub(crate) fn schema_differences(conn: &Connection, path: &Path) -> Result<Vec<String>> {
    schema_differences_from(conn, path, migrations::release().latest_version())
}

/// In what the schema of a database differs from the one that the migrations up to a version make.
pub(super) fn schema_differences_from(conn: &Connection, path: &Path, version: u32) -> Result<Vec<String>> {
    let (found, expected) = (schema(conn)?, schema(&migrations::release().fresh(version, path)?)?);
    let added = found.iter().filter(|it| !expected.contains(it));
    let added = added.map(|(kind, name, _)| format!("{kind} {name} is not as in version {version} of the schema"));
    let missing = expected.iter().filter(|it| !found.iter().any(|found| found.0 == it.0 && found.1 == it.1));
    let missing = missing.map(|(kind, name, _)| format!("{kind} {name} is missing from the schema"));
    Ok(added.chain(missing).collect())
}

/// Fails where a table, index, trigger or view of this program's is missing from a database or is another; what a person has added
/// does no harm.
pub(super) fn require_own_schema(conn: &Connection, path: &Path, version: u32) -> Result<()> {
    let found = schema(conn)?;
    let expected = schema(&migrations::release().fresh(version, path)?)?;
    match expected.into_iter().find(|it| !found.contains(it)) {
        None => Ok(()),
        Some((kind, name, _)) => {
            let detail = format!("{kind} {name} is missing from the schema, or is not as in version {version} of it");
            Err(Error::Corrupt { path: path.to_path_buf(), detail })
        }
    }
}
