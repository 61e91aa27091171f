//! Folders with the files of damaged databases.
//!
//! A damaged database is never deleted: its files are renamed into a folder `damaged-…`, which is marked as unfinished until
//! another database has taken the place. A process that was killed in between is continued with the same folder, so that a database
//! and its WAL stay together. Every function that changes something expects the caller to hold the lock on the directory. A rename
//! that fails leaves the files that were not moved where they are, and the mark.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::state_dir::{DAMAGED_PREFIX, RECOVERY_REPORT_FILE, beside, create_directory, replace_file, sync_directory};

/// In such a folder: its place is still empty.
const UNFINISHED: &str = "unfinished";

/// The newest folder with a damaged database whose place no other one has taken yet.
pub(crate) fn newest_unfinished_folder(path: &Path) -> Option<PathBuf> {
    let file = path.file_name()?;
    let is_file = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|it| it.is_file());
    // Folders of releases before this marker have neither it nor a report.
    let is_unfinished = |folder: &Path| is_file(folder.join(UNFINISHED)) || !is_file(folder.join(RECOVERY_REPORT_FILE));
    let folders = damaged_folders(path).into_iter();
    folders.filter(|(_, folder)| is_file(folder.join(file)) && is_unfinished(folder)).max().map(|(_, folder)| folder)
}

/// The folders of damaged databases, with their numbers.
pub(crate) fn damaged_folders(path: &Path) -> Vec<(u64, PathBuf)> {
    let entries = path.parent().and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten();
    let folder = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix(DAMAGED_PREFIX)?.parse().ok()?;
        Some((number, entry.path()))
    };
    entries.filter_map(folder).collect()
}

/// Moves a damaged database and all that SQLite keeps beside it into a folder of their own, and returns the folder.
///
/// Publishing another database under that name removes the mark ([`finish_damaged_folders`]).
pub(crate) fn move_damaged_files(path: &Path, now: DateTime<Utc>) -> Result<PathBuf> {
    let is_moved = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let folder = match newest_unfinished_folder(path).filter(|_| is_moved) {
        Some(folder) => folder,
        None => create_damaged_folder(path, now)?,
    };
    // The database first: without its WAL, it would seem to be whole.
    for suffix in ["", "-wal", "-journal", "-shm"] {
        let file = beside(path, suffix);
        let target = folder.join(file.file_name().unwrap_or_default());
        match fs::symlink_metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("move", file)(error)),
            Ok(_) => {}
        }
        let target = if fs::symlink_metadata(&target).is_ok() {
            // SQLite makes an empty one when it reads the moved database. What is in the way is kept, too.
            create_damaged_folder(path, now)?.join(file.file_name().unwrap_or_default())
        } else {
            target
        };
        fs::rename(&file, &target).map_err(Error::io("move", file))?;
    }
    sync_directory(&folder)?;
    path.parent().map_or(Ok(()), sync_directory)?;
    Ok(folder)
}

/// Makes a folder for a damaged database, with a number above all others, also where the clock was set back, and marks it as
/// unfinished. Folders that a killed process made and did not use are removed.
fn create_damaged_folder(path: &Path, now: DateTime<Utc>) -> Result<PathBuf> {
    let mut number = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    for (other, folder) in damaged_folders(path) {
        let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        if names.into_iter().all(|name| name == UNFINISHED) {
            // Where this fails, an empty folder is left.
            let _ = fs::remove_file(folder.join(UNFINISHED));
            let _ = fs::remove_dir(&folder);
        } else {
            number = number.max(other.saturating_add(1));
        }
    }
    let folder = path.with_file_name(format!("{DAMAGED_PREFIX}{number}"));
    create_directory(&folder)?;
    replace_file(&folder.join(UNFINISHED), |_| Ok(()))?;
    Ok(folder)
}

/// Removes the marks of folders with damaged databases whose place is taken.
pub(crate) fn finish_damaged_folders(path: &Path) -> Result<()> {
    for (_, folder) in damaged_folders(path) {
        match fs::remove_file(folder.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", folder)(error)),
            _ => {}
        }
    }
    Ok(())
}
