//! SQL text and the catalogue: quoted names, literals, and the columns of a table. Nothing here writes.

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::error::Result;

/// The columns that identify a row for people and for other tables: those of a unique constraint, or the primary key.
pub(super) fn identity(conn: &Connection, table: &str) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin = 'u' ORDER BY seq DESC LIMIT 1";
    if let Some(index) = texts(conn, sql, [table])?.pop() {
        return texts(conn, "SELECT name FROM pragma_index_info(?1) ORDER BY seqno", [&index]);
    }
    key(conn, table)
}

pub(super) fn key(conn: &Connection, table: &str) -> Result<Vec<String>> {
    texts(conn, "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk", [table])
}

/// All columns of a table, also generated ones.
pub(super) fn columns(conn: &Connection, table: &str) -> Result<Vec<String>> {
    texts(conn, "SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid", [table])
}

/// The columns of a table that hold values of their own.
pub(super) fn stored_columns(conn: &Connection, table: &str) -> Result<Vec<String>> {
    texts(conn, "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid", [table])
}

pub(super) fn texts(conn: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<String>> {
    Ok(conn.prepare(sql)?.query_map(parameters, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn list(columns: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    columns.into_iter().map(|column| quoted(column.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A name as SQL, whatever characters it holds.
pub(in crate::db) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a text begins with another, ignoring ASCII case.
pub(super) fn starts_with(text: &str, beginning: &str) -> bool {
    text.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}

/// A value as SQL.
pub(super) fn literal(value: ValueRef<'_>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) if number.is_infinite() => if number > 0.0 { "9e999" } else { "-9e999" }.into(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\0') => format!("'{}'", text.replace('\'', "''")),
            _ => format!("CAST(X'{}' AS TEXT)", hex(text)),
        },
        ValueRef::Blob(bytes) => format!("X'{}'", hex(bytes)),
    }
}
