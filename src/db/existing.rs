//! Opening a database that exists, for reading, and what has to be true of its files before SQLite opens it.
//!
//! The checks come first, as SQLite would go on silently: a WAL with lost frames, a second name of the file, a WAL without its
//! database. Nothing is written, except that SQLite rolls back a transaction that a killed process left. No lock is held when a
//! function returns, other than those of a connection that it returns.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection;
use super::foreign::kind;
use super::wal_loss::lost_frames;
use crate::error::{Error, Result};
use crate::state_dir::{NEW_PREFIX, beside, is_mounted_file};

/// Opens a database that must exist, for reading. An error is of the kind of what is wrong with the database.
pub(super) fn open_existing(path: &Path) -> Result<Connection> {
    if !exists(path)? {
        return Err(Error::NoDatabase { path: path.to_path_buf() });
    }
    require_own_mount(path)?;
    require_whole_wal(path)?;
    let open = || {
        let conn = connection::open_reader(path)?;
        let read = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        match read.as_ref().err().and_then(rusqlite::Error::sqlite_error).map(|error| error.extended_code) {
            Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK) => {
                // Killed in the middle of a transaction without a write-ahead log: only a connection that may write can undo it.
                connection::open_writer(path)?.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
                connection::open_reader(path)
            }
            _ => Ok(read.map(|()| conn)?),
        }
    };
    open().map_err(|error: Error| error.with_path(path))
}

/// Whether the database is there. A WAL or a journal without its database is an error, not the absence of both.
pub(super) fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => match kind(&metadata) {
            Some(found) => Err(Error::NotAStateDatabase { path: path.to_path_buf(), found }),
            None => Ok(true),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_left = |log: &PathBuf| fs::symlink_metadata(log).is_ok_and(|metadata| metadata.len() > 0);
            let log = [beside(path, "-wal"), beside(path, "-journal")].into_iter().find(is_left);
            // The database of a process that is just making it comes before its log: look again.
            if let Some(log) = &log
                && fs::symlink_metadata(path).is_err()
            {
                let detail = format!("the file is missing, though its log {} is there", log.display());
                return Err(Error::Corrupt { path: path.to_path_buf(), detail });
            }
            Ok(log.is_some())
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Fails where the file of a database is mounted by itself: its other path has another WAL beside it.
fn require_own_mount(path: &Path) -> Result<()> {
    if is_mounted_file(path) { Err(Error::MountedFile { path: path.to_path_buf() }) } else { Ok(()) }
}

/// Fails where the file of a database has another name, a hard link: SQLite keeps the WAL beside the name by which it opens the
/// file, so that two names have two of them.
pub(super) fn require_one_name(path: &Path) -> Result<()> {
    // A file system that cannot rename without replacing gives a new database its name by a link, which goes at once; FUSE may
    // count it for a second.
    const PATIENCE: Duration = Duration::from_secs(2);
    require_own_mount(path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match names(path)? {
            0 | 1 => return Ok(()),
            _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            links => return Err(Error::HardLinked { path: path.to_path_buf(), links }),
        }
    }
}

/// How many names a database file has, but for a temporary one that a process was killed before removing: nobody opens the file by
/// that.
fn names(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() || metadata.nlink() <= 1 {
        return Ok(1);
    }
    let is_temporary = |entry: &fs::DirEntry| {
        let is_same = |found: fs::Metadata| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino());
        entry.file_name().to_string_lossy().starts_with(NEW_PREFIX) && entry.metadata().is_ok_and(is_same)
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let entries = fs::read_dir(directory).map_err(Error::io("read", directory))?.flatten();
    Ok(metadata.nlink().saturating_sub(entries.into_iter().filter(is_temporary).count() as u64))
}

/// Fails where updates are lost that the WAL held. Only before this process opens the database: SQLite would take what is left for
/// everything.
pub(super) fn require_whole_wal(path: &Path) -> Result<()> {
    let Some(lost) = lost_frames(path) else { return Ok(()) };
    let detail =
        format!("{} of the {} pages in its log state.db-wal are missing or damaged", lost.missing, lost.frames);
    Err(Error::Corrupt { path: path.to_path_buf(), detail })
}
