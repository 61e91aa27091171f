//! Migrations: the one way in which the schema changes. This file only declares and re-exports.

mod history;
mod refinery_bridge;
mod releases;
mod set;

pub(super) use history::{APPLICATION_ID, require_ours};
pub use history::{AppliedMigration, MigrationStatus, PendingMigration};
pub(super) use releases::LATEST_FINGERPRINT;
pub(super) use set::release;
pub(crate) use set::{has_known_schema, latest_schema_version};
