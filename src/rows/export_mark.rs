//! Which checkpoint the JSON export in the state directory holds, and which file that was.

use rusqlite::{Connection, OptionalExtension, params};

use super::checkpoint;
use crate::error::Result;

/// What the last export to the state directory was: the file's fingerprint and the newest checkpoint in it.
pub(crate) fn last(conn: &Connection) -> Result<Option<(String, i64)>> {
    Ok(conn
        .query_row("SELECT fingerprint, checkpoint_id FROM export", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// Notes an export to the state directory.
pub(crate) fn note(conn: &Connection, fingerprint: &str, checkpoint_id: i64) -> Result<()> {
    conn.execute(
        "INSERT INTO export (singleton, fingerprint, checkpoint_id) VALUES (1, ?1, ?2)
         ON CONFLICT DO UPDATE SET fingerprint = ?1, checkpoint_id = ?2",
        params![fingerprint, checkpoint_id],
    )?;
    Ok(())
}

/// Whether the JSON export lacks the newest checkpoint.
pub(crate) fn is_behind(conn: &Connection) -> Result<bool> {
    let newest = checkpoint::last_id(conn)?;
    Ok(last(conn)?.map_or(newest > 0, |(_, exported)| exported < newest))
}

/// Forgets it: the export is another state's.
pub(crate) fn clear(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM export", [])?;
    Ok(())
}
