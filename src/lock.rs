//! Who holds the state directory: one live process, by a lock that the kernel frees when the process dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::directory::{self, is_link, private_file};
use crate::error::{Error, Result};

const LOCK_FILE: &str = "service.lock";

/// Holds a state directory for this process: no service of another process starts on it until this is dropped, or the
/// process dies.
///
/// [`StatePersistenceService`](crate::StatePersistenceService) takes it by itself.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the directory; makes it where it is missing.
    ///
    /// ```
    /// use agentmux_state::{DirectoryLock, Error};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let held = DirectoryLock::acquire(state_dir)?;
    /// assert_eq!(DirectoryLock::holder(state_dir)?, Some(std::process::id()));
    /// assert!(matches!(DirectoryLock::acquire(state_dir), Err(Error::InUse { pid: Some(_), .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InUse`] where another process holds it.
    pub fn acquire(state_dir: &Path) -> Result<Self> {
        let state_dir = &directory::prepare(state_dir)?;
        // Somebody who only looks whether the lock is held has it for a moment.
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            if let Some(mut lock) = Self::try_acquire(state_dir)? {
                let path = state_dir.join(LOCK_FILE);
                lock.file.set_permissions(private_file()).map_err(Error::io("set the mode of", &path))?;
                lock.file.set_len(0).map_err(Error::io("write", &path))?;
                writeln!(lock.file, "{}", std::process::id()).map_err(Error::io("write", &path))?;
                return Ok(lock);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Error::InUse { path: state_dir.to_path_buf(), pid: holder(state_dir) })
    }

    /// The pid of the live process that holds the directory; `None` where none does.
    pub fn holder(state_dir: &Path) -> Result<Option<u32>> {
        let path = state_dir.join(LOCK_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        // Shared: those who look do not take each other for a holder.
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(holder(state_dir)),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    fn try_acquire(state_dir: &Path) -> Result<Option<Self>> {
        let path = state_dir.join(LOCK_FILE);
        if is_link(&path) {
            let source = std::io::Error::other("it is a link");
            return Err(Error::Io { action: "lock", path, source });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Only so that nobody reads the pid of a process that is gone; the lock is freed either way.
        let _ = self.file.set_len(0);
    }
}

/// What the lock file says.
fn holder(state_dir: &Path) -> Option<u32> {
    fs::read_to_string(state_dir.join(LOCK_FILE)).ok()?.trim().parse().ok()
}
