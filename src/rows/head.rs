//! The head of the document: its id, version, mode, last checkpoint and metadata. One row.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};

use crate::db::{RowReader, Table, integer, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{
    CheckpointReason, OrchestratorMetadata, OrchestratorMode, OrchestratorState, STATE_VERSION, Timestamp,
};

pub(super) static TABLE: Table<OrchestratorState> = Table::new(
    "state",
    &[
        ("singleton", |_| integer(1)),
        ("id", |state| text(&state.id)),
        ("version", |state| text(&state.version)),
        ("checkpointed_at", |state| text(state.checkpointed_at.as_str())),
        ("checkpoint_reason", |state| text(state.checkpoint_reason.as_str())),
        ("mode", |state| optional_text(state.mode.as_ref().map(OrchestratorMode::as_str))),
        ("metadata_version", |state| text(&state.metadata.version)),
        ("hostname", |state| text(&state.metadata.hostname)),
        ("pid", |state| integer(state.metadata.pid)),
        ("started_at", |state| text(state.metadata.started_at.as_str())),
        ("uptime_seconds", |state| integer(state.metadata.uptime_seconds)),
        ("restart_count", |state| integer(state.metadata.restart_count)),
        ("metadata_extra", |state| unknown_keys(&state.metadata.extra)),
        ("extra", |state| unknown_keys(&state.extra)),
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

fn from_row(row: &mut RowReader<'_>) -> Result<OrchestratorState> {
    row.get::<i64>("singleton")?;
    Ok(OrchestratorState {
        id: row.get("id")?,
        version: row.get("version")?,
        checkpointed_at: row.text("checkpointed_at")?,
        checkpoint_reason: row.text("checkpoint_reason")?,
        mode: row.optional_text("mode")?,
        metadata: OrchestratorMetadata {
            version: row.get("metadata_version")?,
            hostname: row.get("hostname")?,
            pid: row.get("pid")?,
            started_at: row.text("started_at")?,
            uptime_seconds: row.get("uptime_seconds")?,
            restart_count: row.get("restart_count")?,
            extra: row.extra("metadata_extra")?,
        },
        extra: row.extra("extra")?,
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
    TABLE.write(conn, state)
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
pub(crate) fn note_checkpoint(
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
