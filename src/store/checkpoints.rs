//! Checkpoints and runs, and what has changed since the last checkpoint.

use rusqlite::Connection;

use super::state_store::StateStore;
use crate::error::{Error, Result};
use crate::model::{ChangeType, Checkpoint, CheckpointReason, EntityKind, Run, StateChange, StateDiff};
use crate::rows::{Entity, changes, checkpoint, run, with_entity};

impl StateStore {
    /// What has changed since the last checkpoint, by anyone, with the entities as they are now.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// let changes = store.changes()?.changes;
    /// assert_eq!((changes[0].id.as_str(), &changes[0].operation), ("T-1", &ChangeOperation::Add));
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(&self) -> Result<StateDiff> {
        self.read(|conn| {
            let mut diff = StateDiff { timestamp: self.now().into(), changes: Vec::new() };
            for (change_type, id, operation) in changes::read(conn)? {
                let data = data(conn, &change_type, &id)?;
                diff.changes.push(StateChange { change_type, operation, id, data });
            }
            Ok(diff)
        })
    }

    /// Records a checkpoint: a marker, as every update is on the disk by itself. Does not refresh the JSON export.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// store.record_checkpoint(&CheckpointReason::TaskCompleted)?;
    /// assert!(store.changes()?.changes.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoState`] where nothing was ever written.
    pub fn record_checkpoint(&self, reason: &CheckpointReason) -> Result<Checkpoint> {
        let keep = self.options().limits.checkpoints;
        self.transaction(|conn| checkpoint::record(conn, reason, self.now(), self.own_run(conn)?.as_ref(), keep))
    }

    /// The newest run of the orchestrator.
    pub fn last_run(&self) -> Result<Option<Run>> {
        self.read(run::last)
    }

    /// The newest runs of the orchestrator, newest first.
    pub fn runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.read(|conn| run::newest(conn, limit))
    }

    /// The newest checkpoints, newest first.
    pub fn checkpoints(&self, limit: u32) -> Result<Vec<Checkpoint>> {
        self.read(|conn| checkpoint::newest(conn, limit))
    }
}

/// An entity as it is now, in the document's layout; `None` where there is none.
fn data(conn: &Connection, change_type: &ChangeType, key: &str) -> Result<Option<serde_json::Value>> {
    let Some(kind) = EntityKind::ALL.into_iter().find(|kind| kind.as_str() == change_type.as_str()) else {
        return Ok(None);
    };
    let data = with_entity!(kind, E => E::find(conn, key)?.map(serde_json::to_value));
    data.transpose().map_err(|error| Error::InvalidValue { record: format!("{kind} {key}"), detail: error.to_string() })
}
