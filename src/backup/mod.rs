//! Backups: each is one complete file in `backups/` with its checksum beside it.
//!
//! A backup is copied by SQLite under a temporary name, checked, and put on the disk; then its checksum takes its name,
//! and last the backup itself. So a backup that has its name is complete. All that adds, removes or restores backups
//! takes turns, also across processes, by a lock on the folder.

mod create;
mod folder;
mod list;
mod restore;
mod retention;
mod verify;

pub(crate) use create::{create, create_in, is_due};
pub use folder::{Backup, BackupId};
pub(crate) use folder::{Folder, KEPT_EXPORT_LABELS, SAFETY_LABEL};
pub use list::list_backups;
pub(crate) use list::{count, find};
pub use restore::RestoreReport;
pub(crate) use restore::{Present, each_usable, import_document, restore, restore_whole};
pub(crate) use retention::prune;
pub use retention::{Retention, RetentionReport};
pub use verify::{BackupVerdict, verify_backups};
