//! The state directory: what lies in it, who owns it, and how files in it are read, written and locked.
//!
//! The layer below `db`: nothing here knows SQLite's library. What it knows of SQLite are the names of the files beside a
//! database and the fact that closing a file drops locks. This file only declares and re-exports; the others import each other
//! directly.

mod file_id;
mod files;
mod folder_lock;
mod layout;
mod mount;
mod names;
mod open_files;
mod output;
mod proc_locks;
mod service_lock;

pub(crate) use file_id::FileId;
pub(crate) use files::{
    beside, create_directory, is_link, open_file, private_file, remove_temporary_files, replace_file, resolve,
    sync_directory, temporary_file,
};
pub(crate) use folder_lock::lock_directory;
pub use layout::default_state_dir;
pub(crate) use layout::prepare;
pub use mount::SharedMounts;
pub(crate) use mount::{SharedMount, is_mounted_file, shared_mount};
pub(crate) use names::{
    BACKUP_DIRECTORY, DAMAGED_PREFIX, EARLY_EXPORT_FILE, LEFT_OUT_PREFIX, NEW_PREFIX, RECOVERY_REPORT_FILE,
    RENAMED_STATE_DIRECTORY, STATE_DIRECTORY, WRITERS_FILE, WRITING_PREFIX,
};
pub use names::{DATABASE_FILE, EXPORT_FILE};
pub(crate) use open_files::{add_open_file, is_open_file, remove_open_file};
pub use output::write_private_file;
pub(crate) use output::{resolve_target, write_file};
pub(crate) use proc_locks::{FileLock, LockPresence, lasting_lock_holders, locks_on, wait_for_locks_to_show};
pub(crate) use service_lock::holds_deleted_lock;
pub use service_lock::{DirectoryLock, LockHolder};
