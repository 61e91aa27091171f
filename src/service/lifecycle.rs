//! The orchestrator's lifecycle: taking the directory, starting a run, checkpoints, shutting down.
//!
//! Locking: `lifecycle` is held while a service starts or ends, `phase` only to look up or change the phase, never while
//! anything is read or written, so that whoever holds the write lock may ask the service anything. The timer's thread takes
//! neither. A service that starts holds, in this order, the turn of its directory, its own `lifecycle`, and that of the
//! service that it takes over from. `RUNNING` and `TURNS` are held only to look something up: services on other directories
//! do not wait.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rusqlite::Connection;

use super::options::ServiceOptions;
use super::timer::Timer;
use super::upkeep::{Pruning, apply_backup_retention, scheduled_checkpoint};
use crate::backup::{Backup, BackupId, Folder, Retention, RetentionReport, create_in};
use crate::db::{Closed, refuse_foreign};
use crate::document::{ImportOptions, ImportReport, import, typescript_file};
use crate::error::{Error, Result};
use crate::model::{
    AgentState, Checkpoint, CheckpointReason, ConversationState, OrchestratorMode, OrchestratorState, PersistedMessage,
    ProjectState, ResumeInstructions, Run, RunOutcome, SelfImprovementState, TaskState,
};
use crate::resume::resume_instructions;
use crate::rows::{self, checkpoint, head, run};
use crate::state_dir::{self, DATABASE_FILE, DirectoryLock, STATE_DIRECTORY, default_state_dir};
use crate::store::StateStore;

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
    /// `None` where the home directory is not known.
    state_dir: Option<PathBuf>,
    lifecycle: Mutex<()>,
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

/// For each directory on which a service starts or has started, a lock that it holds meanwhile.
static TURNS: LazyLock<Mutex<HashMap<PathBuf, Weak<Mutex<()>>>>> = LazyLock::new(Mutex::default);

/// The lock that services of this process hold while they start on a directory.
fn turn_on(state_dir: &Path) -> Arc<Mutex<()>> {
    let mut turns = lock(&TURNS);
    turns.retain(|_, turn| turn.strong_count() > 0);
    if let Some(turn) = turns.get(state_dir).and_then(Weak::upgrade) {
        return turn;
    }
    let turn = Arc::default();
    turns.insert(state_dir.to_path_buf(), Arc::downgrade(&turn));
    turn
}

impl StatePersistenceService {
    /// A service on the state below a base directory, the home directory by default. Touches nothing on disk.
    pub fn new(base_dir: Option<&Path>) -> Self {
        Self::with_options(ServiceOptions::default().base_dir(base_dir.map(Path::to_path_buf)))
    }

    /// A service with options. Touches nothing on disk.
    ///
    /// ```
    /// use agentmux_state::{ServiceOptions, StatePersistenceService};
    /// use std::time::Duration;
    ///
    /// let service = StatePersistenceService::with_options(ServiceOptions::default().base_dir(Some("/srv/orchestrator".into())).checkpoint_interval(Some(Duration::from_secs(300))));
    /// assert_eq!(service.state_dir().to_str(), Some("/srv/orchestrator/.agentmux/state"));
    /// ```
    pub fn with_options(options: ServiceOptions) -> Self {
        let state_dir = match &options.base_dir {
            Some(base) => Some(base.join(STATE_DIRECTORY)),
            None => default_state_dir().ok(),
        };
        let (lifecycle, phase) = (Mutex::new(()), Mutex::new(Phase::New));
        Self { inner: Arc::new(Inner { options, state_dir, lifecycle, phase }) }
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
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// assert!(service.initialize()?.is_none(), "the first start");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InUse`] where another live process holds the directory. [`Error::Document`] and others where the
    /// TypeScript service's file cannot be read: that never counts as a fresh start. Else as [`StateStore::open`]. A
    /// service that was to be taken over has then ended all the same.
    pub fn initialize(&self) -> Result<Option<OrchestratorState>> {
        let state_dir = self.inner.state_dir.as_ref().ok_or(Error::NoHome)?;
        self.inner.options.shared_mounts.refuse(state_dir)?;
        refuse_foreign(&state_dir.join(DATABASE_FILE))?;
        let state_dir = state_dir::prepare(state_dir)?;
        let turn_on_directory = turn_on(&state_dir);
        let _turn_on_directory = lock(&turn_on_directory);
        let _turn = lock(&self.inner.lifecycle);
        if let Some(store) = self.inner.running(|running| running.store.clone()) {
            return store.state().map(Some);
        }
        let held = self.inner.others_on(&state_dir).into_iter();
        let held = held.map(|service| service.give_up(&state_dir)).find_map(Result::transpose).transpose()?;
        // One whose file was deleted or replaced holds nothing any more.
        let held = held.filter(DirectoryLock::is_in_place);
        let lock = held.map_or_else(|| DirectoryLock::acquire(&state_dir), Ok)?;

        let options = &self.inner.options;
        let store = StateStore::open_with(&state_dir, options.store_options())?;
        let (path, file) = lock.file();
        store.database().place().add_lock_file(path, file);
        let Start { previous, previous_run, import_report } = Start::new(&store, options)?;
        lock.note_run()?;
        store.set_running();
        let timer = self.inner.start_timer(&store);
        let running = Running { store, previous_run, import_report, timer, lock };
        *self.inner.phase() = Phase::Running(Box::new(running));
        self::lock(&RUNNING).push(Arc::downgrade(&self.inner));
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

    /// The state directory; empty where the home directory is not known.
    pub fn state_dir(&self) -> &Path {
        self.inner.state_dir.as_deref().unwrap_or(Path::new(""))
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
            Phase::New => Err(Error::NotInitialized { path: self.state_dir().to_path_buf() }),
            Phase::Running(running) => Ok(running.store.clone()),
            Phase::Ended(store) => Ok(store.clone()),
        }
    }

    /// The newest run: this one, once it is initialized.
    pub fn run(&self) -> Result<Option<Run>> {
        self.store()?.last_run()
    }

    /// The run before this one, with how it ended; `None` where there was none.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// service.initialize()?;
    /// drop(service); // no shutdown
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// service.initialize()?;
    /// assert_eq!(service.previous_run().unwrap().outcome, Some(RunOutcome::Crashed));
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// service.initialize()?;
    /// service.save_state(CheckpointReason::UserRequest)?;
    /// assert!(service.state_dir().join("current-state.json").exists());
    /// # Ok(())
    /// # }
    /// ```
    pub fn save_state(&self, reason: CheckpointReason) -> Result<Checkpoint> {
        let store = self.store()?;
        store.database().require_in_place()?;
        let checkpoint = store.record_checkpoint(&reason)?;
        if self.inner.options.export {
            store.refresh_export()?;
        }
        Ok(checkpoint)
    }

    /// Makes a verified backup of the state in `backups/`; see [`Backups::create`](crate::Backups::create).
    pub fn create_backup(&self, label: &str) -> Result<BackupId> {
        self.store()?.backups().create(label).map(|backup| backup.id)
    }

    /// Goes back to a backup, after a safety backup, and refreshes the export; see [`Backups::restore`](crate::Backups::restore). This
    /// run goes on.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// service.initialize()?;
    /// let id = service.create_backup("good")?;
    /// service.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// service.restore_from_backup(&id)?;
    /// assert!(service.state()?.tasks.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BackupNotFound`] where there is no such backup.
    pub fn restore_from_backup(&self, id: &str) -> Result<()> {
        let store = self.store()?;
        store.backups().restore(id)?;
        if self.inner.options.export {
            store.refresh_export()?;
        }
        Ok(())
    }

    /// The backups, newest first.
    pub fn list_backups(&self) -> Result<Vec<Backup>> {
        self.store()?.backups().list()
    }

    /// Removes all but the newest `keep` backups; see [`Backups::prune`](crate::Backups::prune).
    pub fn cleanup_old_backups(&self, keep: usize) -> Result<RetentionReport> {
        self.store()?.backups().prune(&Retention::default().last(keep), false)
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

    /// Stops the periodic checkpoint, after the one in progress; inside a batch without waiting for it. Idempotent.
    pub fn stop_periodic_checkpoint(&self) {
        if self.inner.running(|running| running.store.database().refuse_nested_write().is_err()) == Some(true) {
            // Inside a batch of this thread: the checkpoint at hand waits for its end.
            return self.stop_periodic_checkpoint_soon();
        }
        drop(self.inner.take_timer());
    }

    /// As [`stop_periodic_checkpoint`](Self::stop_periodic_checkpoint), but does not wait for the checkpoint at hand: it ends
    /// by itself. For threads that must not wait, such as an event loop's.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// service.initialize()?;
    /// service.stop_periodic_checkpoint_soon();
    /// assert!(service.is_initialized());
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_periodic_checkpoint_soon(&self) {
        if let Some(timer) = self.inner.take_timer() {
            timer.stop_soon();
        }
    }

    /// Ends the run: refuses further updates, stops the periodic checkpoint, records the checkpoint `before_restart`, writes
    /// the export with every update that was acknowledged, and frees the directory. Reads go on. Again does nothing, and waits
    /// for the first call where that is not done, as at a second SIGTERM. It takes locks: a signal handler must leave the call
    /// to a thread.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let service = StatePersistenceService::new(Some(state_dir));
    /// service.initialize()?;
    /// service.prepare_for_shutdown()?;
    /// assert!(!service.is_initialized());
    /// assert!(service.state().is_ok(), "it can still be read");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the checkpoint fails, the service runs on and this can be tried again. Where only the export fails, the run
    /// has ended.
    pub fn prepare_for_shutdown(&self) -> Result<()> {
        let running = || self.inner.running(|running| running.store.clone());
        running().map_or(Ok(()), |store| store.database().refuse_nested_write())?;
        let _turn = lock(&self.inner.lifecycle);
        let Some(store) = running() else { return Ok(()) };
        let timer = self.inner.take_timer();
        let had_timer = timer.is_some();
        drop(timer);
        store.database().begin_closing(Closed::ShutDown);
        let ended = store.database().require_in_place().and_then(|()| {
            store.database().write_while_closing(|conn| {
                let now = self.inner.options.clock.now();
                let (run, keep) = (store.own_run(conn)?, self.inner.options.limits.checkpoints);
                checkpoint::record(conn, &CheckpointReason::BeforeRestart, now, run.as_ref(), keep)?;
                run::end(conn, RunOutcome::Shutdown, now)
            })
        });
        if let Err(error) = ended {
            store.database().cancel_closing();
            let timer = if had_timer { self.inner.start_timer(&store) } else { None };
            self.inner.running_mut(|running| running.timer = timer);
            return Err(error);
        }
        let exported = if self.inner.options.export { store.refresh_export().map(drop) } else { Ok(()) };
        self.inner.end(Closed::ShutDown);
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

    /// The other services of this process that run on a directory.
    fn others_on(&self, state_dir: &Path) -> Vec<Arc<Self>> {
        let mut services = lock(&RUNNING);
        services.retain(|service| service.strong_count() > 0 && !std::ptr::eq(service.as_ptr(), self));
        let is_on = |service: &Arc<Self>| service.running(|it| it.store.state_dir() == state_dir) == Some(true);
        services.iter().filter_map(Weak::upgrade).filter(is_on).collect()
    }

    fn start_timer(&self, store: &StateStore) -> Option<Timer> {
        let interval = self.options.checkpoint_interval?;
        let (store, options) = (store.clone(), self.options.clone());
        let pruning = Mutex::new(Pruning::default());
        Some(Timer::start(interval, move || scheduled_checkpoint(&store, &options, &mut lock(&pruning))))
    }

    /// The timer, to be stopped by dropping it: not under the lock of the phase.
    fn take_timer(&self) -> Option<Timer> {
        self.running_mut(|running| running.timer.take())?
    }

    /// Closes the store for writing and frees what the run held; the directory's lock, where there was a run.
    fn end(&self, why: Closed) -> Option<DirectoryLock> {
        let store = self.running(|running| running.store.clone())?;
        store.database().close_writer(why);
        match std::mem::replace(&mut *self.phase(), Phase::Ended(store)) {
            Phase::Running(running) => Some(running.lock),
            _ => None,
        }
    }

    /// Ends this service for the sake of another one in this process; its lock, where it holds that directory.
    fn give_up(&self, state_dir: &Path) -> Result<Option<DirectoryLock>> {
        let running = || self.running(|running| running.store.clone()).filter(|store| store.state_dir() == state_dir);
        running().map_or(Ok(()), |store| store.database().refuse_nested_write())?;
        let _turn = lock(&self.lifecycle);
        let Some(store) = running() else { return Ok(None) };
        drop(self.take_timer());
        store.database().begin_closing(Closed::TakenOver);
        let now = self.options.clock.now();
        if let Err(error) = store.database().write_while_closing(|conn| run::end(conn, RunOutcome::TakenOver, now)) {
            // The next start will call it a crash, no more.
            tracing::warn!(%error, "could not record that the run was taken over");
        }
        Ok(self.end(Closed::TakenOver))
    }
}

impl Drop for Inner {
    /// Without a shutdown, as in a crash: the directory is free, so a store that is still held must not write any more.
    fn drop(&mut self) {
        let phase = self.phase.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Phase::Running(running) = std::mem::replace(phase, Phase::New) else { return };
        if running.store.database().refuse_nested_write().is_ok() {
            return running.abandon();
        }
        // In a batch of this thread, whose end the writer has to wait for. Until then the directory stays taken.
        let spawned = thread::Builder::new().name("state-end".into()).spawn(move || running.abandon());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to close the state; a store that is still held can write on");
        }
    }
}

impl Running {
    /// Ends without a shutdown: closes the writer, waits for the timer, and frees the directory, in this order.
    fn abandon(self) {
        self.store.database().close_writer(Closed::ShutDown);
        drop(self.timer);
        drop(self.lock);
    }
}

/// What a start finds and makes.
struct Start {
    previous: Option<OrchestratorState>,
    previous_run: Option<Run>,
    import_report: Option<ImportReport>,
}

impl Start {
    /// Imports where the state is new, backs up what is to be cleared, and starts the run.
    fn new(store: &StateStore, options: &ServiceOptions) -> Result<Self> {
        let import_report = store.transaction(|conn| take_over(conn, store, options))?;
        // Backups take turns, and that lock comes before the one for writing.
        let folder = if options.start_empty { Some(Folder::change(store.state_dir())?) } else { None };
        let mut is_backed_up = false;
        let start = store.transaction(|conn| {
            let now = options.clock.now();
            let saved_nothing = !head::was_saved(conn)? && rows::counts(conn)?.entities() == 0;
            let previous = if saved_nothing { None } else { Some(rows::read_state(conn, now)?) };
            if let Some(folder) = &folder {
                if rows::counts(conn)?.entities() > 0 {
                    // Inside the transaction: nobody can write between the backup and what is cleared.
                    create_in(folder, store.state_dir(), "before-start-empty", now, &store.options().progress)?;
                    is_backed_up = true;
                }
                rows::clear(conn)?;
            }
            let run = run::start(conn, now, options.limits.runs)?;
            Ok(Self { previous, previous_run: run::before(conn, run.run_id)?, import_report })
        });
        drop(folder);
        if is_backed_up && let Err(error) = apply_backup_retention(store, options) {
            tracing::warn!(%error, "could not remove old backups");
        }
        start
    }
}

/// Imports the TypeScript service's file where nothing was ever written to the database.
fn take_over(conn: &Connection, store: &StateStore, options: &ServiceOptions) -> Result<Option<ImportReport>> {
    if head::read(conn)?.is_some() {
        return Ok(None);
    }
    let Some((path, reader)) = typescript_file(store.state_dir(), options.base_dir.as_deref())? else {
        return Ok(None);
    };
    let source_name = path.display().to_string();
    let options = ImportOptions::default().source_name(source_name);
    let (report, _) = import(conn, store.now(), reader, &options)?;
    tracing::info!(
        file = %path.display(),
        set_aside = report.set_aside.len(),
        warnings = report.warnings.len(),
        "took over the state of the TypeScript service"
    );
    Ok(Some(report))
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
    let service = lock(&SERVICE).take();
    if let Some(service) = service {
        service.stop_periodic_checkpoint();
    }
}

static SERVICE: Mutex<Option<StatePersistenceService>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is changed in one step each: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
