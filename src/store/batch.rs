//! Several changes in one transaction.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::{Inner, agent, conversation, first, head, project, self_improvement, task};
use crate::db::{Part, Table};
use crate::error::Result;
use crate::model::{
    AgentState, ConversationState, OrchestratorMode, PersistedMessage, ProjectState, Record, SelfImprovementState,
    TaskState,
};

/// The changes of one transaction; see [`StateStore::batch`](crate::StateStore::batch).
pub struct Batch<'t> {
    part: &'t Part<'t>,
    store: &'t Inner,
}

impl<'t> Batch<'t> {
    pub(super) fn new(part: &'t Part<'t>, store: &'t Inner) -> Self {
        Self { part, store }
    }

    /// As [`StateStore::update_conversation`](crate::StateStore::update_conversation).
    pub fn update_conversation(&self, conversation: &ConversationState) -> Result<()> {
        conversation.require_unknown_keys(|| format!("conversation {}", conversation.id))?;
        self.run(|conn| conversation::write(conn, conversation, self.store.options.message_limit))
    }

    /// As [`StateStore::append_message`](crate::StateStore::append_message).
    pub fn append_message(&self, conversation_id: &str, message: &PersistedMessage) -> Result<()> {
        message.require_unknown_keys(|| format!("message for conversation {conversation_id}"))?;
        self.run(|conn| conversation::append(conn, conversation_id, message, self.store.options.message_limit))
    }

    /// As [`StateStore::update_task`](crate::StateStore::update_task).
    pub fn update_task(&self, task: &TaskState) -> Result<()> {
        task.require_unknown_keys(|| format!("task {}", task.id))?;
        self.run(|conn| task::write(conn, task))
    }

    /// As [`StateStore::update_agent`](crate::StateStore::update_agent).
    pub fn update_agent(&self, agent: &AgentState) -> Result<()> {
        agent.require_unknown_keys(|| format!("agent {}", agent.session_name))?;
        self.run(|conn| agent::write(conn, agent))
    }

    /// As [`StateStore::update_project`](crate::StateStore::update_project).
    pub fn update_project(&self, project: &ProjectState) -> Result<()> {
        project.require_unknown_keys(|| format!("project {}", project.id))?;
        self.run(|conn| project::write(conn, project))
    }

    /// As [`StateStore::update_self_improvement`](crate::StateStore::update_self_improvement).
    pub fn update_self_improvement(&self, state: &SelfImprovementState) -> Result<()> {
        state.require_unknown_keys(|| "self-improvement".into())?;
        self.run(|conn| self_improvement::write(conn, state))
    }

    /// As [`StateStore::remove_conversation`](crate::StateStore::remove_conversation).
    pub fn remove_conversation(&self, id: &str) -> Result<bool> {
        self.remove(&conversation::TABLE, id)
    }

    /// As [`StateStore::remove_task`](crate::StateStore::remove_task).
    pub fn remove_task(&self, id: &str) -> Result<bool> {
        self.remove(&task::TABLE, id)
    }

    /// As [`StateStore::remove_agent`](crate::StateStore::remove_agent).
    pub fn remove_agent(&self, session_name: &str) -> Result<bool> {
        self.remove(&agent::TABLE, session_name)
    }

    /// As [`StateStore::remove_project`](crate::StateStore::remove_project).
    pub fn remove_project(&self, id: &str) -> Result<bool> {
        self.remove(&project::TABLE, id)
    }

    /// As [`StateStore::clear_self_improvement`](crate::StateStore::clear_self_improvement).
    pub fn clear_self_improvement(&self) -> Result<bool> {
        self.run(self_improvement::clear)
    }

    /// As [`StateStore::set_mode`](crate::StateStore::set_mode).
    pub fn set_mode(&self, mode: &OrchestratorMode) -> Result<()> {
        self.run(|conn| head::set_mode(conn, mode))
    }

    /// The conversation with that id, with what this batch has changed so far.
    pub fn conversation(&self, id: &str) -> Result<Option<ConversationState>> {
        self.run(|conn| first(|each| conversation::read(conn, "WHERE id = ?1", [id], each)))
    }

    /// The task with that id, with what this batch has changed so far.
    pub fn task(&self, id: &str) -> Result<Option<TaskState>> {
        self.run(|conn| first(|each| task::read(conn, "WHERE id = ?1", [id], each)))
    }

    /// The agent with that session name, with what this batch has changed so far.
    pub fn agent(&self, session_name: &str) -> Result<Option<AgentState>> {
        self.run(|conn| first(|each| agent::read(conn, "WHERE session_name = ?1", [session_name], each)))
    }

    /// The project with that id, with what this batch has changed so far.
    pub fn project(&self, id: &str) -> Result<Option<ProjectState>> {
        self.run(|conn| first(|each| project::read(conn, "WHERE id = ?1", [id], each)))
    }

    /// The state of the orchestrator's work on its own code, with what this batch has changed so far.
    pub fn self_improvement(&self) -> Result<Option<SelfImprovementState>> {
        self.run(self_improvement::read)
    }

    fn remove(&self, table: &Table, key: &str) -> Result<bool> {
        self.run(|conn| table.delete(conn, key))
    }

    /// Makes sure that the state has a head.
    pub(super) fn ensure_head(&self, now: DateTime<Utc>) -> Result<()> {
        self.run(|conn| head::ensure(conn, now))
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.part.step(work).map_err(|error| self.store.database.explain(error))
    }
}
