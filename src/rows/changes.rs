//! What has changed since the last checkpoint. Triggers on the tables note it, so it holds what anyone has changed.

use rusqlite::Connection;

use super::entity::Entity;
use crate::error::Result;
use crate::model::{ChangeOperation, ChangeType, EntityKind};

/// Whether anything has changed since the last checkpoint, by anyone.
pub(crate) fn exist(conn: &Connection) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM changes_since_checkpoint")?.exists([])?)
}

/// Notes that all entities are new, as the triggers on their tables would have.
pub(crate) fn note_all_added(conn: &Connection) -> Result<()> {
    for kind in EntityKind::ALL {
        let (table, key) = with_entity!(kind, E => (E::table().name(), E::table().key()));
        let key = if kind.is_single() { "''" } else { key };
        let sql = format!(
            "INSERT INTO changes_since_checkpoint SELECT '{kind}', {key}, 'add' FROM {table} WHERE true
             ON CONFLICT DO UPDATE SET operation = 'update'"
        );
        conn.execute(&sql, [])?;
    }
    Ok(())
}

/// What has changed since the last checkpoint: kind, key and operation.
pub(crate) fn read(conn: &Connection) -> Result<Vec<(ChangeType, String, ChangeOperation)>> {
    let mut select = conn.prepare_cached("SELECT entity, id, operation FROM changes_since_checkpoint")?;
    let rows = select
        .query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?, row.get::<_, String>(2)?.into())))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets what has changed: a checkpoint was made.
pub(crate) fn clear(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM changes_since_checkpoint", [])?;
    Ok(())
}

/// Notes that the state as a whole was replaced by another one, which tells those who follow the changes to start over.
pub(crate) fn note_replacement(conn: &Connection) -> Result<()> {
    clear(conn)?;
    conn.execute("INSERT INTO changes_since_checkpoint VALUES ('state', '', 'replace')", [])?;
    Ok(())
}
