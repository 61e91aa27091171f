//! Entities: updates, reads, lists, and atomic read-modify-write.

use std::ops::ControlFlow;

use super::list::ListFilter;
use super::state_store::StateStore;
use crate::error::Result;
use crate::model::{
    AgentState, ConversationState, OrchestratorMode, OrchestratorState, PersistedMessage, ProjectState,
    SelfImprovementState, TaskState,
};
use crate::rows::{self, Entity, head};

impl StateStore {
    /// Adds a conversation or updates it. Only what changed is written; messages that are there already are not written
    /// again. The newest 50 messages are kept ([`StoreOptions::message_limit`](crate::StoreOptions::message_limit)).
    ///
    /// ```
    /// use agentmux_state::{ConversationSource, ConversationState, PersistedMessage, StateStore};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = StateStore::open(dir.path())?;
    /// store.update_conversation(&ConversationState {
    ///     id: "C-1".into(),
    ///     source: ConversationSource::Slack,
    ///     recent_messages: vec![PersistedMessage { content: "Ship it?".into(), ..Default::default() }],
    ///     last_activity_at: "2026-11-22T10:00:00.000Z".into(),
    ///     ..Default::default()
    /// })
    /// # }
    /// ```
    pub fn update_conversation(&self, conversation: &ConversationState) -> Result<()> {
        self.write(|batch| batch.update_conversation(conversation))
    }

    /// Adds a message at the end of a conversation, without reading the others. The newest 50 are kept, and the
    /// conversation's last activity moves on to the message's time where that is later.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_conversation(&ConversationState { id: "C-1".into(), ..Default::default() })?;
    /// store.append_message("C-1", &PersistedMessage { content: "Ship it.".into(), ..Default::default() })?;
    /// assert_eq!(store.conversation("C-1")?.unwrap().recent_messages.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) where there is no such conversation.
    pub fn append_message(&self, conversation_id: &str, message: &PersistedMessage) -> Result<()> {
        self.write(|batch| batch.append_message(conversation_id, message))
    }

    /// Upserts a task: only the rows that differ are written. The last writer wins; [`modify_task`](Self::modify_task) is
    /// the way to build on what is stored.
    ///
    /// # Errors
    /// [`Error::InvalidValue`](crate::Error::InvalidValue) where the id is empty, or the progress is not between 0 and 100. A progress out of that range
    /// that came with a document may stay as it is.
    pub fn update_task(&self, task: &TaskState) -> Result<()> {
        self.write(|batch| batch.update_task(task))
    }

    /// Adds an agent or updates it.
    pub fn update_agent(&self, agent: &AgentState) -> Result<()> {
        self.write(|batch| batch.update_agent(agent))
    }

    /// Adds a project or updates it: only the rows that differ are written.
    pub fn update_project(&self, project: &ProjectState) -> Result<()> {
        self.write(|batch| batch.update_project(project))
    }

    /// Sets the state of the orchestrator's work on its own code: only the rows that differ are written.
    pub fn update_self_improvement(&self, state: &SelfImprovementState) -> Result<()> {
        self.write(|batch| batch.update_self_improvement(state))
    }

    /// Changes a task by a closure, in one transaction: nobody can write between the read and the write. Returns what the
    /// closure returns.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = StateStore::open(dir.path())?;
    /// store.update_task(&TaskState::new("T-1", "Fix the build"))?;
    /// let percent = store.modify_task("T-1", |task| {
    ///     task.progress.percent_complete += 12.5;
    ///     task.progress.percent_complete
    /// })?;
    /// assert_eq!(percent, 12.5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Other writers wait until the closure is done, so it should only compute. A closure that may fail, or that changes
    /// several entities, belongs into a [`batch`](Self::batch).
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) where there is no such task; [`Error::InvalidValue`](crate::Error::InvalidValue) as for [`update_task`](Self::update_task),
    /// and where the closure changes the id.
    pub fn modify_task<T>(&self, id: &str, change: impl FnOnce(&mut TaskState) -> T) -> Result<T> {
        self.write(|batch| batch.modify_task(id, change))
    }

    /// As [`modify_task`](Self::modify_task), for a conversation.
    pub fn modify_conversation<T>(&self, id: &str, change: impl FnOnce(&mut ConversationState) -> T) -> Result<T> {
        self.write(|batch| batch.modify_conversation(id, change))
    }

    /// As [`modify_task`](Self::modify_task), for an agent.
    pub fn modify_agent<T>(&self, session_name: &str, change: impl FnOnce(&mut AgentState) -> T) -> Result<T> {
        self.write(|batch| batch.modify_agent(session_name, change))
    }

    /// As [`modify_task`](Self::modify_task), for a project.
    pub fn modify_project<T>(&self, id: &str, change: impl FnOnce(&mut ProjectState) -> T) -> Result<T> {
        self.write(|batch| batch.modify_project(id, change))
    }

    /// As [`modify_task`](Self::modify_task), for the orchestrator's work on its own code.
    pub fn modify_self_improvement<T>(&self, change: impl FnOnce(&mut SelfImprovementState) -> T) -> Result<T> {
        self.write(|batch| batch.modify_self_improvement(change))
    }

    /// Removes a conversation with its messages; whether there was one.
    pub fn remove_conversation(&self, id: &str) -> Result<bool> {
        self.write(|batch| batch.remove_conversation(id))
    }

    /// Removes a task; whether there was one. Whatever names it elsewhere stays as it is.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// assert!(store.remove_task("T-1")?);
    /// assert!(!store.remove_task("T-1")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove_task(&self, id: &str) -> Result<bool> {
        self.write(|batch| batch.remove_task(id))
    }

    /// Removes an agent by the name of its session; whether there was one. Whatever names it elsewhere stays as it is.
    pub fn remove_agent(&self, session_name: &str) -> Result<bool> {
        self.write(|batch| batch.remove_agent(session_name))
    }

    /// Removes a project; whether there was one. Whatever names it elsewhere stays as it is.
    pub fn remove_project(&self, id: &str) -> Result<bool> {
        self.write(|batch| batch.remove_project(id))
    }

    /// Clears the state of the orchestrator's work on its own code; whether there was any.
    pub fn clear_self_improvement(&self) -> Result<bool> {
        self.write(|batch| batch.clear_self_improvement())
    }

    /// Sets what the orchestrator is doing as a whole.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.set_mode(&OrchestratorMode::Onboarding)?;
    /// assert_eq!(store.mode()?, OrchestratorMode::Onboarding);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_mode(&self, mode: &OrchestratorMode) -> Result<()> {
        self.write(|batch| batch.set_mode(mode))
    }

    /// The conversation with that id.
    pub fn conversation(&self, id: &str) -> Result<Option<ConversationState>> {
        self.read(|conn| ConversationState::find(conn, id))
    }

    /// The task with that id.
    pub fn task(&self, id: &str) -> Result<Option<TaskState>> {
        self.read(|conn| TaskState::find(conn, id))
    }

    /// The agent with that session name.
    pub fn agent(&self, session_name: &str) -> Result<Option<AgentState>> {
        self.read(|conn| AgentState::find(conn, session_name))
    }

    /// The project with that id.
    pub fn project(&self, id: &str) -> Result<Option<ProjectState>> {
        self.read(|conn| ProjectState::find(conn, id))
    }

    /// The state of the orchestrator's work on its own code.
    pub fn self_improvement(&self) -> Result<Option<SelfImprovementState>> {
        self.read(|conn| SelfImprovementState::find(conn, ""))
    }

    /// The whole state as it was in one moment.
    ///
    /// A state to which nothing was ever written has the present moment as its id and its last checkpoint.
    pub fn state(&self) -> Result<OrchestratorState> {
        self.read(|conn| rows::read_state(conn, self.now()))
    }

    /// What the orchestrator is doing as a whole.
    pub fn mode(&self) -> Result<OrchestratorMode> {
        self.read(|conn| Ok(head::read(conn)?.and_then(|state| state.mode).unwrap_or_default()))
    }

    /// Conversations in the order of the document.
    ///
    /// # Errors
    /// [`Error::InvalidValue`](crate::Error::InvalidValue) where the filter sets what conversations do not have; so for the lists that follow.
    pub fn conversations(&self, filter: &ListFilter) -> Result<Vec<ConversationState>> {
        self.list(filter)
    }

    /// Tasks in the order of the document.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), assigned_to: Some("dev-1".into()), ..Default::default() })?;
    /// let filter = ListFilter::default().agent("dev-1");
    /// assert_eq!(store.tasks(&filter)?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tasks(&self, filter: &ListFilter) -> Result<Vec<TaskState>> {
        self.list(filter)
    }

    /// Agents in the order of the document.
    pub fn agents(&self, filter: &ListFilter) -> Result<Vec<AgentState>> {
        self.list(filter)
    }

    /// Projects in the order of the document.
    pub fn projects(&self, filter: &ListFilter) -> Result<Vec<ProjectState>> {
        self.list(filter)
    }

    /// Calls a closure for each task of a list until it breaks, with one task in memory at a time, however long the list is.
    /// All of it is one snapshot; [`interruptible`](Self::interruptible) ends it from another thread.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = StateStore::open(dir.path())?;
    /// store.update_task(&TaskState::new("T-1", "Fix the build"))?;
    /// let mut titles = Vec::new();
    /// store.each_task(&ListFilter::default(), |task| {
    ///     titles.push(task.title);
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(titles, ["Fix the build"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn each_task(&self, filter: &ListFilter, each: impl FnMut(TaskState) -> ControlFlow<()>) -> Result<()> {
        self.each(filter, each)
    }

    /// As [`each_task`](Self::each_task), for conversations.
    pub fn each_conversation(
        &self,
        filter: &ListFilter,
        each: impl FnMut(ConversationState) -> ControlFlow<()>,
    ) -> Result<()> {
        self.each(filter, each)
    }

    /// As [`each_task`](Self::each_task), for agents.
    pub fn each_agent(&self, filter: &ListFilter, each: impl FnMut(AgentState) -> ControlFlow<()>) -> Result<()> {
        self.each(filter, each)
    }

    /// As [`each_task`](Self::each_task), for projects.
    pub fn each_project(&self, filter: &ListFilter, each: impl FnMut(ProjectState) -> ControlFlow<()>) -> Result<()> {
        self.each(filter, each)
    }
}
