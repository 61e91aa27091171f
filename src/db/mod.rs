//! The database under the store: connections, the one writer, migrations, and how values are coded in columns.
//!
//! Locking: one connection writes, under a mutex and `BEGIN IMMEDIATE`; a pool of read-only connections reads, each in a
//! transaction of its own, so that readers see one moment and never wait for the writer. Nothing here reads the
//! database's files other than through SQLite: closing a file handle on them would drop SQLite's locks.

mod backup;
mod codec;
mod connection;
mod database;
mod group;
mod migrations;
mod schema;
mod table;

pub(crate) use backup::{backup_label, copy_database, create_copy, prepare_copy, verify_database};
pub(crate) use codec::{RowReader, boolean, integer, json, optional_boolean, optional_text, real, text, unknown_keys};
pub use connection::Durability;
pub(crate) use connection::without_triggers;
pub(crate) use database::{Closed, Database, publish, set_aside};
pub use migrations::{AppliedMigration, MigrationStatus, PendingMigration};
pub(crate) use migrations::{has_known_schema, latest_schema_version};
pub(crate) use schema::schema_differences;
pub(crate) use table::{List, ListReader, Table, TableReader};
