//! agentmux-state for Node: the native half of the npm package, of which `lib/` is the other.
//!
//! Entities and states cross the border as JSON text, which V8 and serde_json read and write faster than either builds the
//! other's objects one member at a time. What can take long runs on libuv's threads.

mod clock;
mod error;
mod live;
mod pieces;
mod resume;
mod work;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentmux_state::{
    AgentState, CheckpointReason, ConversationState, Error, OrchestratorMode, PersistedMessage, ProgressCallback,
    ProjectState, Result, SelfImprovementState, ServiceOptions, StatePersistenceService, StateStore, TaskState,
    list_backups, verify_backups,
};
use napi::bindgen_prelude::AsyncTask;
use napi_derive::napi;

use clock::{CallTime, JsClock};
use error::{json, to_js};
use live::LiveChange;
use pieces::{StatePieces, StateTexts};
use work::Work;

/// The options of a service; `lib/` has checked them.
#[napi(object)]
pub struct NativeOptions {
    /// Time between periodic checkpoints; none where it is missing.
    pub checkpoint_interval_ms: Option<f64>,
    /// How many messages of a conversation an update keeps.
    pub message_limit: u32,
    /// How long a write waits for other writers.
    pub write_timeout_ms: f64,
    /// Whether to start without the entities of the previous run.
    pub start_empty: bool,
}

/// A service and what JavaScript asks of it.
#[napi]
pub struct NativeService {
    service: StatePersistenceService,
    clock: JsClock,
    /// The time of the call at hand.
    call: Mutex<CallTime>,
}

#[napi]
impl NativeService {
    /// A service on the state below a base directory. Touches nothing on disk.
    #[napi(constructor)]
    pub fn new(base_dir: String, options: NativeOptions) -> Self {
        let clock = JsClock::default();
        let service = StatePersistenceService::with_options(
            ServiceOptions::default()
                .base_dir(Some(PathBuf::from(base_dir)))
                .checkpoint_interval(options.checkpoint_interval_ms.map(|ms| Duration::from_secs_f64(ms / 1000.0)))
                .message_limit(options.message_limit as usize)
                .write_timeout(Duration::from_secs_f64(options.write_timeout_ms / 1000.0))
                .start_empty(options.start_empty)
                .clock(clock.clock()),
        );
        Self { service, clock, call: Mutex::default() }
    }

    /// Sets the time of the next call: what `Date.now()` gives.
    #[napi]
    pub fn at(&self, date_now: f64) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.at(date_now);
    }

    /// Resolves in a later turn of the event loop. Unlike timers, it cannot be mocked.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn turn(&self) -> AsyncTask<Work<()>> {
        AsyncTask::new(Work::new(|| Ok(())))
    }

    /// Starts a run; the state that the previous one left.
    #[napi(ts_return_type = "Promise<StatePieces | null>")]
    pub fn initialize(&self) -> AsyncTask<Work<Option<StatePieces>>> {
        self.in_background(|service| service.initialize()?.map(StatePieces::new).transpose())
    }

    /// Whether the run goes on.
    #[napi]
    pub fn is_initialized(&self) -> bool {
        self.service.is_initialized()
    }

    /// The state; nothing before `initialize`.
    #[napi]
    pub fn state(&self) -> napi::Result<Option<StateTexts>> {
        self.once_started(|store| StateTexts::new(store.state()?).map(Some))
    }

    /// Writes what was changed in objects since they were looked at last; for each of them, what became of it.
    #[napi]
    pub fn write_changes(&self, changes: Vec<LiveChange>) -> napi::Result<Vec<String>> {
        self.once_started(|store| live::write(store, &changes))
    }

    /// Records a checkpoint and refreshes the export; nothing before `initialize`.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn save_state(&self, reason: String) -> AsyncTask<Work<()>> {
        self.in_background(move |service| match service.save_state(CheckpointReason::from(reason)) {
            Err(Error::NotInitialized { .. }) => Ok(()),
            saved => saved.map(drop),
        })
    }

    /// Adds a conversation or updates it.
    #[napi]
    pub fn update_conversation(&self, conversation: String) -> napi::Result<()> {
        self.once_started(|store| store.update_conversation(&ConversationState::from_json(&conversation)?))
    }

    /// Adds a message at the end of a conversation.
    #[napi]
    pub fn append_message(&self, conversation_id: String, message: String) -> napi::Result<()> {
        self.once_started(|store| store.append_message(&conversation_id, &PersistedMessage::from_json(&message)?))
    }

    /// Adds a task or updates it.
    #[napi]
    pub fn update_task(&self, task: String) -> napi::Result<()> {
        self.once_started(|store| store.update_task(&TaskState::from_json(&task)?))
    }

    /// Adds an agent or updates it.
    #[napi]
    pub fn update_agent(&self, agent: String) -> napi::Result<()> {
        self.once_started(|store| store.update_agent(&AgentState::from_json(&agent)?))
    }

    /// Adds a project or updates it.
    #[napi]
    pub fn update_project(&self, project: String) -> napi::Result<()> {
        self.once_started(|store| store.update_project(&ProjectState::from_json(&project)?))
    }

    /// Sets the state of the orchestrator's work on its own code.
    #[napi]
    pub fn update_self_improvement(&self, state: String) -> napi::Result<()> {
        self.once_started(|store| store.update_self_improvement(&SelfImprovementState::from_json(&state)?))
    }

    /// Removes a conversation; whether there was one.
    #[napi]
    pub fn remove_conversation(&self, id: String) -> napi::Result<bool> {
        self.once_started(|store| store.remove_conversation(&id))
    }

    /// Removes a task; whether there was one.
    #[napi]
    pub fn remove_task(&self, id: String) -> napi::Result<bool> {
        self.once_started(|store| store.remove_task(&id))
    }

    /// Removes an agent; whether there was one.
    #[napi]
    pub fn remove_agent(&self, session_name: String) -> napi::Result<bool> {
        self.once_started(|store| store.remove_agent(&session_name))
    }

    /// Removes a project; whether there was one.
    #[napi]
    pub fn remove_project(&self, id: String) -> napi::Result<bool> {
        self.once_started(|store| store.remove_project(&id))
    }

    /// Clears the state of the orchestrator's work on its own code; whether there was any.
    #[napi]
    pub fn clear_self_improvement(&self) -> napi::Result<bool> {
        self.once_started(StateStore::clear_self_improvement)
    }

    /// Sets what the orchestrator is doing as a whole.
    #[napi]
    pub fn set_mode(&self, mode: String) -> napi::Result<()> {
        self.once_started(|store| store.set_mode(&OrchestratorMode::from(mode)))
    }

    /// What the orchestrator is doing as a whole; nothing before `initialize`.
    #[napi]
    pub fn mode(&self) -> napi::Result<Option<String>> {
        self.once_started(|store| store.mode().map(|mode| Some(mode.to_string())))
    }

    /// Resume instructions, from the part of a state that they need, as `lib/` cuts it out.
    #[napi]
    pub fn resume_instructions(&self, previous: String) -> napi::Result<String> {
        resume::instructions(&previous).and_then(|instructions| json(&instructions)).map_err(to_js)
    }

    /// Makes a verified backup; its id.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn create_backup(&self, label: String) -> AsyncTask<Work<String>> {
        self.in_background(move |service| service.create_backup(&label))
    }

    /// Goes back to a backup, and records that as a checkpoint.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn restore_backup(&self, id: String) -> AsyncTask<Work<()>> {
        self.in_background(move |service| {
            service.restore_from_backup(&id)?;
            service.save_state(CheckpointReason::ErrorRecovery).map(drop)
        })
    }

    /// The ids of the backups, newest first.
    #[napi(ts_return_type = "Promise<Array<string>>")]
    pub fn list_backups(&self) -> AsyncTask<Work<Vec<String>>> {
        self.in_background(|service| {
            Ok(list_backups(service.state_dir())?.into_iter().map(|backup| backup.id).collect())
        })
    }

    /// Whether a backup can be trusted.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn verify_backup(&self, id: String) -> AsyncTask<Work<String>> {
        self.in_background(move |service| {
            let verdicts = verify_backups(service.state_dir(), Some(&id), &ProgressCallback::default())?;
            verdicts.first().ok_or(Error::BackupNotFound { id }).and_then(json)
        })
    }

    /// Removes all but the newest backups.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn prune_backups(&self, keep: u32) -> AsyncTask<Work<String>> {
        self.in_background(move |service| json(&service.cleanup_old_backups(keep as usize)?))
    }

    /// Whether everything is as it should be.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn check(&self) -> AsyncTask<Work<String>> {
        self.in_background(|service| json(&service.store()?.check()?))
    }

    /// Finds messages, the best first.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn search(&self, text: String, limit: u32) -> AsyncTask<Work<String>> {
        self.in_background(move |service| json(&service.store()?.search(&text, limit as usize)?))
    }

    /// Why the last periodic checkpoint failed.
    #[napi]
    pub fn last_checkpoint_error(&self) -> Option<String> {
        self.service.last_checkpoint_error()
    }

    /// Stops the periodic checkpoint; one at hand ends by itself.
    #[napi]
    pub fn stop_periodic_checkpoint(&self) {
        self.service.stop_periodic_checkpoint_soon();
    }

    /// Ends the run.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn prepare_for_shutdown(&self) -> AsyncTask<Work<()>> {
        self.in_background(StatePersistenceService::prepare_for_shutdown)
    }
}

impl NativeService {
    /// Does something with the store at once; before `initialize`, nothing.
    fn once_started<T: Default>(&self, work: impl FnOnce(&StateStore) -> Result<T>) -> napi::Result<T> {
        match self.service.store() {
            Err(Error::NotInitialized { .. }) => Ok(T::default()),
            store => store.and_then(|store| self.call_time().during(|| work(&store))).map_err(to_js),
        }
    }

    fn call_time(&self) -> CallTime {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_background<T>(
        &self,
        work: impl FnOnce(&StatePersistenceService) -> Result<T> + Send + 'static,
    ) -> AsyncTask<Work<T>>
    where
        Work<T>: napi::Task,
    {
        let (service, time) = (self.service.clone(), self.call_time());
        AsyncTask::new(Work::new(move || time.during(|| work(&service))))
    }
}
