//! Several changes in one transaction.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use crate::db::{Database, Part};
use crate::error::{Error, Result};
use crate::model::{
    AgentState, ConversationState, OrchestratorMode, PersistedMessage, ProjectState, Record, SelfImprovementState,
    TaskState,
};
use crate::rows::{Entity, conversation, head};

/// The changes of one transaction; see [`StateStore::batch`](crate::StateStore::batch).
pub struct Batch<'t> {
    part: &'t Part<'t>,
    database: &'t Database,
    message_limit: usize,
}

impl<'t> Batch<'t> {
    pub(super) fn new(part: &'t Part<'t>, database: &'t Database, message_limit: usize) -> Self {
        Self { part, database, message_limit }
    }

    /// As [`StateStore::update_conversation`](crate::StateStore::update_conversation).
    pub fn update_conversation(&self, conversation: &ConversationState) -> Result<()> {
        self.validate(conversation)?;
        self.run(|conn| conversation::write(conn, conversation, self.message_limit))
    }

    /// As [`StateStore::append_message`](crate::StateStore::append_message).
    pub fn append_message(&self, conversation_id: &str, message: &PersistedMessage) -> Result<()> {
        if let Some(detail) = message.misplaced_key() {
            let record = format!("message for conversation {conversation_id}");
            return Err(Error::InvalidValue { record, detail });
        }
        self.run(|conn| conversation::append(conn, conversation_id, message, self.message_limit))
    }

    /// As [`StateStore::update_task`](crate::StateStore::update_task).
    pub fn update_task(&self, task: &TaskState) -> Result<()> {
        self.write(task)
    }

    /// As [`StateStore::update_agent`](crate::StateStore::update_agent).
    pub fn update_agent(&self, agent: &AgentState) -> Result<()> {
        self.write(agent)
    }

    /// As [`StateStore::update_project`](crate::StateStore::update_project).
    pub fn update_project(&self, project: &ProjectState) -> Result<()> {
        self.write(project)
    }

    /// As [`StateStore::update_self_improvement`](crate::StateStore::update_self_improvement).
    pub fn update_self_improvement(&self, state: &SelfImprovementState) -> Result<()> {
        self.write(state)
    }

    /// As [`StateStore::remove_conversation`](crate::StateStore::remove_conversation).
    pub fn remove_conversation(&self, id: &str) -> Result<bool> {
        self.run(|conn| ConversationState::remove(conn, id))
    }

    /// As [`StateStore::remove_task`](crate::StateStore::remove_task).
    pub fn remove_task(&self, id: &str) -> Result<bool> {
        self.run(|conn| TaskState::remove(conn, id))
    }

    /// As [`StateStore::remove_agent`](crate::StateStore::remove_agent).
    pub fn remove_agent(&self, session_name: &str) -> Result<bool> {
        self.run(|conn| AgentState::remove(conn, session_name))
    }

    /// As [`StateStore::remove_project`](crate::StateStore::remove_project).
    pub fn remove_project(&self, id: &str) -> Result<bool> {
        self.run(|conn| ProjectState::remove(conn, id))
    }

    /// As [`StateStore::clear_self_improvement`](crate::StateStore::clear_self_improvement).
    pub fn clear_self_improvement(&self) -> Result<bool> {
        self.run(|conn| SelfImprovementState::remove(conn, ""))
    }

    /// As [`StateStore::set_mode`](crate::StateStore::set_mode).
    pub fn set_mode(&self, mode: &OrchestratorMode) -> Result<()> {
        self.run(|conn| head::set_mode(conn, mode))
    }

    /// As [`StateStore::modify_conversation`](crate::StateStore::modify_conversation).
    pub fn modify_conversation<T>(&self, id: &str, change: impl FnOnce(&mut ConversationState) -> T) -> Result<T> {
        let (entity, result) = self.changed(id, change)?;
        self.update_conversation(&entity)?;
        Ok(result)
    }

    /// As [`StateStore::modify_task`](crate::StateStore::modify_task).
    pub fn modify_task<T>(&self, id: &str, change: impl FnOnce(&mut TaskState) -> T) -> Result<T> {
        let (entity, result) = self.changed(id, change)?;
        self.update_task(&entity)?;
        Ok(result)
    }

    /// As [`StateStore::modify_agent`](crate::StateStore::modify_agent).
    pub fn modify_agent<T>(&self, session_name: &str, change: impl FnOnce(&mut AgentState) -> T) -> Result<T> {
        let (entity, result) = self.changed(session_name, change)?;
        self.update_agent(&entity)?;
        Ok(result)
    }

    /// As [`StateStore::modify_project`](crate::StateStore::modify_project).
    pub fn modify_project<T>(&self, id: &str, change: impl FnOnce(&mut ProjectState) -> T) -> Result<T> {
        let (entity, result) = self.changed(id, change)?;
        self.update_project(&entity)?;
        Ok(result)
    }

    /// As [`StateStore::modify_self_improvement`](crate::StateStore::modify_self_improvement).
    pub fn modify_self_improvement<T>(&self, change: impl FnOnce(&mut SelfImprovementState) -> T) -> Result<T> {
        let (state, result) = self.changed("", change)?;
        self.update_self_improvement(&state)?;
        Ok(result)
    }

    /// The conversation with that id, with what this batch has changed so far.
    pub fn conversation(&self, id: &str) -> Result<Option<ConversationState>> {
        self.run(|conn| ConversationState::find(conn, id))
    }

    /// The task with that id, with what this batch has changed so far.
    pub fn task(&self, id: &str) -> Result<Option<TaskState>> {
        self.run(|conn| TaskState::find(conn, id))
    }

    /// The agent with that session name, with what this batch has changed so far.
    pub fn agent(&self, session_name: &str) -> Result<Option<AgentState>> {
        self.run(|conn| AgentState::find(conn, session_name))
    }

    /// The project with that id, with what this batch has changed so far.
    pub fn project(&self, id: &str) -> Result<Option<ProjectState>> {
        self.run(|conn| ProjectState::find(conn, id))
    }

    /// The state of the orchestrator's work on its own code, with what this batch has changed so far.
    pub fn self_improvement(&self) -> Result<Option<SelfImprovementState>> {
        self.run(|conn| SelfImprovementState::find(conn, ""))
    }

    /// The entity with that key as a caller's closure changes it, and what the closure returns.
    fn changed<E: Entity, T>(&self, key: &str, change: impl FnOnce(&mut E) -> T) -> Result<(E, T)> {
        let found = self.run(|conn| E::find(conn, key))?;
        let mut entity = found.ok_or_else(|| Error::NotFound { kind: E::KIND, id: key.to_owned() })?;
        let result = change(&mut entity);
        if entity.key() != key {
            let detail = format!("its key was changed to {:?}; remove it and add another one instead", entity.key());
            return Err(Error::InvalidValue { record: format!("{} {key}", E::KIND), detail });
        }
        Ok((entity, result))
    }

    fn write<E: Entity>(&self, entity: &E) -> Result<()> {
        self.validate(entity)?;
        self.run(|conn| entity.write(conn))
    }

    /// Refuses what the library does not accept from a caller. A document may hold it all the same, and what was imported so
    /// can be updated as long as that value stays.
    fn validate<E: Entity>(&self, entity: &E) -> Result<()> {
        let Some(detail) = entity.problem() else { return Ok(()) };
        let stored = self.run(|conn| E::find(conn, entity.key()))?;
        if stored.is_some_and(|stored| stored.problem().as_ref() == Some(&detail)) {
            return Ok(());
        }
        let record = format!("{} {}", E::KIND, entity.key());
        Err(Error::InvalidValue { record: record.trim_end().to_owned(), detail })
    }

    /// Makes sure that the state has a head.
    pub(super) fn ensure_head(&self, now: DateTime<Utc>) -> Result<()> {
        self.run(|conn| head::ensure(conn, now))
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.part.step(work).map_err(|error| self.database.explain(error))
    }
}
