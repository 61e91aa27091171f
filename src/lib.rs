//! Durable state for an agent orchestrator: conversations, tasks, agents, projects and the orchestrator's work on its own
//! code, in SQLite.
//!
//! Two layers, both cheap to clone and usable from any thread:
//!
//! - [`StatePersistenceService`] is the orchestrator's lifecycle: it takes the state directory for this process, starts a
//!   run, checkpoints, refreshes the JSON export, and shuts down. What the previous run left is there again.
//! - [`StateStore`] is the storage: single entities, batches, one consistent snapshot, import and export.
//!
//! When a write returns `Ok`, it is on the disk. Nothing that is read from a document is dropped: what this release does
//! not know is kept and written out again, and what cannot be read is set aside word for word.
//!
//! ```
//! use agentmux_state::{StatePersistenceService, TaskState, TaskStatus};
//!
//! # fn main() -> agentmux_state::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let base = dir.path();
//! let service = StatePersistenceService::new(Some(base)); // `None`: the home directory
//! if let Some(state) = service.initialize()? {
//!     for task in service.generate_resume_instructions(&state).tasks_to_resume {
//!         println!("going on with {}", task.id);
//!     }
//! }
//! let mut task = TaskState { id: "T-1".into(), title: "Fix the build".into(), ..Default::default() };
//! task.status = TaskStatus::InProgress;
//! service.update_task(&task)?; // on the disk
//! service.prepare_for_shutdown()
//! # }
//! ```

#[cfg(not(unix))]
compile_error!(
    "agentmux-state needs a Unix system: file modes, inodes, `flock` and POSIX locks protect the state. Linux is supported; macOS \
     works with fewer checks, as it has no /proc. On Windows, use WSL 2."
);

mod backup;
mod check;
mod clock;
mod db;
mod document;
mod error;
mod json;
mod model;
mod progress;
mod prune;
mod recover;
mod resume;
mod rows;
mod search;
mod service;
mod setters;
mod state_dir;
mod store;
mod summary;

pub use backup::{
    Backup, BackupId, BackupVerdict, RestoreReport, Retention, RetentionReport, list_backups, verify_backups,
};
pub use check::{CheckFacts, CheckFinding, CheckReport};
pub use clock::Clock;
pub use db::{AppliedMigration, Durability, Interrupt, MigrationStatus, PendingMigration, WriteAheadLog};
pub use document::{ImportMode, ImportOptions, ImportReport, ReportedSetAside, ReportedWarning};
pub use error::{DocumentProblem, Error, ForeignFile, HistoryProblem, Result};
pub use json::{to_json, to_string as to_compact_json};
pub use model::*;
pub use progress::{Progress, ProgressCallback, Stage};
pub use prune::{PruneOptions, PruneReport, StateRetention};
pub use recover::{RecoveryFinding, RecoveryReport};
pub use resume::resume_instructions;
pub use search::SearchHit;
pub use service::{
    BACKUP_INTERVAL, CHECKPOINT_INTERVAL, KEPT_BACKUPS, PRUNE_INTERVAL, ServiceOptions, StatePersistenceService,
    reset_state_persistence_service, state_persistence_service,
};
pub use state_dir::{
    DATABASE_FILE, DirectoryLock, EXPORT_FILE, LockHolder, SharedMounts, default_state_dir, write_private_file,
};
pub use store::{
    Backups, Batch, ExportedFile, Limits, ListFilter, ListOrder, MigrationDryRun, StateStore, StoreOptions, recover,
};
pub use summary::StoreSummary;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
