//! The process that owns the state directory: one at a time, by a lock that the kernel frees when the process dies.
//!
//! The lock is on the file `service.lock`. Its content names the holder: the process id, the role, the host name, and what
//! identifies the process also where two containers both call it process 1. Older releases wrote the first two lines only.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::file_id::FileId;
use super::files::{create_directory, private_file, resolve};
use super::names::{DATABASE_FILE, LOCK_FILE};
use crate::error::{Error, Result};
use crate::model::Run;

/// How long to wait for a holder that only looks whether the lock is held, or has not written its process id yet.
const LOOKER_PATIENCE: Duration = Duration::from_millis(200);

/// How long to wait for a command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(600);

/// Holds a state directory for this process: no service of another process starts on it until this is dropped, or the
/// process dies.
///
/// [`StatePersistenceService`](crate::StatePersistenceService) takes it by itself.
#[derive(Debug)]
pub struct DirectoryLock {
    path: PathBuf,
    file: File,
    id: FileId,
    /// Whether it is a command's, which made the file: then the file goes with it.
    is_temporary: bool,
}

/// The lock files that this process holds. A process id does not tell: two containers may both have a process 1.
static HELD: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

/// What a process holds the directory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is about to run a service, or holds the directory for a purpose of its own.
    Owner,
    /// A service that has started its run.
    Service,
    /// A command that is soon done.
    Command,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "",
            Self::Service => "service",
            Self::Command => "command",
        }
    }
}

/// The holder of a state directory, as far as its lock file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process id, in its own container; `None` where it has not written it.
    pub pid: Option<u32>,
    /// Its host name; `None` where an older release wrote the file.
    pub hostname: Option<String>,
    role: String,
    /// Identity of the process on its machine and across containers; `None` where an older release wrote the file.
    process: Option<String>,
}

impl LockHolder {
    /// Whether it may be the process of a run.
    pub fn is_process_of(&self, run: &Run) -> bool {
        let is_same_host = self.hostname.as_ref().is_none_or(|hostname| *hostname == run.hostname);
        // Older releases wrote no role for a service.
        let is_service = self.role == Role::Service.as_str() || self.role.is_empty() && self.process.is_none();
        is_service && is_same_host && self.pid.map(i64::from) == Some(run.pid)
    }

    /// Whether it works on the database of the state directory. It does not where the database was moved, replaced or deleted
    /// under it. `None` where that cannot be seen: of a process in another container or of another user, and of one that is
    /// no service.
    ///
    /// ```
    /// use agentmux_state::{DirectoryLock, StatePersistenceService};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let service = StatePersistenceService::new(Some(dir.path()));
    /// service.initialize()?;
    /// let holder = DirectoryLock::find_holder(service.state_dir())?.unwrap();
    /// assert_ne!(holder.works_on_database(service.state_dir()), Some(false));
    /// # Ok(())
    /// # }
    /// ```
    pub fn works_on_database(&self, state_dir: &Path) -> Option<bool> {
        let namespace = |process: &str| process.split(" started ").next().map(str::to_owned);
        let is_here = self.process.as_deref().and_then(namespace) == namespace(&THIS_PROCESS);
        if !is_here || self.role != Role::Service.as_str() {
            return None;
        }
        let Some(file) = FileId::at(&state_dir.join(DATABASE_FILE)).ok()? else { return Some(false) };
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid?)).ok()?.flatten();
        Some(open.filter_map(|entry| fs::metadata(entry.path()).ok()).any(|metadata| FileId::of(&metadata) == file))
    }

    fn is_command(&self) -> bool {
        self.role == Role::Command.as_str()
    }
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
        Self::acquire_as(Role::Owner, state_dir)
    }

    /// Takes the directory for a command that is soon done, such as an upgrade: a service or another command that comes
    /// meanwhile waits for it, up to ten minutes, and is not refused.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_for_command(state_dir: &Path) -> Result<Self> {
        Self::acquire_as(Role::Command, state_dir)
    }

    fn acquire_as(role: Role, state_dir: &Path) -> Result<Self> {
        create_directory(state_dir)?;
        let state_dir = &resolve(state_dir)?;
        let mut seen = None;
        loop {
            if let Some(lock) = Self::try_acquire(role, state_dir)? {
                lock.file.set_permissions(private_file()).map_err(Error::io("set the mode of", &lock.path))?;
                lock.write(role)?;
                return Ok(lock);
            }
            let holder = read_holder(state_dir)?;
            // It has changed hands, or this is the first look.
            if seen.as_ref().is_none_or(|(_, before)| *before != holder) {
                seen = Some((Instant::now(), holder));
            }
            let Some((since, holder)) = &seen else { continue };
            let patience = if holder.is_command() { COMMAND_PATIENCE } else { LOOKER_PATIENCE };
            if since.elapsed() > patience {
                return Err(Error::InUse { path: state_dir.clone(), pid: holder.pid });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process id of the live process that holds the directory; `None` where none does.
    ///
    /// # Errors
    /// [`Error::InUse`] where one holds it and has not written its process id.
    pub fn holder(state_dir: &Path) -> Result<Option<u32>> {
        match Self::find_holder(state_dir)? {
            None => Ok(None),
            Some(LockHolder { pid: None, .. }) => Err(Error::InUse { path: state_dir.to_path_buf(), pid: None }),
            Some(holder) => Ok(holder.pid),
        }
    }

    /// The live process that holds the directory; `None` where none does.
    ///
    /// ```
    /// use agentmux_state::DirectoryLock;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// assert_eq!(DirectoryLock::find_holder(state_dir)?, None);
    /// let held = DirectoryLock::acquire(state_dir)?;
    /// assert_eq!(DirectoryLock::find_holder(state_dir)?.unwrap().pid, Some(std::process::id()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn find_holder(state_dir: &Path) -> Result<Option<LockHolder>> {
        let path = state_dir.join(LOCK_FILE);
        let deadline = Instant::now() + LOOKER_PATIENCE;
        loop {
            let Some(file) = open(&path, OpenOptions::new().read(true))? else { return Ok(None) };
            // Shared: two looks do not take each other for a holder.
            match file.try_lock_shared() {
                Ok(()) => return Ok(None),
                Err(TryLockError::WouldBlock) => {
                    let holder = parse_holder(&file);
                    // It may be about to write its process id, or about to end.
                    if holder.pid.is_some() || Instant::now() > deadline {
                        return Ok(Some(holder));
                    }
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            }
            drop(file);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails where a service of another process holds the directory.
    pub(crate) fn refuse_other_service(state_dir: &Path) -> Result<()> {
        let Some(holder) = Self::find_holder(state_dir)? else { return Ok(()) };
        let is_held_here = FileId::at(&state_dir.join(LOCK_FILE))?.is_some_and(|file| lock(&HELD).contains(&file));
        if is_held_here || holder.is_command() {
            return Ok(());
        }
        Err(Error::InUse { path: state_dir.to_path_buf(), pid: holder.pid })
    }

    /// Whether the lock file is still the one that is locked.
    pub(crate) fn is_in_place(&self) -> bool {
        FileId::at(&self.path).is_ok_and(|found| found == Some(self.id))
    }

    /// The lock file, and what identifies it while it is held.
    pub(crate) fn file(&self) -> (&Path, FileId) {
        (&self.path, self.id)
    }

    /// Writes into the lock file that the service has started its run.
    pub(crate) fn note_run(&self) -> Result<()> {
        self.write(Role::Service)
    }

    fn try_acquire(role: Role, state_dir: &Path) -> Result<Option<Self>> {
        let path = state_dir.join(LOCK_FILE);
        let is_new = fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let Some(file) = open(&path, &mut options)? else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
        let id = FileId::of(&file.metadata().map_err(Error::io("read", &path))?);
        if FileId::at(&path)? != Some(id) {
            // Deleted between opening and locking: others lock another file.
            return Ok(None);
        }
        lock(&HELD).push(id);
        Ok(Some(Self { path, file, id, is_temporary: is_new && role == Role::Command }))
    }

    /// Writes the holder. The process id first and in one piece: others read while this writes.
    fn write(&self, role: Role) -> Result<()> {
        let hostname = gethostname::gethostname();
        let hostname = hostname.to_string_lossy().replace('\n', " ");
        let content = format!("{}\n{}\n{hostname}\n{}\n", std::process::id(), role.as_str(), *THIS_PROCESS);
        let written = self.file.write_all_at(content.as_bytes(), 0);
        written.and_then(|()| self.file.set_len(content.len() as u64)).map_err(Error::io("write", &self.path))
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        let mut held = lock(&HELD);
        if let Some(index) = held.iter().position(|id| *id == self.id) {
            held.swap_remove(index);
        }
        if self.is_temporary && self.is_in_place() {
            // Before the lock is freed: whoever has opened the file meanwhile finds that it is gone, and makes another one.
            let _ = fs::remove_file(&self.path);
        }
        if self.is_temporary && self.is_in_place() {
            // Before the lock is freed: whoever has opened the file meanwhile finds that it is gone, and makes another one.
            let _ = fs::remove_file(&self.path);
        }
        // Only so that nobody reads the pid of a process that is gone; the lock is freed either way.
        let _ = self.file.set_len(0);
    }
}

/// What identifies this process across containers and restarts of the machine: boot, PID namespace and start time.
static THIS_PROCESS: LazyLock<String> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold anything.
    let started = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or("0").to_owned();
    format!("boot {} pid-namespace {namespace} started {started}", boot.trim())
});

/// Whether a process still holds the lock file of a directory, though the file was deleted.
pub(crate) fn holds_deleted_lock(pid: i64, state_dir: &Path) -> bool {
    let mut deleted = state_dir.join(LOCK_FILE).into_os_string();
    deleted.push(" (deleted)");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.as_os_str() == deleted)
}

/// Opens the lock file, never through a link, and never another kind of thing; `None` where it is missing.
fn open(path: &Path, options: &mut OpenOptions) -> Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    match options.custom_flags(flags).open(path) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Ok(Some(file)),
        Ok(_) => Err(Error::io("lock", path)(io::Error::other("it is not a regular file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Err(Error::io("lock", path)(io::Error::other("it is a link")))
        }
        Err(error) => Err(Error::io("open", path)(error)),
    }
}

/// What the lock file says.
fn read_holder(state_dir: &Path) -> Result<LockHolder> {
    let file = open(&state_dir.join(LOCK_FILE), OpenOptions::new().read(true))?;
    Ok(file.as_ref().map(parse_holder).unwrap_or_else(|| parse("")))
}

fn parse_holder(file: &File) -> LockHolder {
    const LONGEST: u64 = 4096;
    let mut content = Vec::new();
    // What cannot be read says nothing.
    let _ = file.take(LONGEST).read_to_end(&mut content);
    parse(&String::from_utf8_lossy(&content))
}

fn parse(content: &str) -> LockHolder {
    let mut lines = content.lines().map(str::trim);
    let pid = lines.next().and_then(|line| line.parse().ok());
    let role = lines.next().unwrap_or_default().to_owned();
    let mut next = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    LockHolder { pid, role, hostname: next(), process: next() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_releases_wrote_is_read() {
        let holder = |pid, role: &str, hostname: Option<&str>, process: Option<&str>| LockHolder {
            pid,
            role: role.into(),
            hostname: hostname.map(Into::into),
            process: process.map(Into::into),
        };
        assert_eq!(parse("4711\n"), holder(Some(4711), "", None, None));
        assert_eq!(parse("4711\ncommand"), holder(Some(4711), "command", None, None));
        assert_eq!(parse(""), holder(None, "", None, None));
        let now = "1\nservice\nhost-1\nboot x pid-namespace 7 started 9\n";
        assert_eq!(parse(now), holder(Some(1), "service", Some("host-1"), Some("boot x pid-namespace 7 started 9")));
    }
}
