//! Whether the disk gives out what is in a file.
//!
//! SQLite reports a read that failed with `EIO` as a damaged database. So before damage is believed, the files are read by other
//! means.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::kept_files;
use crate::error::{Error, Result};
use crate::state_dir::beside;

/// Reads a database and its WAL from the disk.
///
/// # Errors
/// [`Error::Io`] where the disk fails.
pub(crate) fn require_readable(database: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-journal"] {
        read(&beside(database, suffix), |_| Ok(()))?;
    }
    Ok(())
}

/// Copies a database, its WAL and its rollback journal, as they are, into files that belong to us alone.
pub(crate) fn copy_files(database: &Path, target: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-journal"] {
        let target = beside(target, suffix);
        let mut file = None;
        read(&beside(database, suffix), |bytes| {
            if file.is_none() {
                file = Some(File::create(&target).map_err(Error::io("create", &target))?);
            }
            file.as_mut().map_or(Ok(()), |file| file.write_all(bytes).map_err(Error::io("write", &target)))
        })?;
    }
    Ok(())
}

/// Hands over what is in a file, part by part; nothing where there is none.
fn read(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::Io { action: "read", path: path.to_path_buf(), source: error };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let file = kept_files::open(path).map_err(failed)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        each(&buffer[..read])?;
        at += read as u64;
    }
}
