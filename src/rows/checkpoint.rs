//! Checkpoints: markers with a reason and a time.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};

use super::MOST_AT_ONCE;
use super::{changes, head};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, CheckpointReason, Run, Timestamp};

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
    changes::clear(conn)?;
    trim(conn, keep)?;
    Ok(checkpoint)
}

/// Records that the state as a whole was replaced by an earlier one, whose document stays word for word: a checkpoint
/// that the document does not tell of, and a change that tells those who follow the changes to start over.
pub(crate) fn record_restore(conn: &Connection, now: DateTime<Utc>, run: Option<&Run>) -> Result<()> {
    insert(conn, &CheckpointReason::ErrorRecovery, now, run)?;
    changes::note_replacement(conn)
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
pub(crate) fn newest(conn: &Connection, limit: u32) -> Result<Vec<Checkpoint>> {
    let sql = "SELECT checkpointed_at, reason FROM checkpoints ORDER BY checkpoint_id DESC LIMIT ?1";
    let mut select = conn.prepare_cached(sql)?;
    let rows = select.query_map([limit], |row| {
        Ok(Checkpoint { checkpointed_at: row.get::<_, String>(0)?.into(), reason: row.get::<_, String>(1)?.into() })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Number of the newest checkpoint; 0 where there is none.
pub(crate) fn last_id(conn: &Connection) -> Result<i64> {
    Ok(conn.query_row("SELECT coalesce(max(checkpoint_id), 0) FROM checkpoints", [], |row| row.get(0))?)
}

/// Drops the oldest checkpoints beyond the limit.
fn trim(conn: &Connection, keep: u32) -> Result<()> {
    let sql = "DELETE FROM checkpoints WHERE checkpoint_id IN (
                 SELECT checkpoint_id FROM checkpoints AS old
                 WHERE checkpoint_id <= (SELECT checkpoint_id FROM checkpoints ORDER BY checkpoint_id DESC LIMIT 1 OFFSET ?1)
                   AND checkpoint_id NOT IN (SELECT checkpoint_id FROM export)
                   AND (NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = old.run_id)
                     OR EXISTS (SELECT 1 FROM checkpoints AS later
                                WHERE later.run_id = old.run_id AND later.checkpoint_id > old.checkpoint_id))
                 ORDER BY checkpoint_id LIMIT ?2)";
    conn.prepare_cached(sql)?.execute([keep.max(1), MOST_AT_ONCE])?;
    Ok(())
}
