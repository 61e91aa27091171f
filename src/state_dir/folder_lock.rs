//! The lock on a directory: one process at a time adds, replaces or removes files in it.
//!
//! It is `flock` on the directory itself, so the kernel frees it when its process dies, and it needs no file. It is taken on the
//! state directory and on the folder of backups. Two threads of one process exclude each other, too. The order of locks is in
//! `docs/locking.md`.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// Maximum time to wait for the lock: a process that hangs must not make all others hang.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);

/// Waits for the lock on a directory, also across processes. It is held until the returned handle is dropped.
///
/// # Errors
/// [`Error::Busy`] after two minutes.
pub(crate) fn lock_directory(directory: &Path) -> Result<File> {
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
