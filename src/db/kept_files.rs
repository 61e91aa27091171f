//! Files of a database that are read by other means than SQLite.
//!
//! Closing any handle on such a file drops the locks that this process has on it, those of other threads included, whoever took
//! them. So each file is opened once, and its handle is kept as long as the file has a name: nobody relies on locks on one that has
//! none.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

/// Handles by device and inode.
type Handles = HashMap<(u64, u64), Arc<File>>;

static KEPT: Mutex<Option<Handles>> = Mutex::new(None);

/// Returns a handle for reading a file, never through a link.
pub(super) fn open(path: &Path) -> io::Result<Arc<File>> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    let metadata = fs::symlink_metadata(path)?;
    if let Some(file) = kept.get(&(metadata.dev(), metadata.ino())) {
        return Ok(file.clone());
    }
    kept.retain(|_, file| file.metadata().is_ok_and(|metadata| metadata.nlink() > 0));
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = Arc::new(OpenOptions::new().read(true).custom_flags(flags).open(path)?);
    // It may have been replaced since; then it is kept under the number that it really has.
    match file.metadata() {
        Ok(metadata) => {
            if let Some(other) = kept.insert((metadata.dev(), metadata.ino()), file.clone()) {
                std::mem::forget(other);
            }
            Ok(file)
        }
        Err(error) => {
            std::mem::forget(file);
            Err(error)
        }
    }
}
