//! The state in its tables, one file for each entity as in the model.
//!
//! The functions in these files take a connection and know nothing of transactions; [`StateStore`] and [`Batch`] open
//! them. Every public write is one transaction and is on the disk when it returns.

pub(crate) mod agent;
mod batch;
pub(crate) mod checkpoint;
pub(crate) mod conversation;
pub(crate) mod head;
pub(crate) mod limits;
mod list;
pub(crate) mod project;
mod prune;
pub(crate) mod run;
pub(crate) mod self_improvement;
pub(crate) mod set_aside;
pub(crate) mod summary;
pub(crate) mod task;
mod upgrade;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use rusqlite::{Connection, Transaction};

pub use batch::Batch;
pub use checkpoint::Checkpoint;
pub use limits::Limits;
pub use list::{EntityKind, ListFilter};
pub use prune::{PruneOptions, PruneReport, Pruned, StateRetention};
pub use run::{Run, RunOutcome};
pub use set_aside::SetAsideRecord;
pub(crate) use summary::counts;
pub use summary::{Counts, StoreSummary};
pub use upgrade::MigrationDryRun;

use crate::backup;
use crate::clock::Clock;
use crate::db::{self, BUSY_TIMEOUT, Database, Durability, Work, WriteAheadLog, write_ahead_log};
use crate::directory::{self, DATABASE_FILE};
use crate::error::{Error, Result};
use crate::model::{
    AgentState, ChangeType, CheckpointReason, ConversationState, MAX_PERSISTED_MESSAGES, OrchestratorMode,
    OrchestratorState, PersistedMessage, ProjectState, SelfImprovementState, StateChange, StateDiff, TaskState,
};
use crate::mount::SharedMounts;
use crate::progress::ProgressCallback;
use crate::search;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What is still there after the power fails. All, by default.
    pub durability: Durability,
    /// How many messages of a conversation an update keeps: the newest. 50 by default.
    pub message_limit: usize,
    /// How many threads may read at once; further ones wait. 8 by default.
    pub max_readers: u32,
    /// How long a write waits for other writers, of this process and of others, in total; then it fails with [`Error::Busy`].
    /// 60 seconds by default.
    pub write_timeout: Duration,
    /// How much is kept of what would grow by itself.
    pub limits: Limits,
    /// What opening does where the state directory is on a mount that is shared with other machines. Warns, by default.
    pub shared_mounts: SharedMounts,
    /// Where the time comes from.
    pub clock: Clock,
    /// Who is told how far backups, restores, imports and exports are; nobody by default.
    pub progress: ProgressCallback,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            message_limit: MAX_PERSISTED_MESSAGES,
            max_readers: 8,
            write_timeout: BUSY_TIMEOUT,
            limits: Limits::default(),
            shared_mounts: SharedMounts::default(),
            clock: Clock::default(),
            progress: ProgressCallback::default(),
        }
    }
}

/// The state of an orchestrator in its database.
///
/// Clones share one database. Writes take turns; reads run beside them and see one moment each.
///
/// ```
/// use agentmux_state::{StateStore, TaskState, TaskStatus};
///
/// # fn main() -> agentmux_state::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let state_dir = dir.path();
/// let store = StateStore::open(state_dir)?;
/// let mut task = TaskState { id: "T-1".into(), title: "Fix the build".into(), ..TaskState::default() };
/// store.update_task(&task)?; // on the disk
/// task.status = TaskStatus::InProgress;
/// store.update_task(&task)?; // one column of one row
/// assert_eq!(store.task("T-1")?, Some(task));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<Inner>,
}

struct Inner {
    state_dir: PathBuf,
    database: Database,
    options: StoreOptions,
    upgrade: Option<upgrade::Upgrade>,
    /// Whether a service has started a run on this store.
    runs: AtomicBool,
}

impl StateStore {
    /// Opens the state in a state directory; makes the directory and the database where they are missing, and upgrades
    /// the database where it is behind, after a verified backup.
    ///
    /// # Errors
    /// [`Error::NotAStateDatabase`], [`Error::SchemaTooNew`], [`Error::HistoryDamaged`] and [`Error::Corrupt`] leave the
    /// file as it was. [`Error::SharedMount`] where [`StoreOptions::shared_mounts`] says so.
    pub fn open(state_dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(state_dir, StoreOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let options = StoreOptions { message_limit: 200, durability: Durability::Normal, ..StoreOptions::default() };
    /// let store = StateStore::open_with(state_dir, options)?;
    /// assert!(store.state()?.tasks.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_with(state_dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        options.shared_mounts.refuse(state_dir.as_ref())?;
        db::refuse_foreign(&state_dir.as_ref().join(DATABASE_FILE))?;
        let state_dir = directory::prepare(state_dir.as_ref())?;
        options.shared_mounts.warn(&state_dir);
        let (mut database, upgrade) = upgrade::open(&state_dir, &options)?;
        database.set_write_timeout(options.write_timeout);
        Ok(Self { inner: Arc::new(Inner { state_dir, database, options, upgrade, runs: AtomicBool::new(false) }) })
    }

    /// Opens an existing state for reading only; makes and changes nothing.
    ///
    /// ```
    /// use agentmux_state::{Error, StateStore};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// assert!(matches!(StateStore::open_read_only(state_dir), Err(Error::NoDatabase { .. })));
    /// ```
    ///
    /// # Errors
    /// [`Error::NoDatabase`] where there is none, [`Error::SchemaOutdated`] where an upgrade is due.
    pub fn open_read_only(state_dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_read_only_with(state_dir, StoreOptions::default())
    }

    /// As [`open_read_only`](Self::open_read_only), with options.
    pub fn open_read_only_with(state_dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let state_dir = existing(state_dir.as_ref())?;
        let database = Database::open_read_only(&state_dir.join(DATABASE_FILE), options.max_readers)?;
        Ok(Self {
            inner: Arc::new(Inner { state_dir, database, options, upgrade: None, runs: AtomicBool::new(false) }),
        })
    }

    /// The state directory, absolute and without links.
    pub fn state_dir(&self) -> &Path {
        &self.inner.state_dir
    }

    /// Adds a conversation or updates it. Only what changed is written; messages that are there already are not written
    /// again. The newest 50 messages are kept ([`StoreOptions::message_limit`]).
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
    /// [`Error::NotFound`] where there is no such conversation.
    pub fn append_message(&self, conversation_id: &str, message: &PersistedMessage) -> Result<()> {
        self.write(|batch| batch.append_message(conversation_id, message))
    }

    /// Adds a task or updates it: only the rows that differ are written.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where the progress is no finite number.
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

    /// Makes several changes in one transaction: all of them are on the disk when this returns `Ok`, or none happened.
    ///
    /// ```
    /// use agentmux_state::{AgentState, Error, StateStore, TaskState};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = StateStore::open(dir.path())?;
    /// store.batch(|batch| {
    ///     batch.update_task(&TaskState { id: "T-1".into(), assigned_to: Some("dev-1".into()), ..Default::default() })?;
    ///     batch.update_agent(&AgentState { session_name: "dev-1".into(), ..Default::default() })?;
    ///     Ok::<_, Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// Other writes wait until the closure is done. A write of the store from inside the closure fails with
    /// [`Error::NestedWrite`]; reads of the store see the state before the batch.
    ///
    /// # Errors
    /// The closure's own, and those of its changes. Where SQLite rolls the transaction back during the closure, as it does on a full
    /// disk, that failure: every further change of the batch fails with it, and so does the batch, whatever the closure returns.
    pub fn batch<T, E>(&self, work: impl FnOnce(&Batch<'_>) -> Result<T, E> + Send) -> Result<T, E>
    where
        T: Send,
        E: From<Error> + Send,
    {
        self.write_in_group(Work::Unknown, work)
    }

    fn write_in_group<T, E: From<Error>>(
        &self,
        length: Work,
        work: impl FnOnce(&Batch<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.inner.database.write_in_group(length, |part| {
            let batch = Batch::new(part, &self.inner);
            batch.ensure_head(self.now())?;
            work(&batch)
        })
    }

    /// The conversation with that id.
    pub fn conversation(&self, id: &str) -> Result<Option<ConversationState>> {
        self.read(|conn| first(|each| conversation::read(conn, "WHERE id = ?1", [id], each)))
    }

    /// The task with that id.
    pub fn task(&self, id: &str) -> Result<Option<TaskState>> {
        self.read(|conn| first(|each| task::read(conn, "WHERE id = ?1", [id], each)))
    }

    /// The agent with that session name.
    pub fn agent(&self, session_name: &str) -> Result<Option<AgentState>> {
        self.read(|conn| first(|each| agent::read(conn, "WHERE session_name = ?1", [session_name], each)))
    }

    /// The project with that id.
    pub fn project(&self, id: &str) -> Result<Option<ProjectState>> {
        self.read(|conn| first(|each| project::read(conn, "WHERE id = ?1", [id], each)))
    }

    /// The state of the orchestrator's work on its own code.
    pub fn self_improvement(&self) -> Result<Option<SelfImprovementState>> {
        self.read(self_improvement::read)
    }

    /// The whole state as it was in one moment.
    ///
    /// A state to which nothing was ever written has the present moment as its id and its last checkpoint.
    pub fn state(&self) -> Result<OrchestratorState> {
        self.read(|conn| read_state(conn, self.now()))
    }

    /// What the orchestrator is doing as a whole.
    pub fn mode(&self) -> Result<OrchestratorMode> {
        self.read(|conn| Ok(head::read(conn)?.and_then(|state| state.mode).unwrap_or_default()))
    }

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
            for (change_type, id, operation) in checkpoint::changes(conn)? {
                let data = self.data(conn, &change_type, &id)?;
                diff.changes.push(StateChange { change_type, operation, id, data });
            }
            Ok(diff)
        })
    }

    fn data(&self, conn: &Connection, change_type: &ChangeType, id: &str) -> Result<Option<serde_json::Value>> {
        let data = match change_type {
            ChangeType::Conversation => {
                first(|each| conversation::read(conn, "WHERE id = ?1", [id], each))?.map(serde_json::to_value)
            }
            ChangeType::Task => first(|each| task::read(conn, "WHERE id = ?1", [id], each))?.map(serde_json::to_value),
            ChangeType::Agent => {
                first(|each| agent::read(conn, "WHERE session_name = ?1", [id], each))?.map(serde_json::to_value)
            }
            ChangeType::Project => {
                first(|each| project::read(conn, "WHERE id = ?1", [id], each))?.map(serde_json::to_value)
            }
            ChangeType::SelfImprovement => self_improvement::read(conn)?.map(serde_json::to_value),
            ChangeType::Other(_) => None,
        };
        data.transpose()
            .map_err(|error| Error::InvalidValue { record: format!("{change_type} {id}"), detail: error.to_string() })
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

    /// What imports could not read, oldest first.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// let document = r#"{"version": "1.0.0", "tasks": ["not a task"]}"#;
    /// store.import_json(document.as_bytes(), ImportOptions::default())?;
    /// assert_eq!(store.set_aside()?[0].content, "\"not a task\"");
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_aside(&self) -> Result<Vec<SetAsideRecord>> {
        self.read(set_aside::read)
    }

    /// What is there, in numbers.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// assert_eq!(store.summary()?.counts.tasks, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn summary(&self) -> Result<StoreSummary> {
        let backups = backup::count(self.state_dir())?;
        self.read(|conn| summary::read(conn, backups))
    }

    /// The write-ahead log: its size, and who keeps it from being cut back.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = agentmux_state::StateStore::open(dir.path())?;
    /// assert!(store.write_ahead_log().held_back_by.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_ahead_log(&self) -> WriteAheadLog {
        write_ahead_log(self.database().path())
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.inner.options
    }

    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.inner.database.read(work)
    }

    /// A write transaction of this library's own, which gives the state no head.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.inner.database.write(work).map_err(|error: Error| self.inner.database.explain(error))
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.inner.options.clock.now()
    }

    /// From now on, the open run is that of this store's service.
    pub(crate) fn set_running(&self) {
        self.inner.runs.store(true, Ordering::Release);
    }

    /// Whether a service has started a run on this store.
    pub(crate) fn is_running(&self) -> bool {
        self.inner.runs.load(Ordering::Acquire)
    }

    /// The run of this store's service.
    pub(crate) fn own_run(&self, conn: &Connection) -> Result<Option<Run>> {
        if self.is_running() { run::open(conn) } else { Ok(None) }
    }

    /// One change of this library's own, which takes no time worth waiting for.
    fn write<T>(&self, work: impl FnOnce(&Batch<'_>) -> Result<T>) -> Result<T> {
        self.write_in_group(Work::Short, work)
    }
}

/// All entities, in the order of the document.
pub(crate) const IN_ORDER: &str = "ORDER BY position";

/// Reads the whole state.
pub(crate) fn read_state(conn: &Connection, now: DateTime<Utc>) -> Result<OrchestratorState> {
    let mut state = head::read_or_new(conn, now)?;
    state.conversations = all(|each| conversation::read(conn, IN_ORDER, [], each))?;
    state.tasks = all(|each| task::read(conn, IN_ORDER, [], each))?;
    state.agents = all(|each| agent::read(conn, IN_ORDER, [], each))?;
    state.projects = all(|each| project::read(conn, IN_ORDER, [], each))?;
    state.self_improvement = self_improvement::read(conn)?;
    Ok(state)
}

/// Deletes all entities; runs, checkpoints and records set aside stay.
pub(crate) fn clear(conn: &Connection) -> Result<()> {
    search::index::clear(conn)?;
    for table in [&conversation::TABLE, &task::TABLE, &agent::TABLE, &project::TABLE] {
        conn.execute(&format!("DELETE FROM {}", table.name()), [])?;
    }
    self_improvement::clear(conn)?;
    Ok(())
}

fn existing(state_dir: &Path) -> Result<PathBuf> {
    if !state_dir.is_dir() {
        return Err(Error::NoDatabase { path: state_dir.join(DATABASE_FILE) });
    }
    directory::resolve(state_dir)
}

type Each<'a, T> = &'a mut dyn FnMut(T) -> Result<()>;

fn first<T>(read: impl FnOnce(Each<'_, T>) -> Result<()>) -> Result<Option<T>> {
    Ok(all(read)?.pop())
}

fn all<T>(read: impl FnOnce(Each<'_, T>) -> Result<()>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    read(&mut |entity| {
        found.push(entity);
        Ok(())
    })?;
    Ok(found)
}
