//! The head of the document: its id, version, mode, last checkpoint and metadata. One row.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};

use crate::db::{RowReader, Table, integer, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{
    CheckpointReason, OrchestratorMetadata, OrchestratorMode, OrchestratorState, STATE_VERSION, Timestamp,
};

static TABLE: Table = Table::new(
    "state",
    &[
        "singleton",
        "id",
        "version",
        "checkpointed_at",
        "checkpoint_reason",
        "mode",
        "metadata_version",
        "hostname",
        "pid",
        "started_at",
        "uptime_seconds",
        "restart_count",
        "metadata_extra",
        "extra",
    ],
);

/// A state to which nothing was ever written: its head, with no entities.
pub(crate) fn new(now: DateTime<Utc>) -> OrchestratorState {
    OrchestratorState {
        id: format!("state-{}", now.timestamp_millis()),
        version: STATE_VERSION.to_owned(),
        checkpointed_at: now.into(),
        checkpoint_reason: CheckpointReason::Scheduled,
        metadata: OrchestratorMetadata {
            version: STATE_VERSION.to_owned(),
            hostname: hostname(),
            pid: std::process::id().into(),
            started_at: now.into(),
            ..OrchestratorMetadata::default()
        },
        ..OrchestratorState::default()
    }
}

/// This machine's name.
pub(crate) fn hostname() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// Reads the head; `None` where nothing was ever written.
pub(crate) fn read(conn: &Connection) -> Result<Option<OrchestratorState>> {
    let mut found = None;
    TABLE.read(conn, "", [], |row| {
        found = Some(from_row(row)?);
        Ok(())
    })?;
    Ok(found)
}

fn from_row(mut row: RowReader<'_>) -> Result<OrchestratorState> {
    row.get::<i64>()?;
    Ok(OrchestratorState {
        id: row.get()?,
        version: row.get()?,
        checkpointed_at: row.text()?,
        checkpoint_reason: row.text()?,
        mode: row.optional_text()?,
        metadata: OrchestratorMetadata {
            version: row.get()?,
            hostname: row.get()?,
            pid: row.get()?,
            started_at: row.text()?,
            uptime_seconds: row.get()?,
            restart_count: row.get()?,
            extra: row.extra()?,
        },
        extra: row.extra()?,
        ..OrchestratorState::default()
    })
}

/// The head, also where nothing was ever written by this library: rows may have been added by hand.
pub(crate) fn read_or_new(conn: &Connection, now: DateTime<Utc>) -> Result<OrchestratorState> {
    Ok(read(conn)?.unwrap_or_else(|| new(now)))
}

/// Whether the head holds more than the start of a run gives it: a checkpoint, a mode, or a document that was imported.
pub(crate) fn was_saved(conn: &Connection) -> Result<bool> {
    let Some(state) = read(conn)? else { return Ok(false) };
    // The head of a new state is named after the moment of its making.
    let is_new = state.checkpointed_at.parse().is_some_and(|at| state.id == format!("state-{}", at.timestamp_millis()));
    let is_untouched = is_new && state.mode.is_none() && state.extra.is_empty() && state.metadata.extra.is_empty();
    Ok(!is_untouched || conn.prepare_cached("SELECT 1 FROM checkpoints")?.exists([])?)
}

/// Writes the head of a state; its entities are not looked at.
pub(crate) fn write(conn: &Connection, state: &OrchestratorState) -> Result<()> {
    let OrchestratorState {
        id,
        version,
        checkpointed_at,
        checkpoint_reason,
        mode,
        metadata,
        extra,
        conversations: _,
        tasks: _,
        agents: _,
        projects: _,
        self_improvement: _,
    } = state;
    let OrchestratorMetadata {
        version: metadata_version,
        hostname,
        pid,
        started_at,
        uptime_seconds,
        restart_count,
        extra: metadata_extra,
    } = metadata;
    TABLE.write(
        conn,
        &[
            integer(1),
            text(id),
            text(version),
            text(checkpointed_at.as_str()),
            text(checkpoint_reason.as_str()),
            optional_text(mode.as_ref().map(OrchestratorMode::as_str)),
            text(metadata_version),
            text(hostname),
            integer(*pid),
            text(started_at.as_str()),
            integer(*uptime_seconds),
            integer(*restart_count),
            unknown_keys(metadata_extra)?,
            unknown_keys(extra)?,
        ],
    )
}

/// Gives the state a head where it has none: before the first write.
pub(crate) fn ensure(conn: &Connection, now: DateTime<Utc>) -> Result<()> {
    if conn.prepare_cached("SELECT 1 FROM state")?.exists([])? {
        return Ok(());
    }
    write(conn, &new(now))
}

/// Sets the mode.
pub(crate) fn set_mode(conn: &Connection, mode: &OrchestratorMode) -> Result<()> {
    conn.execute("UPDATE state SET mode = ?1 WHERE mode IS NOT ?1", [mode.as_str()])?;
    Ok(())
}

/// Notes the last checkpoint; `uptime` in seconds where an orchestrator is running.
pub(super) fn note_checkpoint(
    conn: &Connection,
    at: &Timestamp,
    reason: &CheckpointReason,
    uptime: Option<i64>,
) -> Result<()> {
    conn.execute(
        "UPDATE state SET checkpointed_at = ?1, checkpoint_reason = ?2, uptime_seconds = coalesce(?3, uptime_seconds)",
        params![at.as_str(), reason.as_str(), uptime],
    )?;
    Ok(())
}
