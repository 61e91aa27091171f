//! Who holds the state directory: one live process, by a lock that the kernel frees when the process dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::directory::{self, is_link, private_file};
use crate::error::{Error, Result};

const LOCK_FILE: &str = "service.lock";
/// The role of who is soon done.
const COMMAND: &str = "command";

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
    /// [`Error::InUse`] where another process holds it; at once where that is a service, after ten minutes where it is
    /// a command.
    pub fn acquire(state_dir: &Path) -> Result<Self> {
        Self::acquire_as("", state_dir)
    }

    /// Takes the directory for a command that is soon done, such as an upgrade: a service or another command that comes
    /// meanwhile waits for it, up to ten minutes, and is not refused.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_for_command(state_dir: &Path) -> Result<Self> {
        Self::acquire_as(COMMAND, state_dir)
    }

    fn acquire_as(role: &str, state_dir: &Path) -> Result<Self> {
        // Somebody who only looks whether the lock is held has it for a moment; so has somebody who has not said yet who it is.
        const LOOKER_PATIENCE: Duration = Duration::from_millis(200);
        const COMMAND_PATIENCE: Duration = Duration::from_secs(600);
        let state_dir = &directory::prepare(state_dir)?;
        let path = state_dir.join(LOCK_FILE);
        let mut seen = (Instant::now(), holder(state_dir));
        loop {
            if let Some(mut lock) = Self::try_acquire(state_dir)? {
                lock.file.set_permissions(private_file()).map_err(Error::io("set the mode of", &path))?;
                lock.file.set_len(0).map_err(Error::io("write", &path))?;
                let content = format!("{}\n{role}", std::process::id());
                lock.file.write_all(content.as_bytes()).map_err(Error::io("write", &path))?;
                return Ok(lock);
            }
            let holder = holder(state_dir);
            if holder != seen.1 {
                // It has changed hands.
                seen = (Instant::now(), holder);
            }
            let (since, (pid, role)) = &seen;
            let patience = if role == COMMAND { COMMAND_PATIENCE } else { LOOKER_PATIENCE };
            if since.elapsed() > patience {
                return Err(Error::InUse { path: state_dir.to_path_buf(), pid: *pid });
            }
            thread::sleep(Duration::from_millis(20));
        }
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
            Err(TryLockError::WouldBlock) => Ok(holder(state_dir).0),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    /// Fails where a service of another process holds the directory.
    pub(crate) fn refuse_other_service(state_dir: &Path) -> Result<()> {
        let Some(pid) = Self::holder(state_dir)? else { return Ok(()) };
        if pid == std::process::id() || holder(state_dir).1 == COMMAND {
            return Ok(());
        }
        Err(Error::InUse { path: state_dir.to_path_buf(), pid: Some(pid) })
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

/// What the lock file says: the process, and what it is where it is no service.
fn holder(state_dir: &Path) -> (Option<u32>, String) {
    let content = fs::read_to_string(state_dir.join(LOCK_FILE)).unwrap_or_default();
    let (pid, role) = content.split_once('\n').unwrap_or((&content, ""));
    (pid.trim().parse().ok(), role.trim().to_owned())
}
