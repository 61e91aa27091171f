//! Checkpoints, what has changed since the last one, and which one the JSON export holds.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::{Run, head, limits};
use crate::error::{Error, Result};
use crate::model::{ChangeOperation, ChangeType, CheckpointReason, Timestamp};

/// A checkpoint: a marker that says when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// When it was made.
    pub checkpointed_at: Timestamp,
    /// Why.
    pub reason: CheckpointReason,
}

/// Records a checkpoint; what has changed so far is then in the past. `run` is the run that makes it, where one does;
/// `keep` is how many stay.
pub(crate) fn record(
    conn: &Connection,
    reason: &CheckpointReason,
    now: DateTime<Utc>,
    run: Option<&Run>,
    keep: u32,
) -> Result<Checkpoint> {
    if head::read(conn)?.is_none() {
        return Err(Error::NoState { path: conn.path().map(Into::into).unwrap_or_default() });
    }
    let checkpoint = insert(conn, reason, now, run)?;
    let uptime = run.map(|run| uptime_seconds(run, now));
    head::note_checkpoint(conn, &checkpoint.checkpointed_at, reason, uptime)?;
    conn.execute("DELETE FROM changes_since_checkpoint", [])?;
    limits::trim_checkpoints(conn, keep)?;
    Ok(checkpoint)
}

/// Records that the state as a whole was replaced by an earlier one, whose document stays word for word: a checkpoint
/// that the document does not tell of, and a change that tells those who follow the changes to start over.
pub(crate) fn record_restore(conn: &Connection, now: DateTime<Utc>, run: Option<&Run>) -> Result<()> {
    insert(conn, &CheckpointReason::ErrorRecovery, now, run)?;
    conn.execute("DELETE FROM changes_since_checkpoint", [])?;
    conn.execute("INSERT INTO changes_since_checkpoint VALUES ('state', '', 'replace')", [])?;
    Ok(())
}

fn insert(conn: &Connection, reason: &CheckpointReason, now: DateTime<Utc>, run: Option<&Run>) -> Result<Checkpoint> {
    let at = Timestamp::from(now);
    conn.execute(
        "INSERT INTO checkpoints (run_id, checkpointed_at, reason, hostname, pid, uptime_seconds)
         VALUES (?, ?, ?, ?, ?, ?)",
        params![
            run.map(|run| run.run_id),
            at.as_str(),
            reason.as_str(),
            head::hostname(),
            std::process::id(),
            run.map_or(0, |run| uptime_seconds(run, now)),
        ],
    )?;
    Ok(Checkpoint { checkpointed_at: at, reason: reason.clone() })
}

/// Never negative, also where the clock was set back.
fn uptime_seconds(run: &Run, now: DateTime<Utc>) -> i64 {
    run.started_at.parse().map_or(0, |started_at| (now - started_at).num_seconds().max(0))
}

/// The newest checkpoint.
pub(crate) fn last(conn: &Connection) -> Result<Option<Checkpoint>> {
    Ok(newest(conn, 1)?.pop())
}

/// The newest checkpoints, newest first.
pub(super) fn newest(conn: &Connection, limit: u32) -> Result<Vec<Checkpoint>> {
    let sql = "SELECT checkpointed_at, reason FROM checkpoints ORDER BY checkpoint_id DESC LIMIT ?1";
    let mut select = conn.prepare_cached(sql)?;
    let rows = select.query_map([limit], |row| {
        Ok(Checkpoint { checkpointed_at: row.get::<_, String>(0)?.into(), reason: row.get::<_, String>(1)?.into() })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether anything has changed since the last checkpoint, by anyone.
pub(crate) fn has_changes(conn: &Connection) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM changes_since_checkpoint")?.exists([])?)
}

/// Notes that all entities are new, as the triggers on their tables would have.
pub(crate) fn note_all_added(conn: &Connection) -> Result<()> {
    for (entity, table, key) in [
        ("conversation", "conversations", "id"),
        ("task", "tasks", "id"),
        ("agent", "agents", "session_name"),
        ("project", "projects", "id"),
        ("self_improvement", "self_improvement", "''"),
    ] {
        let sql = format!(
            "INSERT INTO changes_since_checkpoint SELECT '{entity}', {key}, 'add' FROM {table} WHERE true
             ON CONFLICT DO UPDATE SET operation = 'update'"
        );
        conn.execute(&sql, [])?;
    }
    Ok(())
}

/// What has changed since the last checkpoint: kind, key and operation.
pub(crate) fn changes(conn: &Connection) -> Result<Vec<(ChangeType, String, ChangeOperation)>> {
    let mut select = conn.prepare_cached("SELECT entity, id, operation FROM changes_since_checkpoint")?;
    let rows = select
        .query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?, row.get::<_, String>(2)?.into())))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What the last export to the state directory was: the file's fingerprint and the newest checkpoint in it.
pub(crate) fn last_export(conn: &Connection) -> Result<Option<(String, i64)>> {
    Ok(conn
        .query_row("SELECT fingerprint, checkpoint_id FROM export", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// Notes an export to the state directory.
pub(crate) fn note_export(conn: &Connection, fingerprint: &str, checkpoint_id: i64) -> Result<()> {
    conn.execute(
        "INSERT INTO export (singleton, fingerprint, checkpoint_id) VALUES (1, ?1, ?2)
         ON CONFLICT DO UPDATE SET fingerprint = ?1, checkpoint_id = ?2",
        params![fingerprint, checkpoint_id],
    )?;
    Ok(())
}

/// Number of the newest checkpoint; 0 where there is none.
pub(crate) fn last_id(conn: &Connection) -> Result<i64> {
    Ok(conn.query_row("SELECT coalesce(max(checkpoint_id), 0) FROM checkpoints", [], |row| row.get(0))?)
}

/// Whether the JSON export lacks the newest checkpoint.
pub(crate) fn export_is_behind(conn: &Connection) -> Result<bool> {
    let newest = last_id(conn)?;
    Ok(last_export(conn)?.map_or(newest > 0, |(_, exported)| exported < newest))
}
