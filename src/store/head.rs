//! The head of the document: its id, version, mode, last checkpoint and metadata. One row.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};

use crate::db::{RowReader, Table, integer, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{
    CheckpointReason, OrchestratorMetadata, OrchestratorMode, OrchestratorState, STATE_VERSION, Timestamp,
};

const TABLE: Table = Table {
    name: "state",
    columns: &[
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
};

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

/// Writes the head of a state; its entities are not looked at.
pub(crate) fn write(conn: &Connection, state: &OrchestratorState) -> Result<()> {
    let metadata = &state.metadata;
    TABLE.write(
        conn,
        &[
            integer(1),
            text(&state.id),
            text(&state.version),
            text(state.checkpointed_at.as_str()),
            text(state.checkpoint_reason.as_str()),
            optional_text(state.mode.as_ref().map(OrchestratorMode::as_str)),
            text(&metadata.version),
            text(&metadata.hostname),
            integer(metadata.pid),
            text(metadata.started_at.as_str()),
            integer(metadata.uptime_seconds),
            integer(metadata.restart_count),
            unknown_keys(&metadata.extra)?,
            unknown_keys(&state.extra)?,
        ],
    )?;
    Ok(())
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
