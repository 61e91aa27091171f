//! Runs of the orchestrator.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};

use super::MOST_AT_ONCE;
use super::head;
use crate::error::Result;
use crate::model::{OrchestratorMetadata, Run, RunOutcome, Timestamp};

/// Starts a run: runs that are still open have crashed, and the metadata of the state become this run's.
///
/// The caller holds the state directory, so no open run can be alive. `keep` is how many runs stay.
pub(crate) fn start(conn: &Connection, now: DateTime<Utc>, keep: u32) -> Result<Run> {
    close_open_as_crashed(conn)?;
    let previous = head::read(conn)?;
    let restart_count = previous.as_ref().map_or(0, |state| state.metadata.restart_count.saturating_add(1));
    let mut state = previous.unwrap_or_else(|| head::new(now));
    state.metadata = OrchestratorMetadata {
        hostname: head::hostname(),
        pid: std::process::id().into(),
        started_at: now.into(),
        uptime_seconds: 0,
        restart_count,
        ..state.metadata
    };
    head::write(conn, &state)?;
    let OrchestratorMetadata { hostname, pid, started_at, .. } = state.metadata;
    let run = Run { run_id: 0, hostname, pid, started_at, restart_count, ended_at: None, outcome: None };
    let run = Run { run_id: insert(conn, &run)?, ..run };
    trim(conn, keep)?;
    Ok(run)
}

/// Adds a run that is open, after all others, and returns its number.
pub(crate) fn insert(conn: &Connection, run: &Run) -> Result<i64> {
    conn.execute(
        "INSERT INTO runs (hostname, pid, started_at, restart_count) VALUES (?, ?, ?, ?)",
        params![run.hostname, run.pid, run.started_at.as_str(), run.restart_count],
    )?;
    Ok(conn.last_insert_rowid())
}

/// Runs that are still open, and whose processes cannot be alive, have crashed.
pub(crate) fn close_open_as_crashed(conn: &Connection) -> Result<()> {
    conn.execute("UPDATE runs SET outcome = ?1 WHERE outcome IS NULL", [RunOutcome::Crashed.as_str()])?;
    Ok(())
}

/// Ends the run that is open.
pub(crate) fn end(conn: &Connection, outcome: RunOutcome, now: DateTime<Utc>) -> Result<()> {
    conn.execute(
        "UPDATE runs SET ended_at = ?1, outcome = ?2 WHERE outcome IS NULL",
        params![Timestamp::from(now).as_str(), outcome.as_str()],
    )?;
    Ok(())
}

/// The newest run.
pub(crate) fn last(conn: &Connection) -> Result<Option<Run>> {
    before(conn, i64::MAX)
}

/// The newest runs, newest first.
pub(crate) fn newest(conn: &Connection, limit: u32) -> Result<Vec<Run>> {
    select(conn, i64::MAX, limit)
}

/// The run that goes on, or that has crashed without anyone having noticed.
pub(crate) fn open(conn: &Connection) -> Result<Option<Run>> {
    Ok(last(conn)?.filter(|run| run.outcome.is_none()))
}

/// The newest run before another one.
pub(crate) fn before(conn: &Connection, run_id: i64) -> Result<Option<Run>> {
    Ok(select(conn, run_id, 1)?.pop())
}

fn select(conn: &Connection, before: i64, limit: u32) -> Result<Vec<Run>> {
    let sql = "SELECT run_id, hostname, pid, started_at, restart_count, ended_at, outcome
               FROM runs WHERE run_id < ?1 ORDER BY run_id DESC LIMIT ?2";
    let mut select = conn.prepare_cached(sql)?;
    let rows = select.query_map((before, limit), |row| {
        Ok(Run {
            run_id: row.get(0)?,
            hostname: row.get(1)?,
            pid: row.get(2)?,
            started_at: row.get::<_, String>(3)?.into(),
            restart_count: row.get(4)?,
            ended_at: row.get::<_, Option<String>>(5)?.map(Timestamp::from),
            outcome: row.get::<_, Option<String>>(6)?.map(|text| RunOutcome::parse(&text)),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Drops the oldest runs beyond the limit.
fn trim(conn: &Connection, keep: u32) -> Result<()> {
    let sql = "DELETE FROM runs WHERE run_id IN (
                 SELECT run_id FROM runs
                 WHERE run_id <= (SELECT run_id FROM runs ORDER BY run_id DESC LIMIT 1 OFFSET ?1) AND outcome IS NOT NULL
                 ORDER BY run_id LIMIT ?2)";
    conn.prepare_cached(sql)?.execute([keep.max(2), MOST_AT_ONCE])?;
    Ok(())
}
