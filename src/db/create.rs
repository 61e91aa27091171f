//! Making a new database under its name.
//!
//! It is made under a temporary name, complete, and then renamed. So an empty or half-made database never stands under the name,
//! not even after a kill, and an empty file there is always a loss and never a beginning. Two processes that make one at the same
//! time are ordered by the lock on the directory.

use std::path::Path;

use tempfile::NamedTempFile;

use super::copy::create_copy;
use super::damaged::{finish_damaged_folders, newest_unfinished_folder};
use super::existing::exists;
use crate::error::{Error, Result};
use crate::state_dir::{NEW_PREFIX, lock_directory, remove_temporary_files, sync_directory, temporary_file};

/// Makes a new database where there is none.
pub(super) fn create(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let _turn = lock_directory(directory)?;
    if exists(path)? {
        // Another process was first; its database is as good.
        return Ok(());
    }
    if let Some(folder) = newest_unfinished_folder(path) {
        // The process that moved the damaged one was killed before another took its place. An empty one must not.
        let detail = format!(
            "it was moved to {}, and nothing has taken its place yet (to start with an empty state, move that folder away)",
            folder.display()
        );
        return Err(Error::Corrupt { path: path.to_path_buf(), detail });
    }
    remove_temporary_files(directory, &[NEW_PREFIX])?;
    let file = temporary_file(directory, NEW_PREFIX)?;
    create_copy(file.path(), |_| Ok(()))?;
    publish(file, path)
}

/// Gives a complete database, which no process has open, a name that is free.
pub(crate) fn publish(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(Error::io("write", file.path()))?;
    // Closed before it gets its name: closing any handle on a live database drops SQLite's locks on it.
    let file = file.into_temp_path();
    file.persist_noclobber(path).map_err(|error| Error::io("create", path)(error.error))?;
    path.parent().map_or(Ok(()), sync_directory)?;
    finish_damaged_folders(path)
}

/// A database in memory with the schema of this release.
#[cfg(test)]
pub(crate) fn new_in_memory() -> Result<rusqlite::Connection> {
    let conn = super::migrations::release().fresh(super::migrations::latest_schema_version(), Path::new(""))?;
    conn.pragma_update(None, "foreign_keys", true)?;
    Ok(conn)
}
