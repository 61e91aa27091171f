//! Which backup a database is: one row in a backup, none in a state.

use rusqlite::{Connection, params};

use crate::error::Result;
use crate::model::Timestamp;

/// Marks a copy as a backup.
pub(crate) fn note(copy: &Connection, id: &str, label: &str, created_at: &Timestamp) -> Result<()> {
    clear(copy)?;
    copy.execute(
        "INSERT INTO backup (singleton, backup_id, label, created_at) VALUES (1, ?, ?, ?)",
        params![id, label, created_at.as_str()],
    )?;
    Ok(())
}

/// Removes the mark: the copy is not a backup any more.
pub(crate) fn clear(copy: &Connection) -> Result<()> {
    copy.execute("DELETE FROM backup", [])?;
    Ok(())
}
