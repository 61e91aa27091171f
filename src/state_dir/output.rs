//! Files that people name as the target of an export or a report, and the guard that keeps them from overwriting a state.
//!
//! The guard looks twice, before the content is written to a temporary file and again before that is renamed. It takes no lock.
//! Where it refuses, the target is unchanged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::file_id::FileId;
use super::files::{beside, is_link, replace_file, resolve};
use super::names::{
    BACKUP_DIRECTORY, BESIDE_SUFFIXES, DAMAGED_PREFIX, DATABASE_FILE, EARLY_EXPORT_FILE, EXPORT_FILE, LEFT_OUT_PREFIX,
    LOCK_FILE, WRITERS_FILE,
};
use super::open_files::is_open_file;
use super::proc_locks::{FileLock, locks_on};
use crate::error::{Error, Result};

/// Writes a file that only its owner reads; a kill leaves the old file or the new. Through a link, the file that it leads
/// to is replaced. A pipe or a device, such as `/dev/stdout`, is written to.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("page.html");
/// agentmux_state::write_private_file(&path, b"<!doctype html>")?;
/// # Ok::<(), agentmux_state::Error>(())
/// ```
///
/// # Errors
/// [`Error::OwnFile`] where the file belongs to a state directory, [`Error::WouldOverwriteDatabase`] where it is an SQLite
/// database.
pub fn write_private_file(path: &Path, content: &[u8]) -> Result<()> {
    write_file(path, |out| out.write_all(content).map_err(Error::io("write", path))).map(drop)
}

/// Writes a file as [`write_private_file`] does; its size, 0 for what is no file.
pub(crate) fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
    let write = |out: &mut dyn Write| write(out).map_err(|error| error.written_to(path));
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => {
            Err(Error::io("write", path)(io::Error::other("it is a block device")))
        }
        Ok(found) if !found.is_file() && !found.is_dir() => {
            let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
            if file.metadata().map_err(Error::io("write", path))?.is_file() {
                return Err(Error::io("write", path)(io::Error::other("it became a file meanwhile")));
            }
            let mut out = BufWriter::with_capacity(64 * 1024, file);
            write(&mut out)?;
            out.flush().map(|()| 0).map_err(Error::io("write", path))
        }
        _ => {
            let target = resolve_target(path)?;
            refuse_protected(path, &target)?;
            let written = replace_file(&target, |out| {
                write(out)?;
                // Writing may have taken long.
                refuse_protected(path, &target)
            })?;
            Ok(written.len())
        }
    }
}

/// The path of a file that may not exist yet, absolute and without links.
pub(crate) fn resolve_target(path: &Path) -> Result<PathBuf> {
    if is_link(path) {
        return resolve(path);
    }
    let Some(name) = path.file_name() else {
        return Err(Error::io("write", path)(io::Error::other("it does not name a file")));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(resolve(parent)?.join(name))
}

/// Fails where a file that was found as `target`, resolved, is a database or belongs to a state directory.
fn refuse_protected(path: &Path, target: &Path) -> Result<()> {
    if is_of_state_directory(target) {
        return Err(Error::OwnFile { path: path.to_path_buf() });
    }
    if is_database(target)? || is_beside_database(target)? {
        return Err(Error::WouldOverwriteDatabase { path: path.to_path_buf() });
    }
    Ok(())
}

/// Whether a file, by its place, belongs to a state directory, whether or not it exists.
fn is_of_state_directory(target: &Path) -> bool {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let Some(directory) = target.parent() else { return false };
    // No other file is called so, and a state directory may be about to become one.
    let is_database_name = |name: &str| {
        name.strip_prefix(DATABASE_FILE).is_some_and(|suffix| suffix.is_empty() || BESIDE_SUFFIXES.contains(&suffix))
    };
    if is_database_name(&name) || name == LOCK_FILE || name == WRITERS_FILE {
        return true;
    }
    let is_of_ours = name == EXPORT_FILE || name == EARLY_EXPORT_FILE || name.starts_with(LEFT_OUT_PREFIX);
    if is_of_ours && is_state_directory(directory) {
        return true;
    }
    // Some file systems ignore the case of names: compare the files.
    let protected = [DATABASE_FILE, "state.db-wal", "state.db-shm", "state.db-journal", LOCK_FILE, WRITERS_FILE];
    let exports = [EXPORT_FILE, EARLY_EXPORT_FILE];
    let found = FileId::at(target).ok().flatten();
    let is_same = |name: &&str| found.is_some() && FileId::at(&directory.join(name)).ok().flatten() == found;
    if protected.iter().any(is_same) || is_state_directory(directory) && exports.iter().any(is_same) {
        return true;
    }
    let folder = directory.file_name().unwrap_or_default().to_string_lossy();
    (folder == BACKUP_DIRECTORY || folder.starts_with(DAMAGED_PREFIX))
        && directory.parent().is_some_and(is_state_directory)
        || name.starts_with("backup-") && is_linked_backup_folder(directory)
}

/// Whether a directory holds a state: its database, or what is left of one.
fn is_state_directory(directory: &Path) -> bool {
    let is_there = |name: &str| fs::symlink_metadata(directory.join(name)).is_ok();
    is_there(DATABASE_FILE)
        || is_there(LOCK_FILE)
        || BESIDE_SUFFIXES.iter().any(|it| is_there(&format!("{DATABASE_FILE}{it}")))
}

/// Whether a directory holds backups of a state directory that refers to it by a link: it has a backup with its checksum.
fn is_linked_backup_folder(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        let millis = name.strip_prefix("backup-").and_then(|rest| rest.split_once('-')).map(|(millis, _)| millis);
        millis.is_some_and(|it| it.parse::<i64>().is_ok()) && name.ends_with(".db.sha256")
    })
}

/// The first bytes of every SQLite database.
const HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Whether a file is an SQLite database. One that this process has open is not opened here: closing it would drop the locks.
fn is_database(target: &Path) -> Result<bool> {
    let Some(file) = FileId::at(target)? else { return Ok(false) };
    if is_open_file(file) || has_our_lock(file) || BESIDE_SUFFIXES.iter().any(|it| beside(target, it).exists()) {
        return Ok(true);
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let opened = match OpenOptions::new().read(true).custom_flags(flags).open(target) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("open", target)(error)),
    };
    let mut header = Vec::with_capacity(HEADER.len());
    match File::take(opened, HEADER.len() as u64).read_to_end(&mut header) {
        Ok(_) => Ok(header == HEADER),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(false),
        Err(error) => Err(Error::io("read", target)(error)),
    }
}

/// Whether this process holds a lock on a file, also one that another SQLite library in it has taken.
fn has_our_lock(file: FileId) -> bool {
    locks_on(file).unwrap_or_default().iter().any(FileLock::is_ours)
}

/// Whether a file belongs to an SQLite database of another name.
fn is_beside_database(target: &Path) -> Result<bool> {
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return Ok(false) };
    for suffix in BESIDE_SUFFIXES.iter().chain(&[".sha256"]) {
        if let Some(database) = name.strip_suffix(suffix)
            && !database.is_empty()
            && is_database(&target.with_file_name(database))?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
