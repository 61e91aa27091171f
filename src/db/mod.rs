//! The database under the store: connections, the one writer, migrations, and how values are coded in columns.
//!
//! Locking: one connection writes, under a mutex and `BEGIN IMMEDIATE`; a pool of read-only connections reads, each in a
//! transaction of its own, so that readers see one moment and never wait for the writer. Nothing here reads the
//! database's files other than through SQLite: closing a file handle on them would drop SQLite's locks.

mod backup;
mod codec;
mod connection;
mod database;
mod deadline;
mod disk;
mod foreign;
mod group;
mod kept_files;
mod lost_log;
mod migrations;
mod own_objects;
mod place;
mod schema;
mod shield;
mod table;
pub(crate) mod time;
mod turns;
mod wal;

pub(crate) use backup::{
    backup_label, carry_own_objects, copy_database, copy_raw, create_copy, create_copy_of_version, prepare_copy,
    prepare_copy_for, verify_database, verify_integrity, version_of_damaged,
};
pub(crate) use codec::{RowReader, boolean, integer, json, optional_boolean, optional_text, real, text, unknown_keys};
pub use connection::Durability;
pub(crate) use connection::{open_damaged, without_erasing_pages};
pub(crate) use database::{
    Closed, Database, NEW_PREFIX, RECOVERY_REPORT_FILE, SET_ASIDE_PREFIX, Work, beside, end_set_aside,
    newest_set_aside, publish, require_whole, set_aside, set_aside_folders, tell_from_failed_read,
};
pub(crate) use deadline::BUSY_TIMEOUT;
pub(crate) use disk::{copy_files, require_readable};
pub(crate) use foreign::{refuse_foreign, refuse_other_program};
pub(crate) use group::Part;
pub(crate) use lost_log::{LostFrames, lost_frames};
pub use migrations::{AppliedMigration, MigrationStatus, PendingMigration};
pub(crate) use migrations::{has_known_schema, latest_schema_version};
pub(crate) use own_objects::{LEFT_OUT_PREFIX, LeftOut, is_missing_function, keep_in_file};
pub(crate) use place::{FileId, is_locked_here, is_open_file};
pub(crate) use schema::{broken_references, integrity_problem, schema_differences};
pub(crate) use shield::without_triggers;
pub(crate) use table::{List, ListReader, Table, TableReader, insert_sql};
pub(crate) use turns::FILE as WRITERS_FILE;
pub use wal::WriteAheadLog;
pub(crate) use wal::{opened_by_another, write_ahead_log};
