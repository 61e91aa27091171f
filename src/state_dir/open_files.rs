//! Files of the databases that this process has open.
//!
//! POSIX locks belong to a process: closing any handle on a file drops all locks that the process has on it. So code that
//! opens files by a name that a person gave asks here first. The list is behind one mutex, which is held only to look
//! something up or to change an entry.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::file_id::FileId;

/// One entry for each time that a file is open.
static OPEN: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

/// Adds an entry.
pub(crate) fn add_open_file(file: FileId) {
    open_files().push(file);
}

/// Removes one entry of a file.
pub(crate) fn remove_open_file(file: FileId) {
    let mut files = open_files();
    if let Some(index) = files.iter().position(|it| *it == file) {
        files.swap_remove(index);
    }
}

/// Whether a file belongs to a database that this process has open, under whatever name it was found.
pub(crate) fn is_open_file(file: FileId) -> bool {
    open_files().contains(&file)
}

fn open_files() -> MutexGuard<'static, Vec<FileId>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}
