//! The orchestrator's lifecycle: taking the directory, starting a run, checkpoints, shutting down.
//!
//! Locking: `phase` is held only to look up or to change the phase, never while the store writes; the timer's thread
//! never takes it, so that stopping the timer cannot wait for itself. `RUNNING` is held while a service takes a
//! directory, and before `phase` where both are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::backup::{Backup, BackupId, Retention, RetentionReport};
use crate::clock::Clock;
use crate::db::{Closed, Durability};
use crate::directory::{self, STATE_DIRECTORY};
use crate::document::{ImportOptions, ImportReport, import, typescript_file};
use crate::error::{Error, Result};
use crate::lock::DirectoryLock;
use crate::model::{
    AgentState, CheckpointReason, ConversationState, MAX_PERSISTED_MESSAGES, OrchestratorMode, OrchestratorState,
    PersistedMessage, ProjectState, ResumeInstructions, SelfImprovementState, TaskState,
};
use crate::resume::resume_instructions;
use crate::store::{self, Checkpoint, Run, RunOutcome, StateStore, StoreOptions, checkpoint, head, run};
use crate::timer::Timer;

/// How often the state is checkpointed, unless an option says otherwise.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// How often the service makes a backup by itself, unless an option says otherwise.
pub const BACKUP_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How many backups stay when the service has made one by itself, unless an option says otherwise.
pub const KEPT_BACKUPS: usize = 10;

/// How a service works.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The state lies in `.agentmux/state` below it; `None` is the home directory.
    pub base_dir: Option<PathBuf>,
    /// Time between periodic checkpoints; `None` makes none. 60 seconds by default.
    pub checkpoint_interval: Option<Duration>,
    /// How many messages of a conversation an update keeps: the newest. 50 by default.
    pub message_limit: usize,
    /// Start with no conversations, tasks, agents, projects and self-improvement. Those of the previous run are returned
    /// by [`initialize`](StatePersistenceService::initialize) and lie in a backup first. Off by default.
    pub start_empty: bool,
    /// Write `current-state.json` at checkpoints where something changed. On by default.
    pub export: bool,
    /// Time between backups that the service makes by itself, at checkpoints, where something has changed since the last
    /// backup; `None` makes none. A day by default.
    pub backup_interval: Option<Duration>,
    /// How many backups stay when the service has made one by itself: the newest. 10 by default.
    pub keep_backups: usize,
    /// What is still there after the power fails. All, by default.
    pub durability: Durability,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            base_dir: None,
            checkpoint_interval: Some(CHECKPOINT_INTERVAL),
            message_limit: MAX_PERSISTED_MESSAGES,
            start_empty: false,
            export: true,
            backup_interval: Some(BACKUP_INTERVAL),
            keep_backups: KEPT_BACKUPS,
            durability: Durability::default(),
            clock: Clock::default(),
        }
    }
}

/// The state of a running orchestrator, from its start to its end.
///
/// Clones are one service.
///
/// ```
/// use agentmux_state::{StatePersistenceService, TaskState, TaskStatus};
///
/// # fn main() -> agentmux_state::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let base = dir.path();
/// let service = StatePersistenceService::new(Some(base));
/// assert!(service.initialize()?.is_none(), "no run before this one");
/// service.update_task(&TaskState { id: "T-1".into(), status: TaskStatus::InProgress, ..Default::default() })?;
/// drop(service); // as a crash would
///
/// let service = StatePersistenceService::new(Some(base));
/// let state = service.initialize()?.expect("the state as the previous run left it");
/// assert_eq!(service.generate_resume_instructions(&state).resume_order, ["task:T-1"]);
/// service.prepare_for_shutdown()
/// # }
/// ```
#[derive(Clone)]
pub struct StatePersistenceService {
    inner: Arc<Inner>,
}

struct Inner {
    options: ServiceOptions,
    state_dir: PathBuf,
    phase: Mutex<Phase>,
}

enum Phase {
    New,
    Running(Box<Running>),
    /// Shut down or taken over: it can still be read.
    Ended(StateStore),
}

struct Running {
    store: StateStore,
    previous_run: Option<Run>,
    import_report: Option<ImportReport>,
    timer: Option<Timer>,
    lock: DirectoryLock,
}

/// The services of this process that hold a directory.
static RUNNING: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

impl StatePersistenceService {
    /// A service on the state below a base directory, the home directory by default. Touches nothing on disk.
    pub fn new(base_dir: Option<&Path>) -> Self {
        Self::with_options(ServiceOptions { base_dir: base_dir.map(Path::to_path_buf), ..ServiceOptions::default() })
    }

    /// A service with options. Touches nothing on disk.
    ///
    /// ```
    /// use agentmux_state::{ServiceOptions, StatePersistenceService};
    /// use std::time::Duration;
    ///
    /// let service = StatePersistenceService::with_options(ServiceOptions {
    ///     base_dir: Some("/srv/orchestrator".into()),
    ///     checkpoint_interval: Some(Duration::from_secs(300)),
    ///     ..ServiceOptions::default()
    /// });
    /// assert_eq!(service.state_dir().to_str(), Some("/srv/orchestrator/.agentmux/state"));
    /// ```
    pub fn with_options(options: ServiceOptions) -> Self {
        let base = options.base_dir.clone().or_else(std::env::home_dir).unwrap_or_default();
        let state_dir = base.join(STATE_DIRECTORY);
        Self { inner: Arc::new(Inner { options, state_dir, phase: Mutex::new(Phase::New) }) }
    }

    /// Takes the state directory for this process, starts a run and the periodic checkpoint, and returns the state as
    /// the previous run left it; `None` where there was none. The new run goes on from that state.
    ///
    /// Makes the directories; makes the database or upgrades it; where it is new, imports the TypeScript service's state
    /// file (`current-state.json` or `orchestrator-state.json`, here or in `.crewly/state`), which stays as it is until
    /// the first export. A previous run that was not shut down is recorded as a crash. A service of this process that
    /// holds the directory is taken over: its timer stops, and its later writes fail. A service that runs already only
    /// returns its state.
    ///
    /// # Errors
    /// [`Error::InUse`] where another live process holds the directory. [`Error::Document`] and others where the
    /// TypeScript service's file cannot be read: that never counts as a fresh start. Else as [`StateStore::open`].
    pub fn initialize(&self) -> Result<Option<OrchestratorState>> {
        if self.inner.state_dir.as_os_str() == STATE_DIRECTORY && self.inner.options.base_dir.is_none() {
            return Err(Error::NoHome);
        }
        let state_dir = directory::prepare(&self.inner.state_dir)?;
        let mut services = lock(&RUNNING);
        let mut phase = self.inner.phase();
        if let Phase::Running(running) = &*phase {
            return running.store.state().map(Some);
        }
        services.retain(|service| service.strong_count() > 0 && service.as_ptr() != Arc::as_ptr(&self.inner));
        let held = services.iter().filter_map(Weak::upgrade).find_map(|service| service.give_up(&state_dir));
        let lock = held.map_or_else(|| DirectoryLock::acquire(&state_dir), Ok)?;

        let options = &self.inner.options;
        let store = StateStore::open_with(&state_dir, options.store_options())?;
        if options.start_empty && store.read(store::count_entities)? > 0 {
            store.create_backup("before-start-empty")?;
        }
        let start = Start::new(&store, options)?;
        let timer = options.checkpoint_interval.map(|interval| {
            let (store, options) = (store.clone(), options.clone());
            Timer::start(interval, move || scheduled_checkpoint(&store, &options))
        });
        let Start { previous, previous_run, import_report } = start;
        *phase = Phase::Running(Box::new(Running { store, previous_run, import_report, timer, lock }));
        services.push(Arc::downgrade(&self.inner));
        Ok(previous)
    }

    /// Whether the other one is this service, or a clone of it.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether it was initialized, and neither shut down nor taken over since.
    pub fn is_initialized(&self) -> bool {
        matches!(*self.inner.phase(), Phase::Running(_))
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.inner.state_dir
    }

    /// The whole state as it is now. Also after a shutdown.
    ///
    /// # Errors
    /// [`Error::NotInitialized`] before [`initialize`](Self::initialize).
    pub fn state(&self) -> Result<OrchestratorState> {
        self.store()?.state()
    }

    /// The store, for what the service itself does not offer: single entities, batches, queries.
    ///
    /// # Errors
    /// [`Error::NotInitialized`] before [`initialize`](Self::initialize).
    pub fn store(&self) -> Result<StateStore> {
        match &*self.inner.phase() {
            Phase::New => Err(Error::NotInitialized { path: self.inner.state_dir.clone() }),
            Phase::Running(running) => Ok(running.store.clone()),
            Phase::Ended(store) => Ok(store.clone()),
        }
    }

    /// The newest run: this one, once it is initialized.
    pub fn run(&self) -> Result<Option<Run>> {
        self.store()?.last_run()
    }

    /// The run before this one, with how it ended; `None` where there was none.
    pub fn previous_run(&self) -> Option<Run> {
        self.inner.running(|running| running.previous_run.clone())?
    }

    /// What [`initialize`](Self::initialize) imported from the TypeScript service's file; `None` where it did not.
    pub fn import_report(&self) -> Option<ImportReport> {
        self.inner.running(|running| running.import_report.clone())?
    }

    /// Why the last periodic checkpoint failed; `None` where it succeeded. It is tried again at the next one.
    pub fn last_checkpoint_error(&self) -> Option<String> {
        self.inner.running(|running| running.timer.as_ref().and_then(Timer::last_error))?
    }

    /// Records a checkpoint and refreshes `current-state.json`. Updates are on the disk without it.
    pub fn save_state(&self, reason: CheckpointReason) -> Result<Checkpoint> {
        let store = self.store()?;
        let checkpoint = store.record_checkpoint(&reason)?;
        if self.inner.options.export {
            store.refresh_export()?;
        }
        Ok(checkpoint)
    }

    /// Makes a verified backup of the state in `backups/`; see [`StateStore::create_backup`].
    pub fn create_backup(&self, label: &str) -> Result<BackupId> {
        self.store()?.create_backup(label).map(|backup| backup.id)
    }

    /// Goes back to a backup, after a safety backup, and refreshes the export; see [`StateStore::restore_backup`]. This
    /// run goes on.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such backup.
    pub fn restore_from_backup(&self, id: &str) -> Result<()> {
        let store = self.store()?;
        store.restore_backup(id)?;
        if self.inner.options.export {
            store.refresh_export()?;
        }
        Ok(())
    }

    /// The backups, newest first.
    pub fn list_backups(&self) -> Result<Vec<Backup>> {
        self.store()?.list_backups()
    }

    /// Removes all but the newest `keep` backups; see [`StateStore::prune_backups`].
    pub fn cleanup_old_backups(&self, keep: usize) -> Result<RetentionReport> {
        self.store()?.prune_backups(&Retention { last: keep, ..Retention::default() }, false)
    }

    /// Adds a conversation or updates it; see [`StateStore::update_conversation`].
    pub fn update_conversation(&self, conversation: &ConversationState) -> Result<()> {
        self.store()?.update_conversation(conversation)
    }

    /// Adds a message at the end of a conversation; see [`StateStore::append_message`].
    pub fn append_message(&self, conversation_id: &str, message: &PersistedMessage) -> Result<()> {
        self.store()?.append_message(conversation_id, message)
    }

    /// Adds a task or updates it; see [`StateStore::update_task`].
    pub fn update_task(&self, task: &TaskState) -> Result<()> {
        self.store()?.update_task(task)
    }

    /// Adds an agent or updates it; see [`StateStore::update_agent`].
    pub fn update_agent(&self, agent: &AgentState) -> Result<()> {
        self.store()?.update_agent(agent)
    }

    /// Adds a project or updates it; see [`StateStore::update_project`].
    pub fn update_project(&self, project: &ProjectState) -> Result<()> {
        self.store()?.update_project(project)
    }

    /// Sets the state of the orchestrator's work on its own code.
    pub fn update_self_improvement(&self, state: &SelfImprovementState) -> Result<()> {
        self.store()?.update_self_improvement(state)
    }

    /// Removes a conversation; whether there was one.
    pub fn remove_conversation(&self, id: &str) -> Result<bool> {
        self.store()?.remove_conversation(id)
    }

    /// Removes a task; whether there was one.
    pub fn remove_task(&self, id: &str) -> Result<bool> {
        self.store()?.remove_task(id)
    }

    /// Removes an agent; whether there was one.
    pub fn remove_agent(&self, session_name: &str) -> Result<bool> {
        self.store()?.remove_agent(session_name)
    }

    /// Removes a project; whether there was one.
    pub fn remove_project(&self, id: &str) -> Result<bool> {
        self.store()?.remove_project(id)
    }

    /// Clears the state of the orchestrator's work on its own code; whether there was any.
    pub fn clear_self_improvement(&self) -> Result<bool> {
        self.store()?.clear_self_improvement()
    }

    /// Sets what the orchestrator is doing as a whole.
    pub fn set_mode(&self, mode: &OrchestratorMode) -> Result<()> {
        self.store()?.set_mode(mode)
    }

    /// What the orchestrator is doing as a whole.
    pub fn mode(&self) -> Result<OrchestratorMode> {
        self.store()?.mode()
    }

    /// What to do after a restart, from a state as the previous run left it, by this service's clock.
    pub fn generate_resume_instructions(&self, state: &OrchestratorState) -> ResumeInstructions {
        resume_instructions(state, self.inner.options.clock.now())
    }

    /// Stops the periodic checkpoint, after the one at hand. Again does nothing.
    pub fn stop_periodic_checkpoint(&self) {
        let timer = self.inner.running_mut(|running| running.timer.take());
        drop(timer);
    }

    /// Ends the run: stops the periodic checkpoint, records the checkpoint `before_restart`, writes the export, and frees
    /// the directory. Later writes fail, reads go on. Again does nothing.
    ///
    /// # Errors
    /// Where the checkpoint fails, the service runs on and this can be tried again. Where only the export fails, the run
    /// has ended.
    pub fn prepare_for_shutdown(&self) -> Result<()> {
        self.stop_periodic_checkpoint();
        let mut phase = self.inner.phase();
        let Phase::Running(running) = &*phase else { return Ok(()) };
        let store = running.store.clone();
        store.transaction(|conn| {
            let now = self.inner.options.clock.now();
            checkpoint::record(conn, &CheckpointReason::BeforeRestart, now)?;
            run::end(conn, RunOutcome::Shutdown, now)
        })?;
        let exported = if self.inner.options.export { store.refresh_export().map(drop) } else { Ok(()) };
        store.close_writer(Closed::ShutDown);
        *phase = Phase::Ended(store);
        exported
    }
}

impl Inner {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    fn running<T>(&self, look: impl FnOnce(&Running) -> T) -> Option<T> {
        match &*self.phase() {
            Phase::Running(running) => Some(look(running)),
            _ => None,
        }
    }

    fn running_mut<T>(&self, change: impl FnOnce(&mut Running) -> T) -> Option<T> {
        match &mut *self.phase() {
            Phase::Running(running) => Some(change(running)),
            _ => None,
        }
    }

    /// Ends this service for the sake of another one in this process; its lock, where it holds that directory.
    fn give_up(&self, state_dir: &Path) -> Option<DirectoryLock> {
        let mut phase = self.phase();
        match &*phase {
            Phase::Running(running) if running.store.state_dir() == state_dir => {}
            _ => return None,
        }
        let Phase::Running(running) = std::mem::replace(&mut *phase, Phase::New) else { return None };
        let Running { store, timer, lock, .. } = *running;
        drop(timer);
        let now = self.options.clock.now();
        if let Err(error) = store.transaction(|conn| run::end(conn, RunOutcome::TakenOver, now)) {
            // The next start will call it a crash, no more.
            tracing::warn!(%error, "could not record that the run was taken over");
        }
        store.close_writer(Closed::TakenOver);
        *phase = Phase::Ended(store);
        Some(lock)
    }
}

impl ServiceOptions {
    fn store_options(&self) -> StoreOptions {
        StoreOptions {
            durability: self.durability,
            message_limit: self.message_limit,
            clock: self.clock.clone(),
            ..StoreOptions::default()
        }
    }
}

/// What a start finds and makes.
struct Start {
    previous: Option<OrchestratorState>,
    previous_run: Option<Run>,
    import_report: Option<ImportReport>,
}

impl Start {
    /// Imports where the state is new, and starts the run: one transaction.
    fn new(store: &StateStore, options: &ServiceOptions) -> Result<Self> {
        store.transaction(|conn| {
            let now = options.clock.now();
            let is_new = head::read(conn)?.is_none();
            let file = if is_new { typescript_file(store.state_dir(), options.base_dir.as_deref())? } else { None };
            let import_report = match file {
                None => None,
                Some((path, reader)) => {
                    let source_name = path.display().to_string();
                    let report = import(conn, now, reader, &ImportOptions { source_name, ..ImportOptions::default() })?;
                    tracing::info!(
                        file = %path.display(),
                        set_aside = report.set_aside.len(),
                        warnings = report.warnings.len(),
                        "took over the state of the TypeScript service"
                    );
                    Some(report)
                }
            };
            let previous = store::read_state(conn)?;
            if options.start_empty {
                store::clear(conn)?;
            }
            let run = run::start(conn, now)?;
            Ok(Self { previous, previous_run: run::before(conn, run.run_id)?, import_report })
        })
    }
}

/// Records a checkpoint where something has changed, exports where the last export is behind, and makes a backup where one
/// is due.
fn scheduled_checkpoint(store: &StateStore, options: &ServiceOptions) -> Result<()> {
    if store.read(checkpoint::has_changes)? {
        store.record_checkpoint(&CheckpointReason::Scheduled)?;
    }
    if options.export && store.read(checkpoint::export_is_behind)? {
        store.refresh_export()?;
    }
    if let Some(interval) = options.backup_interval
        && store.backup_is_due(interval)?
    {
        store.create_backup("daily")?;
        store.prune_backups(&Retention { last: options.keep_backups, ..Retention::default() }, false)?;
    }
    Ok(())
}

/// The service of this process on the state below the home directory.
///
/// ```no_run
/// let service = agentmux_state::state_persistence_service();
/// let previous = service.initialize()?;
/// # Ok::<(), agentmux_state::Error>(())
/// ```
pub fn state_persistence_service() -> StatePersistenceService {
    lock(&SERVICE).get_or_insert_with(|| StatePersistenceService::new(None)).clone()
}

/// Stops that service's periodic checkpoint and forgets it: the next call makes a new one.
pub fn reset_state_persistence_service() {
    if let Some(service) = lock(&SERVICE).take() {
        service.stop_periodic_checkpoint();
    }
}

static SERVICE: Mutex<Option<StatePersistenceService>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is changed in one step each: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
