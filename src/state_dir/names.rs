//! Names of the files and folders in a state directory: the one place that lists them.

/// The state directory, seen from the base directory.
pub const STATE_DIRECTORY: &str = ".agentmux/state";
/// Where the TypeScript service kept it after the product was renamed.
pub const RENAMED_STATE_DIRECTORY: &str = ".crewly/state";
/// The database.
pub const DATABASE_FILE: &str = "state.db";
/// The JSON export.
pub const EXPORT_FILE: &str = "current-state.json";
/// The name that early releases of the TypeScript service gave their state file.
pub const EARLY_EXPORT_FILE: &str = "orchestrator-state.json";
/// Backups.
pub const BACKUP_DIRECTORY: &str = "backups";
/// The orchestrator's own files for its work on its own code.
pub const SELF_IMPROVEMENT_DIRECTORY: &str = "self-improvement";
/// The lock file of the process that owns the directory.
pub(crate) const LOCK_FILE: &str = "service.lock";
/// The lock file of the queue of writing processes.
pub(crate) const WRITERS_FILE: &str = "writers.lock";

/// Prefix of files that are about to replace others.
pub(crate) const WRITING_PREFIX: &str = ".writing-";
/// Prefix of databases that do not have their name yet.
pub(crate) const NEW_PREFIX: &str = ".state-";
/// Prefix of the folders with the files of damaged databases; the time in milliseconds follows.
pub(crate) const DAMAGED_PREFIX: &str = "damaged-";
/// In such a folder: the report of a recovery.
pub(crate) const RECOVERY_REPORT_FILE: &str = "recovery.json";
/// Prefix of files with a person's own objects that could not stay in the database; the time in milliseconds follows.
pub(crate) const LEFT_OUT_PREFIX: &str = "own-objects-";

/// Suffixes of the files that SQLite keeps beside a database.
pub(crate) const BESIDE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];
