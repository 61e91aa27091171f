//! The state directory: what lies in it, who may read it, and how files in it are replaced.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

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

/// The state directory of this user: `.agentmux/state` below the home directory.
///
/// # Errors
/// [`Error::NoHome`] where the home directory is not known.
pub fn default_state_dir() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Ok(home.ok_or(Error::NoHome)?.join(STATE_DIRECTORY))
}

/// Only the owner reads and writes: the state holds conversations and code.
pub(crate) fn private_file() -> Permissions {
    Permissions::from_mode(0o600)
}

/// Makes the directory and those above it that are missing, with mode 0700 whatever the umask.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(Error::io("set the mode of", path))?;
            // What is made durable inside it must not go with it.
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_directory)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::io("create", path)(error)),
    }
}

/// Makes the state directory and what belongs into it, and returns its absolute path without links.
///
/// SQLite refuses links on the way to a database; the directory itself may be reached through one.
pub(crate) fn prepare(state_dir: &Path) -> Result<PathBuf> {
    create_directory(state_dir)?;
    let state_dir = resolve(state_dir)?;
    // A link to a disk that is not there at the moment is a matter of the backups.
    if !is_link(&state_dir.join(BACKUP_DIRECTORY)) {
        create_directory(&state_dir.join(BACKUP_DIRECTORY))?;
    }
    create_directory(&state_dir.join(SELF_IMPROVEMENT_DIRECTORY))?;
    Ok(state_dir)
}

/// Whether there is a link under that name.
pub(crate) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// The absolute path of an existing directory, without links.
pub(crate) fn resolve(directory: &Path) -> Result<PathBuf> {
    fs::canonicalize(directory).map_err(Error::io("find", directory))
}

/// Opens a file of ours for reading, never another kind of thing: opening a pipe would wait for a writer for ever.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Reads a file of ours as a text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    io::read_to_string(open_file(path)?)
}

/// Makes the entries of a directory durable: a file that was created or renamed in it.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io("write", directory))
}

/// Replaces a file by what `write` writes, or leaves it as it was: nobody ever sees a part.
///
/// The content is on the disk before it takes the name. Returns the new file's metadata.
pub(crate) fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>,
) -> Result<fs::Metadata> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = temporary_file(directory, WRITING_PREFIX)?;
    let mut out = BufWriter::with_capacity(64 * 1024, file.as_file_mut());
    write(&mut out)?;
    out.flush().map_err(Error::io("write", path))?;
    drop(out);
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    let file = file.persist(path).map_err(|error| Error::io("replace", path)(error.error))?;
    sync_directory(directory)?;
    file.metadata().map_err(Error::io("read", path))
}

/// A file of ours under a temporary name, which only the owner reads, whatever the umask.
pub(crate) fn temporary_file(directory: &Path, prefix: &str) -> Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix(prefix)
        .suffix(TEMPORARY_SUFFIX)
        .tempfile_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    file.as_file().set_permissions(private_file()).map_err(Error::io("set the mode of", file.path()))?;
    Ok(file)
}

/// Waits until nobody else holds the directory by this lock, and holds it until it is dropped; also across processes.
///
/// # Errors
/// [`Error::Busy`] where somebody holds it for minutes: a process that hangs must not make all others hang.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    let flags = OFlags::DIRECTORY.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(directory).map_err(Error::io("open", directory))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: directory.to_path_buf() }),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", directory)(error)),
        }
    }
}

/// Removes what killed processes left under a temporary name. Only under the lock on the directory.
pub(crate) fn remove_temporary_files(directory: &Path, prefixes: &[&str]) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // A database that was being made may have its journal beside it.
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) && name.contains(TEMPORARY_SUFFIX) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

const LOCK_TIMEOUT: Duration = Duration::from_secs(120);

/// Files that are about to replace others.
pub(crate) const WRITING_PREFIX: &str = ".writing-";
const TEMPORARY_SUFFIX: &str = ".tmp";
