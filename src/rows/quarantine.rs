//! Quarantined records: what imports could not read, verbatim. The table is `set_aside`.

use rusqlite::{Connection, params};

use crate::error::Result;
use crate::model::SetAsideRecord;

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
const BYTES: &str = "(octet_length(source) + octet_length(path) + octet_length(reason) + octet_length(content))";

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

/// Drops what an import set aside, the records after `newest_before`, where the same is kept already.
pub(crate) fn drop_repeated(conn: &Connection, newest_before: i64) -> Result<()> {
    let sql = "DELETE FROM set_aside WHERE set_aside_id IN (
                 SELECT new.set_aside_id
                 FROM set_aside AS old JOIN set_aside AS new USING (source, path, reason, content)
                 WHERE old.set_aside_id <= ?1 AND new.set_aside_id > ?1)";
    conn.execute(sql, [newest_before])?;
    Ok(())
}

/// The records set aside, up to which one they go because of the limit; `None` where all stay. Those after `newest_before`
/// stay.
pub(crate) fn excess(conn: &Connection, newest_before: i64, limit: u64) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT max(set_aside_id) FROM (
           SELECT set_aside_id, sum({}) OVER (ORDER BY set_aside_id DESC) AS bytes FROM set_aside)
         WHERE set_aside_id <= ?1 AND bytes > ?2",
        BYTES
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(conn.query_row(&sql, params![newest_before, limit], |row| row.get(0))?)
}

/// Drops the records set aside up to that one; how many.
pub(crate) fn drop_up_to(conn: &Connection, up_to: i64) -> Result<u64> {
    Ok(conn.execute("DELETE FROM set_aside WHERE set_aside_id <= ?1", [up_to])? as u64)
}
