//! Records that an import could not read, word for word.

use rusqlite::{Connection, params};

use crate::error::Result;
use crate::model::Timestamp;

/// Something that stood in a document and could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetAsideRecord {
    /// When it was set aside.
    pub set_aside_at: Timestamp,
    /// The file it came from.
    pub source: String,
    /// Where it stood in the document, for instance `$.tasks[3]`.
    pub path: String,
    /// Why it could not be read.
    pub reason: String,
    /// Its JSON text, as it stood in the file.
    pub content: String,
}

/// Keeps a record.
pub(crate) fn insert(conn: &Connection, record: &SetAsideRecord) -> Result<()> {
    let SetAsideRecord { set_aside_at, source, path, reason, content } = record;
    conn.prepare_cached("INSERT INTO set_aside (set_aside_at, source, path, reason, content) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![set_aside_at.as_str(), source, path, reason, content])?;
    Ok(())
}

/// Number of the newest record; 0 where there is none.
pub(crate) fn newest(conn: &Connection) -> Result<i64> {
    Ok(conn.query_row("SELECT coalesce(max(set_aside_id), 0) FROM set_aside", [], |row| row.get(0))?)
}

/// The bytes that a record takes.
pub(super) const BYTES: &str =
    "(octet_length(source) + octet_length(path) + octet_length(reason) + octet_length(content))";

/// How many records there are, and the bytes of their content.
pub(crate) fn size(conn: &Connection) -> Result<(u64, u64)> {
    let sql = format!("SELECT count(*), coalesce(sum({BYTES}), 0) FROM set_aside");
    Ok(conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Reads all records, oldest first.
pub(crate) fn read(conn: &Connection) -> Result<Vec<SetAsideRecord>> {
    let mut select =
        conn.prepare_cached("SELECT set_aside_at, source, path, reason, content FROM set_aside ORDER BY set_aside_id")?;
    let rows = select.query_map([], |row| {
        Ok(SetAsideRecord {
            set_aside_at: row.get::<_, String>(0)?.into(),
            source: row.get(1)?,
            path: row.get(2)?,
            reason: row.get(3)?,
            content: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
