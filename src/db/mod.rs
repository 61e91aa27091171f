//! SQLite, and nothing about the state: connections, the one writer, migrations, and how values are coded in columns.
//!
//! One connection writes, under a mutex and `BEGIN IMMEDIATE`; a pool of read-only connections reads, each in a transaction of its
//! own, so that every reader sees one snapshot and never waits for the writer. Nothing here closes a handle on a database's file
//! other than through SQLite: that would drop SQLite's locks. `docs/locking.md` lists the locks and their order.
//!
//! This file only declares and re-exports; the others import each other directly, without a cycle.

mod codec;
mod connection;
mod copy;
mod create;
mod damaged;
mod database;
mod deadline;
mod disk;
mod existing;
mod foreign;
mod group_commit;
mod interrupt;
mod kept_files;
mod maintenance;
mod migrations;
mod nested_write;
mod own_objects;
mod place;
mod readers;
mod schema;
mod schema_guard;
mod shield;
mod table;
pub(crate) mod time;
mod turns;
mod verify;
mod wal;
mod wal_limit;
mod wal_loss;
mod write;
mod writer;

pub(crate) use crate::state_dir::{
    DAMAGED_PREFIX, FileId, LEFT_OUT_PREFIX, NEW_PREFIX, RECOVERY_REPORT_FILE, beside, is_open_file,
};
pub(crate) use codec::{
    RowReader, Stored, boolean, integer, json, optional_boolean, optional_integer, optional_owned, optional_text, real,
    text, unknown_keys,
};
pub use connection::Durability;
pub(crate) use connection::{open_damaged, without_erasing_pages};
pub(crate) use copy::{
    backup_label, carry_own_objects, copy_database, copy_raw, create_copy, create_copy_of_version, prepare_copy,
    prepare_copy_for, version_of_damaged,
};
#[cfg(test)]
pub(crate) use create::new_in_memory;
pub(crate) use create::publish;
pub(crate) use damaged::{damaged_folders, finish_damaged_folders, move_damaged_files, newest_unfinished_folder};
pub(crate) use database::Database;
pub(crate) use deadline::BUSY_TIMEOUT;
pub(crate) use disk::{copy_files, require_readable};
pub(crate) use foreign::{refuse_foreign, refuse_other_program};
pub(crate) use group_commit::Part;
pub use interrupt::Interrupt;
pub use migrations::{AppliedMigration, MigrationStatus, PendingMigration};
pub(crate) use migrations::{has_known_schema, latest_schema_version};
pub(crate) use own_objects::{LeftOut, is_missing_function, keep_in_file};
pub(crate) use schema::{broken_references, integrity_problem, schema_differences};
pub(crate) use shield::without_triggers;
pub(crate) use table::{List, ListReader, Table, TableReader, insert_sql};
pub(crate) use verify::{confirm_damage, require_whole, verify_database, verify_integrity};
pub use wal::WriteAheadLog;
pub(crate) use wal::{opened_by_another, write_ahead_log};
pub(crate) use wal_loss::{LostFrames, lost_frames};
pub(crate) use write::Work;
pub(crate) use writer::Closed;
