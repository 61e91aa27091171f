//! The façade: the state in one place, with every policy, such as "back up first" or "refuse to shrink".
//!
//! Everything below works on a connection or a database and knows nothing of [`StateStore`].

mod backups;
mod batch;
mod checkpoints;
mod entities;
mod export;
mod import;
mod list;
mod maintenance;
mod migration;
mod options;
mod recovery;
mod search;
mod state_store;
mod upgrade;

pub use backups::Backups;
pub use batch::Batch;
pub use export::ExportedFile;
pub use list::{ListFilter, ListOrder};
pub use migration::MigrationDryRun;
pub use options::{Limits, StoreOptions};
pub use recovery::recover;
pub use state_store::StateStore;
