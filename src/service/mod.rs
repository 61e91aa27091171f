//! The orchestrator's lifecycle on a state: start, runs, checkpoints, upkeep, shutdown.

mod lifecycle;
mod options;
mod timer;
mod upkeep;

pub use lifecycle::{StatePersistenceService, reset_state_persistence_service, state_persistence_service};
pub use options::{BACKUP_INTERVAL, CHECKPOINT_INTERVAL, KEPT_BACKUPS, ServiceOptions};
pub use upkeep::PRUNE_INTERVAL;
