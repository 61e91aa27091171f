//! File tools: directories and files with private modes, replaced atomically and made durable.
//!
//! A file is replaced by a rename: a reader sees the old content or the new one, and a kill leaves one of them. Content and
//! directory are synced before a function returns `Ok`. Nothing here takes a lock, and nothing here may be used on a database that
//! is open: closing a handle on it drops SQLite's locks.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use super::names::WRITING_PREFIX;
use crate::error::{Error, Result};

/// The mode of every file of ours, 0600: the state holds conversations and code.
pub(crate) fn private_file() -> Permissions {
    Permissions::from_mode(0o600)
}

/// Creates a directory and its missing parents, with mode 0700 whatever the umask.
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

/// Suffix of files under a temporary name.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Whether there is a link under that name.
pub(crate) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// The absolute path of an existing directory, without links.
pub(crate) fn resolve(directory: &Path) -> Result<PathBuf> {
    fs::canonicalize(directory).map_err(Error::io("find", directory))
}

/// Opens a file of ours for reading, never another kind of thing: opening a pipe would wait for a writer forever.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Makes the entries of a directory durable: a file that was created or renamed in it.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io("write", directory))
}

/// Replaces a file atomically by what `write` writes, or leaves it unchanged.
///
/// The content is durable before it takes the name. Returns the new file's metadata.
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

/// Creates a file under a temporary name, with mode 0600 whatever the umask.
pub(crate) fn temporary_file(directory: &Path, prefix: &str) -> Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix(prefix)
        .suffix(TEMPORARY_SUFFIX)
        .tempfile_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    file.as_file().set_permissions(private_file()).map_err(Error::io("set the mode of", file.path()))?;
    Ok(file)
}

/// Removes temporary files that killed processes left. The caller holds the lock on the directory.
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

/// The path of a file that SQLite keeps beside a database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
