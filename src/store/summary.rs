//! What is there, in numbers.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{Checkpoint, Run, checkpoint, head, run};
use crate::db::latest_schema_version;
use crate::error::Result;
use crate::model::{OrchestratorMode, STATE_VERSION};

/// What is there, in numbers.
#[derive(Debug, Clone, PartialEq)]
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
    /// How many tasks in each status.
    pub tasks_by_status: BTreeMap<String, u64>,
    /// How many backups lie in `backups/`.
    pub backups: u64,
    /// The newest checkpoint.
    pub last_checkpoint: Option<Checkpoint>,
    /// The newest run.
    pub last_run: Option<Run>,
}

/// How many of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Conversations.
    pub conversations: u64,
    /// Messages of all conversations.
    pub messages: u64,
    /// Tasks.
    pub tasks: u64,
    /// Agents.
    pub agents: u64,
    /// Projects.
    pub projects: u64,
    /// 1 while the orchestrator works on its own code.
    pub self_improvement: u64,
    /// Records that imports could not read.
    pub set_aside: u64,
}

impl Counts {
    /// Conversations, tasks, agents, projects and self-improvement.
    pub fn entities(&self) -> u64 {
        self.conversations + self.tasks + self.agents + self.projects + self.self_improvement
    }
}

pub(crate) fn counts(conn: &Connection) -> Result<Counts> {
    let sql = "SELECT (SELECT count(*) FROM conversations), (SELECT count(*) FROM messages),
                      (SELECT count(*) FROM tasks), (SELECT count(*) FROM agents), (SELECT count(*) FROM projects),
                      (SELECT count(*) FROM self_improvement), (SELECT count(*) FROM set_aside)";
    Ok(conn.query_row(sql, [], |row| {
        Ok(Counts {
            conversations: row.get(0)?,
            messages: row.get(1)?,
            tasks: row.get(2)?,
            agents: row.get(3)?,
            projects: row.get(4)?,
            self_improvement: row.get(5)?,
            set_aside: row.get(6)?,
        })
    })?)
}

pub(crate) fn read(conn: &Connection, backups: u64) -> Result<StoreSummary> {
    let head = head::read(conn)?;
    let mut tasks_by_status = BTreeMap::new();
    let mut select = conn.prepare_cached("SELECT status, count(*) FROM tasks GROUP BY status")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        tasks_by_status.insert(row.get(0)?, row.get(1)?);
    }
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok(StoreSummary {
        schema_version: latest_schema_version(),
        state_version: head.as_ref().map_or_else(|| STATE_VERSION.to_owned(), |state| state.version.clone()),
        database_bytes: pragma("page_count")? * pragma("page_size")?,
        mode: head.and_then(|state| state.mode).unwrap_or_default(),
        counts: counts(conn)?,
        tasks_by_status,
        backups,
        last_checkpoint: checkpoint::last(conn)?,
        last_run: run::last(conn)?,
    })
}
