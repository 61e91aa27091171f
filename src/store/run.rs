//! Runs of the orchestrator.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};
use serde::Serialize;

use super::{head, limits};
use crate::error::Result;
use crate::model::{OrchestratorMetadata, Timestamp};

/// A start of the orchestrator, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its number; rises with each start.
    pub run_id: i64,
    /// Its machine.
    pub hostname: String,
    /// Its process.
    pub pid: i64,
    /// When it started.
    pub started_at: Timestamp,
    /// How often the orchestrator had been restarted by then; 0 in the first run.
    pub restart_count: i64,
    /// When it ended; `None` while it runs, and after a crash.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it runs, and after a crash that no later start has noticed yet.
    pub outcome: Option<RunOutcome>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It was shut down.
    Shutdown,
    /// It ended without a word; the next start noticed.
    Crashed,
    /// A second service in its process went on in its place.
    TakenOver,
}

impl RunOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Crashed => "crashed",
            Self::TakenOver => "taken_over",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "shutdown" => Self::Shutdown,
            "taken_over" => Self::TakenOver,
            _ => Self::Crashed,
        }
    }
}

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
    limits::trim_runs(conn, keep)?;
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
pub(super) fn newest(conn: &Connection, limit: u32) -> Result<Vec<Run>> {
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
