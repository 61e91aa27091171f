//! Integrity of the tables of ours, whatever a person added.
//!
//! An index or a column of a person's may need a function that this SQLite does not have; that is reported as such and not as
//! damage. Nothing is written.

use std::path::PathBuf;

use rusqlite::Connection;

use super::compare::OwnObjects;
use super::released::{ForeignKey, ReleasedSchema};
use super::sql::quoted;
use crate::error::{Error, Result};

/// A table of ours with rows that refer to nothing.
pub(in crate::db) fn broken_reference(conn: &Connection, schema: &ReleasedSchema) -> Result<Option<String>> {
    Ok(broken_references(conn, schema, 1)?.into_iter().next().map(|(table, _)| table))
}

/// The tables of ours with how many of their rows refer to nothing, at most `most` of each. What a person's own tables and columns
/// refer to is theirs: `PRAGMA foreign_key_check` looks at that, too, and fails where it fits nothing.
pub(in crate::db) fn broken_references(
    conn: &Connection,
    schema: &ReleasedSchema,
    most: u32,
) -> Result<Vec<(String, u64)>> {
    let mut broken = Vec::new();
    for ForeignKey { table: child, from, parent, to, .. } in &schema.foreign_keys {
        let (table, from, parent, to) =
            (quoted(child), quoted(from), quoted(parent), quoted(to.as_ref().unwrap_or(from)));
        let sql = format!(
            "SELECT count(*) FROM (
               SELECT 1 FROM {table} AS child WHERE child.{from} IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM {parent} AS parent WHERE parent.{to} = child.{from}) LIMIT {most}
             )"
        );
        match conn.query_row(&sql, [], |row| row.get(0))? {
            0 => {}
            number => broken.push((child.clone(), number)),
        }
    }
    Ok(broken)
}

/// Whether SQLite refused a statement as SQL. As the SQL of a check is right, the schema then calls a function that SQLite does not
/// have or does not trust.
pub(crate) fn is_missing_function(error: &rusqlite::Error) -> bool {
    let code = match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => error.extended_code,
        _ => return false,
    };
    code == rusqlite::ffi::SQLITE_ERROR
}

/// What SQLite finds wrong with a database. Where somebody has tables in it and each of ours is whole, it is theirs, which is logged.
pub(in crate::db) fn integrity_problem(conn: &Connection, schema: &ReleasedSchema) -> Result<Option<String>> {
    let verdict = |pragma: &str| -> rusqlite::Result<String> { conn.query_row(pragma, [], |row| row.get(0)) };
    let whole = match verdict("PRAGMA integrity_check(1)") {
        Ok(verdict) if verdict == "ok" => return Ok(None),
        // A function of a person's own index or constraint that this SQLite does not have, or does not trust.
        Err(error) if is_missing_function(&error) => error.to_string(),
        verdict => verdict?,
    };
    if OwnObjects::find(conn, schema)?.is_empty() {
        return Ok(Some(whole));
    }
    let tables = schema.entries.iter().filter(|entry| entry.kind == "table").map(|entry| entry.name.as_str());
    for table in tables.chain(["sqlite_schema"]) {
        match verdict(&format!("PRAGMA integrity_check({})", quoted(table))) {
            Ok(verdict) if verdict == "ok" => {}
            // It is on this table of ours, which so cannot be checked.
            Err(error) if is_missing_function(&error) => return Err(uncheckable(conn, schema, table, error)?),
            verdict => return Ok(Some(verdict?)),
        }
    }
    tracing::info!(verdict = whole, "something that somebody added to the database is not as it should be");
    Ok(None)
}

/// Names what somebody added to a table of ours, where it makes that SQLite cannot check the table.
fn uncheckable(conn: &Connection, schema: &ReleasedSchema, table: &str, source: rusqlite::Error) -> Result<Error> {
    let own = OwnObjects::find(conn, schema)?;
    let is_here = |it: &str| it.eq_ignore_ascii_case(table);
    let indexes = own.of_kind("index").filter(|it| is_here(&it.table));
    let indexes = indexes.map(|it| format!("the index {:?} on {table}", it.name));
    let columns = own.columns.iter().filter(|it| is_here(&it.table));
    let objects: Vec<_> = indexes.chain(columns.map(|it| format!("the column {:?} of {table}", it.name))).collect();
    let path = PathBuf::from(conn.path().unwrap_or_default());
    Ok(if objects.is_empty() { source.into() } else { Error::OwnObject { path, objects, source } })
}
