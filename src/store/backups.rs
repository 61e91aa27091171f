//! Backups of a store.

use std::path::Path;
use std::time::Duration;

use super::options::StoreOptions;
use super::state_store::StateStore;
use crate::backup::{self, Backup, BackupVerdict, Present, RestoreReport, Retention, RetentionReport};
use crate::error::{Error, Result};
use crate::rows::{checkpoint, run};

/// The backups of a state: [`StateStore::backups`].
pub struct Backups<'s> {
    store: &'s StateStore,
}

impl StateStore {
    /// The backups of this state: making, listing, verifying, restoring and removing them.
    pub fn backups(&self) -> Backups<'_> {
        Backups { store: self }
    }

    /// Opens the state as a backup holds it. Where the database can be opened, this is [`open_with`](Self::open_with) and
    /// [`restore`](Backups::restore). It also goes back where the database cannot be opened: because it is gone,
    /// was upgraded by a newer release, its migration history or itself is damaged, or its upgrade fails. Such a one lies in
    /// a safety backup first, or its files are set aside, and it is replaced whole: runs, checkpoints and records set aside
    /// are then those of the backup.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// let backup = store.backups().create("good")?;
    /// drop(store);
    /// std::fs::remove_file(state_dir.join(DATABASE_FILE)).unwrap();
    /// let (store, report) = StateStore::open_restored(state_dir, &backup.id, StoreOptions::default())?;
    /// assert!(store.task("T-1")?.is_some());
    /// assert_eq!(report.safety_backup, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As both; [`Error::InUse`] where another process's service works on a database that this release cannot open.
    pub fn open_restored(
        state_dir: impl AsRef<Path>,
        id: &str,
        options: StoreOptions,
    ) -> Result<(Self, RestoreReport)> {
        let state_dir = state_dir.as_ref();
        // A mistyped id must not make anything.
        backup::find(state_dir, id)?;
        let opened = Self::migration_status(state_dir).and_then(|status| {
            if !status.pending.is_empty() {
                // Before the database is upgraded for the sake of a backup that cannot be used.
                let verdict = backup::verify_backups(state_dir, Some(id), &options.progress)?.remove(0);
                if !verdict.ok {
                    return Err(Error::BackupDamaged { id: verdict.id, problems: verdict.problems });
                }
            }
            Self::open_with(state_dir, options.clone())
        });
        let report = match opened {
            Ok(store) => return store.backups().restore(id).map(|report| (store, report)),
            Err(error) => {
                backup::restore_whole(state_dir, id, options.clock.now(), &options.progress, &Present::of(error)?)?
            }
        };
        Ok((Self::open_with(state_dir, options)?, report))
    }
}

impl Backups<'_> {
    /// Makes a backup in `backups/`: the state as it is in one moment, complete in one file, checked, on the disk. Others
    /// may write meanwhile.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// let backup = store.backups().create("before the upgrade")?;
    /// assert!(backup.id.ends_with("-before-the-upgrade"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn create(&self, label: &str) -> Result<Backup> {
        backup::create(self.store.state_dir(), label, self.store.now(), &self.store.options().progress)
    }

    /// The backups in `backups/`, newest first; state documents that the TypeScript service kept there among them.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// let backup = store.backups().create("now")?;
    /// assert_eq!(store.backups().list()?, [backup]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn list(&self) -> Result<Vec<Backup>> {
        backup::list_backups(self.store.state_dir())
    }

    /// Verifies one backup, or all of them, newest first: its checksum, SQLite's integrity and references, that it is a
    /// state database of a schema that this release knows, that nothing which this program made in it was changed, and that every
    /// entity can be read. What a person added to the database is no matter. Of a state document: that it can be read.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// let backup = store.backups().create("now")?;
    /// assert!(store.backups().verify(Some(&backup.id))?[0].ok);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BackupNotFound`] where there is no backup with that id. What is wrong with a backup is no error.
    pub fn verify(&self, id: Option<&str>) -> Result<Vec<BackupVerdict>> {
        backup::verify_backups(self.store.state_dir(), id, &self.store.options().progress)
    }

    /// Goes back to a backup: verifies it, makes a safety backup of the present state, and replaces the state in one
    /// transaction, under others who read. Killed at any point, it leaves the old state or the new.
    ///
    /// A backup of an older schema is upgraded in a copy first; a state document is imported. The history of runs and
    /// checkpoints, the restart count and records set aside do not go back; a checkpoint `error_recovery` is recorded. Nor does what
    /// somebody added to the database: tables of their own keep their rows, and columns that the backup lacks their values.
    ///
    /// ```
    /// use agentmux_state::{Error, StateStore, TaskState};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = StateStore::open(dir.path())?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// let backup = store.backups().create("good")?;
    /// store.remove_task("T-1")?;
    /// store.backups().restore(&backup.id)?;
    /// assert!(store.task("T-1")?.is_some());
    /// assert!(matches!(store.backups().restore("no-such-backup"), Err(Error::BackupNotFound { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BackupNotFound`], [`Error::BackupDamaged`], [`Error::SchemaTooNew`]: the state is as it was.
    pub fn restore(&self, id: &str) -> Result<RestoreReport> {
        let store = self.store;
        let own_run = |conn: &rusqlite::Connection| if store.is_running() { run::open(conn) } else { Ok(None) };
        backup::restore(store.database(), store.state_dir(), id, store.now(), &store.options().progress, &own_run)
    }

    /// Removes the backups that no rule keeps. The newest one that can be trusted always stays; files that are no backups
    /// are not touched. With `dry_run`, nothing is removed.
    ///
    /// ```
    /// use agentmux_state::Retention;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// for label in ["one", "two", "three"] {
    ///     store.backups().create(label)?;
    /// }
    /// let report = store.backups().prune(&Retention::default().last(2), false)?;
    /// assert_eq!((report.removed.len(), report.kept.len()), (1, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn prune(&self, retention: &Retention, dry_run: bool) -> Result<RetentionReport> {
        backup::prune(self.store.state_dir(), retention, self.store.now(), dry_run)
    }

    /// Whether the newest backup is older than that, and something was checkpointed since. Backups from the future, as a clock that
    /// was wrong leaves them, do not count: they neither put off the next one nor ask for another at each checkpoint.
    pub(crate) fn is_due(&self, interval: Duration) -> Result<bool> {
        let Some(checkpoint) = self.store.read(checkpoint::last)? else { return Ok(false) };
        backup::is_due(self.store.state_dir(), interval, &checkpoint, self.store.now())
    }
}
