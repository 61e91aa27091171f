//! The store itself: opening it, batches, and what its other files build on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction};

use super::batch::Batch;
use super::options::StoreOptions;
use super::upgrade::{self, Upgrade};
use crate::db::{Database, Interrupt, Work, refuse_foreign, refuse_other_program};
use crate::error::{Error, Result};
use crate::model::Run;
use crate::rows::run;
use crate::state_dir::{self, DATABASE_FILE, DirectoryLock};

/// The state of an orchestrator in its database.
///
/// Clones share one database. Writes take turns; reads run beside them and see one moment each.
///
/// ```
/// use agentmux_state::{StateStore, TaskState, TaskStatus};
///
/// # fn main() -> agentmux_state::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let state_dir = dir.path();
/// let store = StateStore::open(state_dir)?;
/// let mut task = TaskState { id: "T-1".into(), title: "Fix the build".into(), ..TaskState::default() };
/// store.update_task(&task)?; // on the disk
/// task.status = TaskStatus::InProgress;
/// store.update_task(&task)?; // one column of one row
/// assert_eq!(store.task("T-1")?, Some(task));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<Inner>,
    /// Ends the reads through this clone.
    interrupt: Option<Interrupt>,
}

struct Inner {
    state_dir: PathBuf,
    database: Database,
    options: StoreOptions,
    upgrade: Option<Upgrade>,
    /// Whether a service has started a run on this store.
    runs: AtomicBool,
}

impl StateStore {
    /// Opens the state in a state directory; makes the directory and the database where they are missing, and upgrades
    /// the database where it is behind, after a verified backup.
    ///
    /// # Errors
    /// [`Error::NotAStateDatabase`], [`Error::SchemaTooNew`], [`Error::HistoryDamaged`] and [`Error::Corrupt`] leave the
    /// file as it was. [`Error::SharedMount`] where [`StoreOptions::shared_mounts`] says so.
    pub fn open(state_dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(state_dir, StoreOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let options = StoreOptions::default().message_limit(200).durability(Durability::Normal);
    /// let store = StateStore::open_with(state_dir, options)?;
    /// assert!(store.state()?.tasks.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_with(state_dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        options.shared_mounts.refuse(state_dir.as_ref())?;
        refuse_foreign(&state_dir.as_ref().join(DATABASE_FILE))?;
        let state_dir = state_dir::prepare(state_dir.as_ref())?;
        options.shared_mounts.warn(&state_dir);
        let (mut database, upgrade) = upgrade::open(&state_dir, &options)?;
        database.set_write_timeout(options.write_timeout);
        Ok(Self::with(Inner { state_dir, database, options, upgrade, runs: AtomicBool::new(false) }))
    }

    /// Opens an existing state for reading only; makes and changes nothing.
    ///
    /// ```
    /// use agentmux_state::{Error, StateStore};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// assert!(matches!(StateStore::open_read_only(state_dir), Err(Error::NoDatabase { .. })));
    /// ```
    ///
    /// # Errors
    /// [`Error::NoDatabase`] where there is none, [`Error::SchemaOutdated`] where an upgrade is due.
    pub fn open_read_only(state_dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_read_only_with(state_dir, StoreOptions::default())
    }

    /// As [`open_read_only`](Self::open_read_only), with options.
    pub fn open_read_only_with(state_dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let state_dir = existing(state_dir.as_ref())?;
        let database = Database::open_read_only(&state_dir.join(DATABASE_FILE), options.max_readers)?;
        Ok(Self::with(Inner { state_dir, database, options, upgrade: None, runs: AtomicBool::new(false) }))
    }

    /// Holds a state directory for a command that no service may run beside, such as an upgrade. Nothing is made where the
    /// database there is another program's.
    ///
    /// # Errors
    /// [`Error::InUse`] while a service runs; [`Error::NotAStateDatabase`].
    pub fn lock_for_command(state_dir: impl AsRef<Path>) -> Result<DirectoryLock> {
        refuse_other_program(&state_dir.as_ref().join(DATABASE_FILE))?;
        DirectoryLock::acquire_for_command(state_dir.as_ref())
    }

    /// The same store, whose reads another thread can end: a long list, a search, an export. Writes are not affected, nor are
    /// reads through other clones.
    ///
    /// ```
    /// use agentmux_state::{Error, Interrupt, StateStore};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let interrupt = Interrupt::new();
    /// let store = StateStore::open(dir.path())?.interruptible(&interrupt);
    /// assert!(store.state().is_ok());
    /// interrupt.interrupt(); // as another thread would
    /// assert!(matches!(store.state(), Err(Error::Interrupted { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn interruptible(&self, interrupt: &Interrupt) -> Self {
        Self { interrupt: Some(interrupt.clone()), ..self.clone() }
    }

    /// The state directory, absolute and without links.
    pub fn state_dir(&self) -> &Path {
        &self.inner.state_dir
    }

    /// Makes several changes in one transaction: all of them are on the disk when this returns `Ok`, or none happened.
    ///
    /// ```
    /// use agentmux_state::{AgentState, Error, StateStore, TaskState};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = StateStore::open(dir.path())?;
    /// store.batch(|batch| {
    ///     batch.update_task(&TaskState { id: "T-1".into(), assigned_to: Some("dev-1".into()), ..Default::default() })?;
    ///     batch.update_agent(&AgentState { session_name: "dev-1".into(), ..Default::default() })?;
    ///     Ok::<_, Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// Other writes wait until the closure is done. A write of the store from inside the closure fails with
    /// [`Error::NestedWrite`]; reads of the store see the state before the batch.
    ///
    /// # Errors
    /// The closure's own, and those of its changes. Where SQLite rolls the transaction back during the closure, as it does on a full
    /// disk, that failure: every further change of the batch fails with it, and so does the batch, whatever the closure returns.
    pub fn batch<T, E>(&self, work: impl FnOnce(&Batch<'_>) -> Result<T, E> + Send) -> Result<T, E>
    where
        T: Send,
        E: From<Error> + Send,
    {
        self.write_in_group(Work::Unknown, work)
    }

    fn write_in_group<T, E: From<Error>>(
        &self,
        length: Work,
        work: impl FnOnce(&Batch<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.inner.database.write_in_group(length, |part| {
            let batch = Batch::new(part, &self.inner.database, self.options().message_limit);
            batch.ensure_head(self.now())?;
            work(&batch)
        })
    }

    fn with(inner: Inner) -> Self {
        Self { inner: Arc::new(inner), interrupt: None }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.inner.options
    }

    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.end_where_interrupted(|watch| self.inner.database.read(|conn| watch.run(conn, work)))
    }

    /// As [`read`](Self::read), on a connection of its own: for reads of everything, which would occupy one of the readers.
    pub(super) fn read_all<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.end_where_interrupted(|watch| self.inner.database.read_on_own_connection(|conn| watch.run(conn, work)))
    }

    fn end_where_interrupted<T>(&self, read: impl FnOnce(Watch<'_>) -> Result<T>) -> Result<T> {
        let is_interrupted = || self.interrupt.as_ref().is_some_and(Interrupt::is_interrupted);
        let interrupted = || Error::Interrupted { path: self.database().path().to_path_buf() };
        if is_interrupted() {
            return Err(interrupted());
        }
        read(Watch(self.interrupt.as_ref())).map_err(|error| match error {
            Error::Sqlite { .. } | Error::Stream { .. } if is_interrupted() => interrupted(),
            other => other,
        })
    }

    /// A write transaction of this library's own, which gives the state no head.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.inner.database.transaction(work)
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.inner.options.clock.now()
    }

    /// From now on, the open run is that of this store's service.
    pub(crate) fn set_running(&self) {
        self.inner.runs.store(true, Ordering::Release);
    }

    pub(super) fn upgrade(&self) -> Option<&Upgrade> {
        self.inner.upgrade.as_ref()
    }

    /// Whether a service has started a run on this store.
    pub(crate) fn is_running(&self) -> bool {
        self.inner.runs.load(Ordering::Acquire)
    }

    /// The run of this store's service.
    pub(crate) fn own_run(&self, conn: &Connection) -> Result<Option<Run>> {
        if self.is_running() { run::open(conn) } else { Ok(None) }
    }

    /// One change of this library's own, which takes no time worth waiting for.
    pub(super) fn write<T>(&self, work: impl FnOnce(&Batch<'_>) -> Result<T>) -> Result<T> {
        self.write_in_group(Work::Short, work)
    }
}

/// What watches a read, where anything does.
struct Watch<'i>(Option<&'i Interrupt>);

impl Watch<'_> {
    fn run<T>(self, conn: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        match self.0 {
            Some(interrupt) => interrupt.watch(conn, || work(conn)),
            None => work(conn),
        }
    }
}

/// The absolute path of a state directory that exists.
pub(super) fn existing(state_dir: &Path) -> Result<PathBuf> {
    if !state_dir.is_dir() {
        return Err(Error::NoDatabase { path: state_dir.join(DATABASE_FILE) });
    }
    state_dir::resolve(state_dir)
}
