//! What is there, in numbers.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::db::latest_schema_version;
use crate::error::Result;
use crate::model::{Checkpoint, Counts, OrchestratorMode, Run, STATE_VERSION};
use crate::rows::{self, checkpoint, head, quarantine, run, task};

/// What is there, in numbers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StoreSummary {
    /// Version of the database's schema.
    pub schema_version: u32,
    /// Version of the state document's layout.
    pub state_version: String,
    /// Size of the database without its log, in bytes.
    pub database_bytes: u64,
    /// What the orchestrator is doing as a whole.
    pub mode: OrchestratorMode,
    /// How many of each kind.
    pub counts: Counts,
    /// How many quarantined records.
    pub set_aside: u64,
    /// How many tasks in each status.
    pub tasks_by_status: BTreeMap<String, u64>,
    /// How many backups lie in `backups/`.
    pub backups: u64,
    /// The newest checkpoint.
    pub last_checkpoint: Option<Checkpoint>,
    /// The newest run.
    pub last_run: Option<Run>,
}

pub(crate) fn summary(conn: &Connection, backups: u64) -> Result<StoreSummary> {
    let head = head::read(conn)?;
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok(StoreSummary {
        schema_version: latest_schema_version(),
        state_version: head.as_ref().map_or_else(|| STATE_VERSION.to_owned(), |state| state.version.clone()),
        database_bytes: pragma("page_count")? * pragma("page_size")?,
        mode: head.and_then(|state| state.mode).unwrap_or_default(),
        counts: rows::counts(conn)?,
        set_aside: quarantine::size(conn)?.0,
        tasks_by_status: task::count_by_status(conn)?,
        backups,
        last_checkpoint: checkpoint::last(conn)?,
        last_run: run::last(conn)?,
    })
}
