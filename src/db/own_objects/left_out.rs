//! Objects of a person's that cannot stay in a database: they are written to a file, as SQL, and logged by name.
//!
//! The file is written atomically before the change that needs it is committed, so nothing is lost by a kill; a file that is
//! written twice has two names.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::released::SchemaEntry;
use super::sql::{list, literal, quoted, stored_columns};
use crate::error::{Error, Result};
use crate::state_dir::{LEFT_OUT_PREFIX, replace_file};

/// Something of a person's that cannot stay in the database.
#[derive(Debug)]
pub(crate) struct LeftOut {
    /// What it is, for instance `view "mine"`.
    pub(crate) object: String,
    /// Why it cannot stay.
    pub(crate) reason: String,
    /// The SQL that makes it again, with its rows.
    pub(super) sql: String,
}

impl LeftOut {
    pub(super) fn new(entry: &SchemaEntry, reason: impl Into<String>, sql: String) -> Self {
        Self { object: format!("{} {:?}", entry.kind, entry.name), reason: reason.into(), sql }
    }
}

/// Why SQLite refused something, without the path of a copy.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Sqlite { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// Writes what cannot stay to a file in a directory, as SQL, and logs it by name; `None` where there is nothing.
pub(crate) fn keep_in_file(directory: &Path, left_out: &[LeftOut]) -> Result<Option<PathBuf>> {
    if left_out.is_empty() {
        return Ok(None);
    }
    let mut millis = chrono::Utc::now().timestamp_millis();
    let file = |millis| directory.join(format!("{LEFT_OUT_PREFIX}{millis}.sql"));
    while file(millis).exists() {
        millis += 1;
    }
    let path = file(millis);
    replace_file(&path, |out| {
        let mut write = |text: String| out.write_all(text.as_bytes()).map_err(Error::io("write", &path));
        write(
            "-- Objects that somebody had added to state.db and that could not stay in it, each with the reason.\n"
                .into(),
        )?;
        // In an order in which they can be made again.
        let rank =
            |it: &&LeftOut| ["table", "column", "index", "view"].iter().position(|kind| it.object.starts_with(kind));
        let mut in_order: Vec<_> = left_out.iter().collect();
        in_order.sort_by_key(|it| rank(it).unwrap_or(usize::MAX));
        for LeftOut { object, reason, sql } in in_order {
            write(format!("\n-- {object}: {}\n{sql}", reason.split_whitespace().collect::<Vec<_>>().join(" ")))?;
        }
        Ok(())
    })?;
    for LeftOut { object, reason, .. } in left_out {
        tracing::warn!(object, reason, file = %path.display(), "somebody's own object could not stay in the database; the file has it");
    }
    Ok(Some(path))
}

/// A table with its rows, as SQL. Of a damaged table, the rows that can be read.
pub(super) fn dump(conn: &Connection, table: &SchemaEntry) -> Result<String> {
    let mut sql = format!("{};\n", table.sql);
    let (Ok(columns), true) = (stored_columns(conn, &table.name), !table.sql.is_empty()) else { return Ok(sql) };
    let names = list(&columns);
    let Ok(mut select) = conn.prepare(&format!("SELECT {names} FROM {}", quoted(&table.name))) else { return Ok(sql) };
    let mut rows = select.query([])?;
    while let Ok(Some(row)) = rows.next() {
        let values: Vec<_> =
            (0..columns.len()).map(|index| row.get_ref(index).map(literal)).collect::<rusqlite::Result<_>>()?;
        let _ = writeln!(sql, "INSERT INTO {} ({names}) VALUES ({});", quoted(&table.name), values.join(", "));
    }
    Ok(sql)
}
